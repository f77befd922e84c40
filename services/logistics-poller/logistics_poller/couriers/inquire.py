"""Whom to ask about a parcel: the aggregator, and when it does not answer, the courier itself."""

from collections.abc import Mapping

import structlog

from logistics_poller import metrics
from logistics_poller.tracks import Track

from .breaker import Breaker
from .courier import Courier, CourierTrouble, Inquiry, Trouble
from .kuaidi100 import HOUSE_CODES

log = structlog.get_logger()

# Trouble with the aggregator itself; a waybill that it locks or refuses says nothing about the others.
_ITS_OWN = {Trouble.UNREACHABLE, Trouble.BUSY, Trouble.UNREADABLE, Trouble.MISCONFIGURED}


class Couriers:
    def __init__(self, aggregator: Courier, direct: Mapping[str, Courier], breaker: Breaker) -> None:
        self._aggregator = aggregator
        self._direct = direct  # by express_code
        self._breaker = breaker

    async def track(self, inquiry: Inquiry) -> Track:
        """The parcel's way so far. Raises CourierTrouble when nobody answers."""
        try:
            return await self._aggregated(inquiry)
        except CourierTrouble as trouble:
            courier = self._direct.get(_carrier(inquiry))
            if courier is None:
                raise
            log.info("asking the courier itself", waybill_no=inquiry.waybill_no, because=str(trouble))
            return await _ask(courier, inquiry)

    async def _aggregated(self, inquiry: Inquiry) -> Track:
        if not self._breaker.allows():
            raise CourierTrouble(self._aggregator.name, Trouble.UNREACHABLE, "left alone for a while")
        try:
            track = await _ask(self._aggregator, inquiry)
        except CourierTrouble as trouble:
            if trouble.trouble in _ITS_OWN:
                self._breaker.failed()
            raise
        else:
            self._breaker.succeeded()
            return track
        finally:
            metrics.BREAKER_OPEN.labels(self._aggregator.name).set(self._breaker.open)


def _carrier(inquiry: Inquiry) -> str:
    """Who carries it, as far as is known: the recognised courier, else the label's."""
    return HOUSE_CODES.get(inquiry.recognised_as or "", inquiry.express_code)


async def _ask(courier: Courier, inquiry: Inquiry) -> Track:
    with metrics.ASK_SECONDS.labels(courier.name).time():
        try:
            track = await courier.track(inquiry)
        except CourierTrouble as trouble:
            metrics.ASKS.labels(courier.name, trouble.trouble.value).inc()
            raise
    metrics.ASKS.labels(courier.name, "track" if track.scans else "nothing_yet").inc()
    return track
