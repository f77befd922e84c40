"""Why do callbacks not arrive? Looks at the notify URL as the channel would, and says what stands in the way."""
