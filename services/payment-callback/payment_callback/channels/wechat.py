"""WeChat Pay V3 notifications: signature, AEAD, and what they mean. Pure.

Sources: WXDOC build-verify-sign-src and 4012154180 (keys), wechatpay-go @6dbd7ce (order of the checks, clock window),
wechatpay-skills @15f40d0 (probes, shapes), webhook pages of wechatpay-im @35a35c5 (fields).
"""

import base64
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import ValidationError

from orderloop.errors import Permanent
from orderloop.events import PaymentNotified, RefundNotified
from orderloop.ids import is_order_no

from . import signing
from .channel import Answer, Fact, Notice, Reason, Refused, Shape, paid, refunded
from .wechat_keys import VerifyingKey, canonical, certificate, fingerprint

NAME = "wechat"

_SIGNATURE_TYPE = "WECHATPAY2-SHA256-RSA2048"
_PROBE = "WECHATPAY/SIGNTEST/"
_WINDOW_SECONDS = 300  # exclusive, as in the channel's own library
_APIV3_KEY_BYTES = 32
_NONCE_BYTES = 12

# Stands in for a key that is not known: its numbers are nobody's, and checking against it takes as long.
_NOBODYS = rsa.RSAPublicNumbers(65537, (1 << 2047) + 1)

_FAIL = b'{"code":"FAIL","message":"\xe5\xa4\xb1\xe8\xb4\xa5"}'  # 失败


