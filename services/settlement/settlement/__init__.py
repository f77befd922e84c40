"""The settlement service: splits an order's money, instructs the bank once, and says what became of it."""
