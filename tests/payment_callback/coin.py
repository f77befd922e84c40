"""A channel of a test's own, as a third one would be: this module, and one line where accounts are registered."""

import hmac
from collections.abc import Mapping
from datetime import datetime

import httpx
import orjson

from orderloop.clock import Clock
from orderloop.events import PaymentNotified
from payment_callback.accounts import Account
from payment_callback.channels import Answer, Notice, Reason, Refused, Shape, paid

_KEY = b"a secret of the coin channel"


class Coin:
    name = "coin"
    media_type = "application/json"
    logged_headers = frozenset({"x-coin-signature"})

    def verify(self, headers: Mapping[str, str], body: bytes, now: datetime) -> None:
        if not hmac.compare_digest(headers.get("x-coin-signature", ""), sign(body)):
            raise Refused(Reason.BAD_SIGNATURE)

    def translate(self, body: bytes) -> Notice:
        said = orjson.loads(body)
        event = PaymentNotified(
            order_no=said["order"],
            channel=self.name,
            mchid="me",
            transaction_id=said["id"],
            trade_state="SUCCESS",
            amount_fen=said["fen"],
            payer_total_fen=said["fen"],
            currency="CNY",
            paid_at=datetime.fromisoformat(said["at"]),
            source="callback",
        )
        return Notice(Shape.TRANSACTION, (event.order_no,), (event.transaction_id,), (paid(event),))

    def stored(self) -> Answer:
        return Answer(200, b"OK", b"text/plain")

    def failed(self, status: int) -> Answer:
        return Answer(status)


def sign(body: bytes) -> str:
    return hmac.new(_KEY, body, "sha256").hexdigest()


def account(client: httpx.AsyncClient, clock: Clock) -> Account:  # it only tells, so it asks nobody
    return Account(Coin())