class WeChat:
    """The channel, for one merchant."""

    name = NAME
    media_type = "application/json"
    logged_headers = frozenset(
        {
            "wechatpay-serial",
            "wechatpay-signature",
            "wechatpay-signature-type",
            "wechatpay-timestamp",
            "wechatpay-nonce",
            "request-id",
            "user-agent",
        }
    )

    def __init__(
        self, *, mchid: str, appids: Iterable[str], apiv3_key: bytes, keys: Mapping[str, VerifyingKey]
    ) -> None:
        """`keys` by serial, as `wechat_keys` reads them. Raises Permanent for unusable keys."""
        if len(apiv3_key) != _APIV3_KEY_BYTES:
            raise Permanent(f"the APIv3 key has {len(apiv3_key)} bytes, not {_APIV3_KEY_BYTES}")
        self._mchid = mchid
        self._appids = frozenset(appids)
        self._aead = AESGCM(apiv3_key)
        self._configured = _long_enough(keys)
        self._keys: Mapping[str, VerifyingKey] = self._configured
        self._decoy = VerifyingKey(_NOBODYS.public_key())
        self._readers: tuple[tuple[Callable[[Mapping[str, Any]], bool], Callable[[Mapping[str, Any]], Notice]], ...] = (
            (lambda plain: "combine_out_trade_no" in plain and "sub_orders" in plain, self._combined),
            (lambda plain: "refund_status" in plain, self._refund),
            (lambda plain: "receiver" in plain and "order_id" in plain, self._profit_sharing),
            (lambda plain: "echo_message" in plain, self._echo),
            (lambda plain: "trade_state" in plain, self._transaction),
        )

    @property
    def keys(self) -> Mapping[str, VerifyingKey]:
        """By serial, whoever may vouch for a notice, in force or not."""
        return self._keys

    @property
    def fingerprints(self) -> dict[str, str]:
        """By serial, what tells our keys from others."""
        return {serial: fingerprint(key) for serial, key in self._keys.items()}

    def trust(self, downloaded: Mapping[str, VerifyingKey]) -> None:
        """From now on these verify beside the configured keys, and no others. Raises Permanent for unusable keys."""
        self._keys = {**_long_enough(downloaded), **self._configured}

    def verify(self, headers: Mapping[str, str], body: bytes, now: datetime) -> None:
        self._verify(headers, body, now, self._keys)

    def read_certificates(self, headers: Mapping[str, str], body: bytes, now: datetime) -> dict[str, bytes]:
        """The platform certificates in an answer to `GET /v3/certificates`, PEM by serial. Raises Refused.

        Under a serial that we have, our key judges the answer. Under any other, the certificate does that the answer
        brings along: it is sealed with the APIv3 key, so nobody else can have put it there. That is how the very first
        answer comes to be trusted, and the first after a switch that we have slept through.
        """
        listed = _object(body).get("data")
        if not isinstance(listed, list) or not listed:
            raise Refused(Reason.MALFORMED, "no certificates")
        pems = [self._unseal(one.get("encrypt_certificate") if isinstance(one, dict) else None) for one in listed]
        try:
            brought = [certificate(pem) for pem in pems]
            keys = _long_enough(dict(brought))
        except Permanent as unusable:
            raise Refused(Reason.MALFORMED, str(unusable)) from None
        self._verify(headers, body, now, {**keys, **self._keys})
        return {serial: pem for (serial, _), pem in zip(brought, pems, strict=True)}

    def _verify(self, headers: Mapping[str, str], body: bytes, now: datetime, keys: Mapping[str, VerifyingKey]) -> None:
        try:
            serial = headers["wechatpay-serial"]
            signature = headers["wechatpay-signature"]
            timestamp = headers["wechatpay-timestamp"]
            nonce = headers["wechatpay-nonce"]
        except KeyError as missing:
            raise Refused(Reason.HEADER_MISSING, str(missing)) from None
        # Before anything else: a probe comes under any serial and at any time, and must neither alarm nor pass.
        if signature.startswith(_PROBE):
            raise Refused(Reason.PROBE)
        # Absent means the default, as the channel's own library reads it.
        if headers.get("wechatpay-signature-type", _SIGNATURE_TYPE) != _SIGNATURE_TYPE:
            raise Refused(Reason.SIGNATURE_TYPE)
        if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
            raise Refused(Reason.CLOCK, "timestamp is no number")
        if abs(now.timestamp() - int(timestamp)) >= _WINDOW_SECONDS:
            raise Refused(Reason.CLOCK, f"{now.timestamp() - int(timestamp):+.0f} s")
        known = keys.get(serial) or keys.get(canonical(serial))
        # An unknown serial is verified too, in vain: time shall not tell strangers which ones we know.
        key = known or self._decoy
        if key.ended(now):
            raise Refused(Reason.CERTIFICATE_EXPIRED)
        if not key.begun(now):
            raise Refused(Reason.CERTIFICATE_TOO_EARLY)
        message = b"%b\n%b\n%b\n" % (timestamp.encode(), nonce.encode("latin-1"), body)
        try:
            signing.verify(key.public, signature, message)
        except InvalidSignature:
            raise Refused(Reason.BAD_SIGNATURE if known else Reason.UNKNOWN_SERIAL) from None
        if known is None:
            raise Refused(Reason.UNKNOWN_SERIAL)

    def translate(self, body: bytes) -> Notice:
        plain = self._open(_object(body))
        for fits, read in self._readers:
            if fits(plain):
                try:
                    return read(plain)
                except (KeyError, TypeError, ValueError, OverflowError, ValidationError) as error:
                    raise Refused(Reason.NOT_UNDERSTOOD, _fault(error)) from None
        raise Refused(Reason.NOT_UNDERSTOOD, "unknown shape")

    def stored(self) -> Answer:
        return Answer(204)

    def failed(self, status: int) -> Answer:
        return Answer(status, _FAIL)

    def decrypt(self, body: bytes) -> dict[str, Any]:
        """The plaintext of a notice's resource. Raises Refused."""
        return self._open(_object(body))

    def _open(self, envelope: Mapping[str, Any]) -> dict[str, Any]:
        return _object(self._unseal(envelope.get("resource")))

    def _unseal(self, resource: Any) -> bytes:
        if not isinstance(resource, dict) or resource.get("algorithm") != "AEAD_AES_256_GCM":
            raise Refused(Reason.MALFORMED, "no AEAD_AES_256_GCM resource")
        try:
            nonce = resource["nonce"].encode()
            ciphertext = base64.b64decode(resource["ciphertext"], validate=True)
            associated_data = (resource.get("associated_data") or "").encode()
        except (KeyError, AttributeError, TypeError, ValueError):
            raise Refused(Reason.MALFORMED, "resource") from None
        if len(nonce) != _NONCE_BYTES:
            raise Refused(Reason.MALFORMED, "nonce")
        try:
            return self._aead.decrypt(nonce, ciphertext, associated_data)
        except InvalidTag:
            raise Refused(Reason.UNDECRYPTABLE) from None

    def _transaction(self, plain: Mapping[str, Any]) -> Notice:
        mchid = self._own(plain, "")
        amount = plain["amount"]
        return self._payments(
            Shape.TRANSACTION,
            [(plain, mchid, amount["total"], _or(amount.get("payer_total"), amount["total"]))],
        )

    def _combined(self, plain: Mapping[str, Any]) -> Notice:
        """All sub-orders succeed or fail together, but each is an order of its own."""
        self._own(plain, "combine_")
        orders: list[tuple[Mapping[str, Any], str, int, int]] = []
        for sub in plain["sub_orders"]:
            amount = sub["amount"]
            paid = _or(amount.get("payer_amount"), amount["total_amount"])
            orders.append((sub, sub["mchid"], amount["total_amount"], paid))
        return self._payments(Shape.COMBINED, orders)

    def _payments(self, shape: Shape, orders: list[tuple[Mapping[str, Any], str, int, int]]) -> Notice:
        facts: list[Fact] = []
        remarks: list[str] = []
        for order, mchid, total, payer_total in orders:
            if order["trade_state"] != "SUCCESS":
                remarks.append("trade_state is not SUCCESS")
            elif not is_order_no(order["out_trade_no"]):
                remarks.append("out_trade_no is not one of ours")
            else:
                facts.append(_paid(order, mchid, total, payer_total))
        return Notice(
            shape,
            order_nos=tuple(_text(order["out_trade_no"]) for order, *_ in orders),
            transaction_ids=tuple(_text(order["transaction_id"]) for order, *_ in orders),
            facts=tuple(facts),
            remark="; ".join(remarks),
        )

    def _refund(self, plain: Mapping[str, Any]) -> Notice:
        # A refund names no appid; a partner's names sp_mchid, and one real notice named neither.
        said = plain.get("mchid", plain.get("sp_mchid", self._mchid))
        if said != self._mchid:
            raise Refused(Reason.WRONG_MERCHANT, "mchid")
        order_no, transaction_id = _text(plain["out_trade_no"]), _text(plain["transaction_id"])
        if not is_order_no(order_no):
            remark = "out_trade_no is not one of ours"
            return Notice(Shape.REFUND, (order_no,), (transaction_id,), remark=remark)
        finished_at = _time(plain["success_time"]) if "success_time" in plain else None
        event = RefundNotified(
            order_no=order_no,
            channel=NAME,
            transaction_id=transaction_id,
            refund_id=_text(plain["refund_id"]),
            out_refund_no=_text(plain["out_refund_no"]),
            refund_status=plain["refund_status"],
            refund_fen=plain["amount"]["refund"],
            total_fen=plain["amount"]["total"],
            finished_at=finished_at,
        )
        return Notice(Shape.REFUND, (order_no,), (transaction_id,), (refunded(event),))

    def _profit_sharing(self, plain: Mapping[str, Any]) -> Notice:
        # Told to receivers of a split; what we ourselves split is asked for by settlement.
        return Notice(Shape.PROFIT_SHARING, (), (_text(plain["transaction_id"]),), remark="logged only")

    def _echo(self, _plain: Mapping[str, Any]) -> Notice:
        return Notice(Shape.ECHO, (), (), remark="logged only")

    def _own(self, plain: Mapping[str, Any], prefix: str) -> str:
        """The merchant that was paid. Raises Refused unless it is the one this service stands for."""
        partner = "" if prefix or "mchid" in plain else "sp_"
        mchid, appid = plain[f"{prefix}{partner}mchid"], plain[f"{prefix}{partner}appid"]
        if mchid != self._mchid:
            raise Refused(Reason.WRONG_MERCHANT, "mchid")
        if appid not in self._appids:
            raise Refused(Reason.WRONG_MERCHANT, "appid")
        return self._mchid


