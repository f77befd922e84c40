"""The catalogue of payment-callback's own metrics."""

from prometheus_client import Counter, Gauge, Histogram

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

ASKED = Histogram(
    "orderloop_channel_call_seconds",
    "Calls to a channel's API by what was wanted",
    ["channel", "call"],
    buckets=_SECONDS,
)
ERRANDS = Gauge("orderloop_channel_errands_open", "Closes and refunds whose outcome is not known", ["kind"])
OLDEST_ERRAND = Gauge("orderloop_channel_errand_oldest_seconds", "Age of the oldest of them", ["kind"])
# Counted from the table at every look, so that no restart forgets a failed callback; equal in every process.
MISSING = Gauge(
    "orderloop_callbacks_missing",
    "Payments whose callback had not come when the channel was asked, ever: a late or applied one stays counted",
    ["channel", "policy"],
)
FORGOTTEN = Counter(
    "orderloop_callback_forgotten_total", "Rows of the memory and finished errands beyond their days", ["what"]
)

# Nobody rings for these while they are not there: they exist where certificates are in use, and downloaded.
CERTIFICATE_ENDS = Gauge(
    "orderloop_platform_certificate_ends_timestamp_seconds", "notAfter of a platform certificate", ["channel", "serial"]
)
CERTIFICATES_DOWNLOADED = Gauge(
    "orderloop_platform_certificates_downloaded_timestamp_seconds",
    "When the channel last listed its platform certificates to any of our processes; 0: never",
    ["channel"],
)
DOWNLOADS = Counter(
    "orderloop_platform_certificate_downloads_total", "Downloads of platform certificates", ["channel", "result"]
)
