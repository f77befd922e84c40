"""The catalogue of metrics that every service has. A service's own stand in its own metrics module."""

from prometheus_client import Counter, Gauge, Histogram

# Seconds; from one cheap statement to a retry that waits.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

CONSUMED = Counter("orderloop_consumed_total", "Events taken from Kafka and settled", ["topic", "group"])
DEAD_LETTERS = Counter("orderloop_dead_letters_total", "Records parked because they can never work", ["topic", "group"])
BATCH_SIZE = Histogram(
    "orderloop_batch_events", "Events applied in one transaction", ["group"], buckets=(1, 2, 5, 10, 50, 100, 250, 500)
)
BATCH_SECONDS = Histogram("orderloop_batch_seconds", "From poll to commit of one batch", ["group"], buckets=_SECONDS)
BATCH_RETRIES = Counter(
    "orderloop_batch_retries_total", "Batches tried again because the infrastructure failed", ["group"]
)
FUSE_BLOWN = Gauge("orderloop_fuse_blown", "1 while a consumer has stopped because it parked too much", ["group"])

PUBLISHED = Counter("orderloop_outbox_published_total", "Outbox rows acknowledged by Kafka", ["topic"])
PUBLISH_SECONDS = Histogram(
    "orderloop_outbox_publish_seconds", "From reading a batch of rows to its deletion", buckets=_SECONDS
)
RELAY_LEADS = Gauge("orderloop_outbox_relay_leads", "1 while this process publishes the outbox")
OUTBOX_ROWS = Gauge("orderloop_outbox_rows", "Rows that wait to be published, parked orders' left out; 100,000 at most")
OUTBOX_AGE = Gauge("orderloop_outbox_age_seconds", "For how long the oldest of these rows has been seen to wait")
OUTBOX_PARKED = Gauge("orderloop_outbox_parked_orders", "Orders whose next event the broker refused for good")

TASK_ERRORS = Counter(
    "orderloop_task_errors_total", "Runs of a periodic job that failed and will be repeated", ["task"]
)
