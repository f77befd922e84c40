"""Couriers: one file each. What their codes mean stands in the table at the top of their file."""
