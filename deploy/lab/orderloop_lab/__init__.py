"""OrderLoop on one machine: real PostgreSQL, Kafka and Valkey, a simulated outside world, and every service."""
