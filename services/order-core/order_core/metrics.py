"""order-core's own metrics; what every service has stands in orderloop.metrics."""

from prometheus_client import Counter, Gauge

CALLBACK_HOLDS_OFF = Gauge(
    "orderloop_callback_holds_off", "1 while no payment-callback is named: callbacks that open anomalies cite expire"
)
CALLBACK_HOLDS_MISSING = Gauge(
    "orderloop_callback_holds_missing",
    "Orders whose callbacks an open anomaly cites and nobody holds yet",
)
CALLBACK_HOLD_ERRORS = Counter(
    "orderloop_callback_hold_errors_total", "Holds that could not be placed or released, and will be tried again"
)

FORGOTTEN = Counter(
    "orderloop_forgotten_total", "Rows and months of orders that were old and have been removed", ["what"]
)
MONTHS_KEPT = Gauge("orderloop_retention_kept_months", "Months of orders that are old enough to go and could not yet")
RETENTION_AT = Gauge("orderloop_retention_timestamp_seconds", "When retention last went through")
