from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from order_core.parcels import Parcel, all_delivered, followed, labelled
from orderloop.events import ParcelStatus, WaybillCreated
from tests.support.orders import NOW

ORDER_NO = "260122090000AAAAAAAAAAAA"


def label(waybill_no: str, *, parcel_count: int = 1) -> WaybillCreated:
    return WaybillCreated(
        order_no=ORDER_NO,
        shipment_id=f"{ORDER_NO}_S1",
        express_code="zto",
        waybill_no=waybill_no,
        warehouse="suzhou",
        parcel_count=parcel_count,
        created_at=NOW,
    )


def test_a_label_is_not_a_pickup() -> None:
    parcels = labelled({}, label("1"))

    assert parcels["zto", "1"].status is ParcelStatus.LABEL_PRINTED
    assert not all_delivered(parcels)


def test_an_order_without_a_parcel_has_not_arrived() -> None:
    assert not all_delivered({})


def test_an_announced_parcel_without_a_label_keeps_the_order_from_having_arrived() -> None:
    parcels = labelled({}, label("1", parcel_count=2))
    parcels = followed(parcels, ("zto", "1"), ParcelStatus.DELIVERED, NOW)

    assert not all_delivered(parcels)


scans = st.lists(st.tuples(st.sampled_from(ParcelStatus), st.integers(0, 90)), max_size=12)


@given(scans)
def test_once_delivered_always_delivered(story: list[tuple[ParcelStatus, int]]) -> None:
    parcels = labelled({}, label("1"))
    final: Parcel | None = None
    for status, hours in story:
        parcels = followed(parcels, ("zto", "1"), status, NOW + timedelta(hours=hours))
        if final is None and parcels["zto", "1"].status in {ParcelStatus.DELIVERED, ParcelStatus.RETURNED}:
            final = parcels["zto", "1"]
        assert final is None or parcels["zto", "1"] == final