def _long_enough(keys: Mapping[str, VerifyingKey]) -> dict[str, VerifyingKey]:
    for serial, key in keys.items():
        signing.long_enough(key.public, serial)
    return dict(keys)


def _object(body: bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Refused(Reason.MALFORMED, "not JSON") from None
    if not isinstance(parsed, dict):
        raise Refused(Reason.MALFORMED, "not an object")
    return parsed


def _paid(order: Mapping[str, Any], mchid: str, total: int, payer_total: int) -> Fact:
    event = PaymentNotified(
        order_no=order["out_trade_no"],
        channel=NAME,
        mchid=mchid,
        transaction_id=_text(order["transaction_id"]),
        trade_state=order["trade_state"],
        amount_fen=total,
        payer_total_fen=payer_total,
        currency=order["amount"].get("currency", "CNY"),
        paid_at=_time(order["success_time"]),
        source="callback",
    )
    return paid(event)


def _time(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.utcoffset() is None or abs(moment.utcoffset() or timedelta()) > timedelta(hours=14):
        raise ValueError("a time without an offset")
    return moment


def _or(payer_total: int | None, total: int) -> int:
    """What the payer paid; the channel leaves it out where no coupon was involved. 0 is an amount."""
    return total if payer_total is None else payer_total


def _text(value: object) -> str:
    """An identifier of the channel: at most 32 characters today, 64 in its own schema for refunds."""
    if not isinstance(value, str) or "\0" in value or len(value) > 64:
        raise TypeError("not an identifier")
    return value


def _fault(error: Exception) -> str:
    """Where a notice went wrong, without its values."""
    if isinstance(error, ValidationError):
        return ", ".join(f"{'.'.join(map(str, e['loc']))}: {e['type']}" for e in error.errors())
    return f"field {error}" if isinstance(error, KeyError) else type(error).__name__
