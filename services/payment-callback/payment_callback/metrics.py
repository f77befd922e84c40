"""The catalogue of payment-callback's own metrics."""

from prometheus_client import Counter, Histogram

# Seconds; the channel gives us 5.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5)

RECEIVED = Counter(
    "orderloop_callbacks_total",
    "Notifications by what we made of them; reason is empty unless refused or unstored",
    ["channel", "verdict", "reason"],
)
SECONDS = Histogram(
    "orderloop_callback_seconds", "From a callback's arrival to its answer", ["channel"], buckets=_SECONDS
)
BATCH = Histogram(
    "orderloop_callback_batch_notices", "Callbacks stored in one transaction", buckets=(1, 2, 5, 10, 20, 50, 100, 200)
)
UNLOGGED = Counter(
    "orderloop_callbacks_unlogged_total", "Refused callbacks beyond the log's budget: counted only", ["channel"]
)
