"""order-core: the one owner of an order's state."""
