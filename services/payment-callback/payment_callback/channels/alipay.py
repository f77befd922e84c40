"""Alipay's form notifications: RSA2 signature, their own charset, and what they mean. Pure.

Sources: gopay @alipay/sign.go, notify.go (what is signed, fields), alipay-sdk SignatureUtils (empty values kept),
apifox doc-3272874 (statuses), csdn 134884289 (refunds on the same URL, refund_fee is the running total).
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from urllib.parse import unquote_to_bytes

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import rsa

from orderloop.errors import Permanent
from orderloop.events import PaymentNotified
from orderloop.ids import is_order_no
from orderloop.money import fen

from . import signing
from .channel import Answer, Fact, Notice, Question, Reason, Refused, Shape, paid

NAME = "alipay"
BEIJING = timezone(timedelta(hours=8))  # every time of the channel is local and says no offset

_SIGN_TYPE = "RSA2"
_UNSIGNED = frozenset({b"sign", b"sign_type"})
# Python's names of the charsets that the channel offers; gb18030 contains the other two.
_CHARSETS = {"utf-8": "utf-8", "utf8": "utf-8", "gbk": "gb18030", "gb2312": "gb18030", "gb18030": "gb18030"}
_LONGEST_IDENTIFIER = 64


class Alipay:
    """The channel, for one seller."""

    name = NAME
    media_type = "application/x-www-form-urlencoded"
    logged_headers = frozenset({"user-agent"})

    def __init__(self, *, app_ids: Iterable[str], seller_id: str, key: rsa.RSAPublicKey) -> None:
        """`key` is Alipay's own, not the merchant's. Raises Permanent when it is too short."""
        signing.long_enough(key, "of Alipay")
        self._app_ids = frozenset(app_ids)
        if not self._app_ids or not seller_id:
            raise Permanent("Alipay needs an app id and a seller id")
        self._seller_id = seller_id
        self._key = key

    def verify(self, headers: Mapping[str, str], body: bytes, now: datetime) -> None:
        # Neither is looked at: the signature stands in the body, and no time in it would betray a replay.
        fields = _pairs(body)
        if fields.get(b"sign_type", b"").decode("latin-1") != _SIGN_TYPE:
            raise Refused(Reason.SIGNATURE_TYPE)
        if b"sign" not in fields:
            raise Refused(Reason.HEADER_MISSING, "sign")
        signature = fields[b"sign"].decode("latin-1")
        # The channel's own libraries differ on empty values: some sign them, some leave them out.
        for message in (signed_string(fields, keep_empty=True), signed_string(fields, keep_empty=False)):
            try:
                return signing.verify(self._key, signature, message)
            except InvalidSignature:
                continue
        raise Refused(Reason.BAD_SIGNATURE)

    def translate(self, body: bytes) -> Notice:
        form = _decoded(_pairs(body))
        try:
            return self._read(form)
        except KeyError as missing:
            raise Refused(Reason.NOT_UNDERSTOOD, f"field {missing}") from None
        except (TypeError, ValueError) as error:
            raise Refused(Reason.NOT_UNDERSTOOD, type(error).__name__) from None

    def stored(self) -> Answer:
        return Answer(200, b"success", b"text/plain")

    def failed(self, status: int) -> Answer:
        return Answer(status, b"fail", b"text/plain")

    def _read(self, form: Mapping[str, str]) -> Notice:
        if form["app_id"] not in self._app_ids:
            raise Refused(Reason.WRONG_MERCHANT, "app_id")
        if form["seller_id"] != self._seller_id:
            raise Refused(Reason.WRONG_MERCHANT, "seller_id")
        order_no, trade_no = _identifier(form["out_trade_no"]), _identifier(form["trade_no"])
        refunded = bool(form.get("refund_fee")) and bool(form.get("gmt_refund"))
        shape, remark = _shape(form["trade_status"], refunded=refunded)
        if not is_order_no(order_no):
            return Notice(shape, (order_no,), (trade_no,), remark="out_trade_no is not one of ours")
        # A refund's notice is a payment's word as well: TRADE_SUCCESS comes again, and may be the first to arrive.
        said_paid = form["trade_status"] in {"TRADE_SUCCESS", "TRADE_FINISHED"}
        facts = (self._paid(form, order_no, trade_no),) if said_paid else ()
        questions: tuple[Question, ...] = ()
        if refunded:
            # refund_fee is the total so far and notices may be lost: what this one refund gave back, a query says.
            fen(form["refund_fee"])
            if number := form.get("out_biz_no"):
                questions = (Question(NAME, order_no, trade_no, _identifier(number)),)
            else:
                remark = "a refund without its number"
        return Notice(shape, (order_no,), (trade_no,), facts, remark, questions)

    def _paid(self, form: Mapping[str, str], order_no: str, trade_no: str) -> Fact:
        """TRADE_SUCCESS and TRADE_FINISHED are one fact, so they are one text."""
        total = fen(form["total_amount"])
        event = PaymentNotified(
            order_no=order_no,
            channel=NAME,
            mchid=self._seller_id,
            transaction_id=trade_no,
            trade_state="SUCCESS",
            amount_fen=total,
            payer_total_fen=fen(form["buyer_pay_amount"]) if form.get("buyer_pay_amount") else total,
            currency="CNY",
            paid_at=moment(form["gmt_payment"]),
            source="callback",
        )
        return paid(event)


def signed_string(fields: Mapping[bytes, bytes], *, keep_empty: bool) -> bytes:
    """What a notice's signature is about, in the bytes of its own charset."""
    return b"&".join(
        name + b"=" + value for name, value in sorted(fields.items()) if name not in _UNSIGNED and (value or keep_empty)
    )


