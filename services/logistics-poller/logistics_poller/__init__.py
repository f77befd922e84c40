"""The logistics-poller: has shipments made, follows their parcels, tells a printed label from a pickup."""
