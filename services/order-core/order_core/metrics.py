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
