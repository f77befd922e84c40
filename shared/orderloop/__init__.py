"""What two or more OrderLoop services share: wire contracts and plumbing. No order rule, no service's SQL."""
