"""WeChat Pay V3 notifications: who signed them, and what is sealed in them. Pure.

Sources: WXDOC build-verify-sign-src and 4012154180 (keys), wechatpay-go @6dbd7ce (order of the checks, clock window),
wechatpay-skills @15f40d0 (probes).
"""

import base64
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import ValidationError

from orderloop.errors import Permanent

from . import signing
from .channel import Answer, Notice, Reason, Refused
from .wechat_content import read
from .wechat_keys import VerifyingKey, canonical, certificate, fingerprint
from .wechat_meaning import NAME, Merchant, meaning

_SIGNATURE_TYPE = "WECHATPAY2-SHA256-RSA2048"
_PROBE = "WECHATPAY/SIGNTEST/"
_WINDOW_SECONDS = 300  # exclusive, as in the channel's own library
_APIV3_KEY_BYTES = 32
_NONCE_BYTES = 12
_MOST_FAULTS = 5  # named in a refusal's detail

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
        self._merchant = Merchant(mchid, frozenset(appids))
        self._aead = AESGCM(apiv3_key)
        self._configured = _long_enough(keys)
        self._keys: Mapping[str, VerifyingKey] = self._configured
        self._decoy = VerifyingKey(_NOBODYS.public_key())

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
        plain = self.decrypt(body)
        try:
            return meaning(read(plain), self._merchant)
        except ValueError as error:
            raise Refused(Reason.NOT_UNDERSTOOD, _fault(error)) from None

    def stored(self) -> Answer:
        return Answer(204)

    def failed(self, status: int) -> Answer:
        return Answer(status, _FAIL)

    def decrypt(self, body: bytes) -> dict[str, Any]:
        """The plaintext of a notice's resource. Raises Refused."""
        return _object(self._unseal(_object(body).get("resource")))

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


def _fault(error: ValueError) -> str:
    """Where a notice went wrong, without its values: every other message is our own."""
    if isinstance(error, ValidationError):
        return ", ".join(f"{'.'.join(map(str, e['loc']))}: {e['type']}" for e in error.errors()[:_MOST_FAULTS])
    return str(error)
