"""The callback log as pages, rendered here: no script, nothing inline, nothing from elsewhere."""