def moment(text: str) -> datetime:
    """`yyyy-MM-dd HH:mm:ss`, with or without a fraction, in Beijing. Raises ValueError."""
    read = datetime.fromisoformat(text)
    if read.tzinfo is not None or not 2000 <= read.year < 2200:
        raise ValueError("the channel's times have no offset, and are of today")
    return read.replace(tzinfo=BEIJING)


def _shape(status: str, *, refunded: bool) -> tuple[Shape, str]:
    match status:
        case "TRADE_SUCCESS" | "TRADE_FINISHED":
            return (Shape.REFUND if refunded else Shape.TRANSACTION), ""
        case "TRADE_CLOSED" if refunded:  # nothing is left of the payment
            return Shape.REFUND, ""
        case "TRADE_CLOSED":
            return Shape.CLOSED, "closed unpaid"
        case "WAIT_BUYER_PAY":
            return Shape.TRANSACTION, "not paid yet"
        case _:
            raise ValueError("a trade_status of tomorrow")


def _pairs(body: bytes) -> dict[bytes, bytes]:
    """The form's fields as bytes of its charset. Raises Refused; a name that comes twice could be read in two ways."""
    fields: dict[bytes, bytes] = {}
    for pair in body.strip().split(b"&"):
        name, equals, value = (part.replace(b"+", b" ") for part in pair.partition(b"="))
        name = unquote_to_bytes(name)
        if not equals or not name or name in fields:
            raise Refused(Reason.MALFORMED, "form")
        fields[name] = unquote_to_bytes(value)
    return fields


def _decoded(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    named = fields.get(b"charset", b"utf-8").decode("latin-1").lower()
    charset = _CHARSETS.get(named)
    if charset is None:
        raise Refused(Reason.MALFORMED, "charset")
    try:
        return {name.decode(charset): value.decode(charset) for name, value in fields.items()}
    except UnicodeDecodeError:
        raise Refused(Reason.MALFORMED, "charset") from None


def _identifier(text: str) -> str:
    if not text or "\0" in text or len(text) > _LONGEST_IDENTIFIER:
        raise TypeError("not an identifier")
    return text
