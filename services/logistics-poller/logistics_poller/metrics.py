"""The metrics of logistics-poller; those that every service has stand in orderloop.metrics."""

from prometheus_client import Counter, Gauge, Histogram

ASKS = Counter(
    "orderloop_courier_asks_total",
    "Asks by who was asked and what came: track, nothing_yet, or the trouble",
    ["courier", "outcome"],
)
ASK_SECONDS = Histogram("orderloop_courier_ask_seconds", "Duration of one ask", ["courier"])
BREAKER_OPEN = Gauge("orderloop_courier_breaker_open", "1 while a courier is left alone after failures", ["courier"])
POLL_FAILURES = Counter("orderloop_poll_failures_total", "Parcels whose poll failed for a reason of our own")
POLL_LAG = Histogram(
    "orderloop_poll_lag_seconds",
    "From the moment a parcel was due to the moment it was claimed",
    buckets=(0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800),
)
PICKUPS = Counter("orderloop_pickups_total", "Pickups detected", ["source"])
FINDINGS = Counter("orderloop_parcel_findings_total", "Parcels that fell silent or were given up", ["finding"])
OUTBOUND = Counter("orderloop_wms_outbound_total", "Calls to the warehouse by outcome", ["outcome"])
SNAPSHOT_ERRORS = Counter("orderloop_snapshot_errors_total", "Redis calls that failed and were done without")
