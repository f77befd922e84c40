"""Settlement's own metrics; what every service has stands in orderloop.metrics."""

from prometheus_client import Counter, Gauge, Histogram

BANK_SECONDS = Histogram(
    "orderloop_bank_call_seconds",
    "Calls to the bank by step (send, ask) and by what was heard",
    ["step", "heard"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30),
)
RESULTS = Counter("orderloop_settlement_results_total", "Status changes told to order-core", ["status"])
OPEN = Gauge("orderloop_settlement_open", "Settlements that are not final, by status", ["status"])
OLDEST = Gauge(
    "orderloop_settlement_oldest_open_seconds", "Age of the oldest settlement that is not final, by status", ["status"]
)
