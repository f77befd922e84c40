"""The outside world: payment channel, couriers, warehouse, bank. Each is a process of its own and shares no code with
the services, so that a mistake in one of them cannot be agreed upon by both sides."""
