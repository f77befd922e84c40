"""payment-callback: what the payment channels tell us, verified and durably stored before it is answered."""
