"""WeChat Pay's platform certificates: what it signs with, what it lists, and how a new one takes over in mid-run.

The new certificate is listed beside the old one days before the signatures move over, share by share.
Source: WXDOC apiv3/wechatpay5_0. Which certificates there are lies in the ledger, the first one among the keys.
"""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .ledger import Simulator
from .wechat_keys import KeyMode, Keys, pem_of, random_text, read_private, seal, self_signed


class Rotation(BaseModel):
    """A further certificate. `share` of the signatures are the newest one's; the others the one's before it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(0, ge=0, le=1)
    begins_in_days: float = -1
    ends_in_days: float = 5 * 365


class Traffic(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(ge=0, le=1)
    withdraw: bool = False  # the older ones are listed no more


class Certificates:
    def __init__(self, sim: Simulator, keys: Keys) -> None:
        self._sim = sim
        self._keys = keys
        first = x509.load_pem_x509_certificate(
            (keys.folder / "certificates" / f"{keys.certificate_serial}.pem").read_bytes()
        )
        self._all: list[tuple[x509.Certificate, rsa.RSAPrivateKey]] = [(first, keys.certificate)]
        self._all += [_read(document) for document in sim.ledger.all("certificate")]

    def routes(self) -> list[Route]:
        return [
            Route("/sim/certificates", self._rotate, methods=["POST"]),
            Route("/sim/certificates/traffic", self._traffic, methods=["POST"]),
        ]

    def signer(self, mode: KeyMode, chance: random.Random) -> tuple[str, rsa.RSAPrivateKey]:
        """Serial and private key."""
        serial, key = self._keys.signer(mode, chance)
        if serial == self._keys.public_key_id:
            return serial, key
        newest = len(self._all) == 1 or chance.random() < self._share()
        certificate, key = self._all[-1 if newest else -2]
        return _serial(certificate), key

    def mode(self, serial: str) -> KeyMode | None:
        """What a serial is the name of; hexadecimal numbers may be padded."""
        if serial == self._keys.public_key_id:
            return KeyMode.PUBLIC_KEY
        known = {_serial(certificate).lstrip("0") for certificate, _ in self._all}
        return KeyMode.CERTIFICATE if serial.upper().lstrip("0") in known else None

    def listed(self) -> dict[str, Any]:
        """The answer to `GET /v3/certificates`."""
        withdrawn = (self._sim.ledger.get("certificates", "traffic") or {}).get("withdraw", False)
        shown = self._all[-1:] if withdrawn else self._all
        return {"data": [self._listed(certificate) for certificate, _ in shown]}

    def _listed(self, certificate: x509.Certificate) -> dict[str, Any]:
        nonce = random_text(random.Random(), 12)
        body = certificate.public_bytes(serialization.Encoding.PEM)
        return {
            "serial_no": _serial(certificate),
            "effective_time": certificate.not_valid_before_utc.isoformat(),
            "expire_time": certificate.not_valid_after_utc.isoformat(),
            "encrypt_certificate": {
                "algorithm": "AEAD_AES_256_GCM",
                "nonce": nonce,
                "associated_data": "certificate",
                "ciphertext": seal(self._keys.apiv3_key, body, nonce=nonce, associated_data="certificate"),
            },
        }

    def _share(self) -> float:
        return (self._sim.ledger.get("certificates", "traffic") or {}).get("share", 0.0)

    async def _rotate(self, request: Request) -> Response:
        asked = Rotation.model_validate_json(await request.body())
        now = datetime.now(UTC)
        key = rsa.generate_private_key(65537, 2048)
        certificate = self_signed(
            key,
            begins=now + timedelta(days=asked.begins_in_days),
            ends=now + timedelta(days=asked.ends_in_days),
        )
        serial = _serial(certificate)
        document = {
            "serial": serial,
            "pem": certificate.public_bytes(serialization.Encoding.PEM).decode(),
            "private": pem_of(key).decode(),
        }
        with self._sim.ledger.transaction():
            self._sim.ledger.put("certificate", serial, document)
            self._sim.ledger.put("certificates", "traffic", {"share": asked.share, "withdraw": False})
        self._all.append((certificate, key))
        return JSONResponse({"serial": serial, "pem": document["pem"]}, 201)

    async def _traffic(self, request: Request) -> Response:
        asked = Traffic.model_validate_json(await request.body())
        self._sim.ledger.put("certificates", "traffic", asked.model_dump())
        return JSONResponse({}, 201)


def _serial(certificate: x509.Certificate) -> str:
    return f"{certificate.serial_number:040X}"


def _read(document: dict[str, Any]) -> tuple[x509.Certificate, rsa.RSAPrivateKey]:
    return x509.load_pem_x509_certificate(document["pem"].encode()), read_private(document["private"].encode())
