"""The topics of the house. A topic's name is its CloudEvents type; a prefix is added on the wire only."""

PAYMENT_NOTIFIED = "orderloop.payment-notified.v1"
REFUND_NOTIFIED = "orderloop.refund-notified.v1"
WAYBILL_CREATED = "orderloop.waybill-created.v1"
PICKUP_DETECTED = "orderloop.pickup-detected.v1"
PARCEL_TRACKED = "orderloop.parcel-tracked.v1"
SETTLEMENT_RESULT = "orderloop.settlement-result.v1"
SHIPMENT_REQUESTED = "orderloop.shipment-requested.v1"
SETTLEMENT_REQUESTED = "orderloop.settlement-requested.v1"
CLOSE_REQUESTED = "orderloop.close-requested.v1"
CLOSE_RESULT = "orderloop.close-result.v1"
REFUND_REQUESTED = "orderloop.refund-requested.v1"
TRACKING_REQUESTED = "orderloop.tracking-requested.v1"
ANOMALY_RAISED = "orderloop.anomaly-raised.v1"
ORDER_CHANGED = "orderloop.order-changed.v1"

ALL = (
    PAYMENT_NOTIFIED,
    REFUND_NOTIFIED,
    WAYBILL_CREATED,
    PICKUP_DETECTED,
    PARCEL_TRACKED,
    SETTLEMENT_RESULT,
    SHIPMENT_REQUESTED,
    SETTLEMENT_REQUESTED,
    CLOSE_REQUESTED,
    CLOSE_RESULT,
    REFUND_REQUESTED,
    TRACKING_REQUESTED,
    ANOMALY_RAISED,
    ORDER_CHANGED,
)

# Equal for every topic: with the range assignor one worker then owns all topics of an order.
PARTITIONS = 12

# Producers whose event ids are facts of the house; any other producer's ids are qualified by their source.
HOUSE_SOURCES = frozenset({"/payment-callback", "/order-core", "/logistics-poller", "/settlement"})

# Which group reads what; dead-letter topics follow from it.
GROUPS: dict[str, tuple[str, ...]] = {
    "order-core": (
        PAYMENT_NOTIFIED,
        REFUND_NOTIFIED,
        WAYBILL_CREATED,
        PICKUP_DETECTED,
        PARCEL_TRACKED,
        SETTLEMENT_RESULT,
        CLOSE_RESULT,
        ANOMALY_RAISED,
    ),
    # order-changed first: an order is known to wait for its payment before it is asked to be closed
    "payment-callback": (ORDER_CHANGED, CLOSE_REQUESTED, REFUND_REQUESTED),
    "logistics-poller": (SHIPMENT_REQUESTED, WAYBILL_CREATED, TRACKING_REQUESTED),
    "settlement": (SETTLEMENT_REQUESTED,),
}


def dead_letters(topic: str, group: str) -> str:
    """Where `group` parks the records of `topic` that it cannot use."""
    return f"{topic}.{group}.dlq"


DEAD_LETTERS = tuple(dead_letters(topic, group) for group, topics in GROUPS.items() for topic in topics)
