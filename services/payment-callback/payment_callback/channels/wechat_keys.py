"""The keys that vouch for WeChat Pay: public keys by their id, platform certificates by their serial number. Pure."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from orderloop.errors import Permanent

from . import signing


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A platform certificate's key has a beginning and an end, a public key has neither."""

    public: rsa.RSAPublicKey
    not_before: datetime | None = None
    not_after: datetime | None = None

    def begun(self, now: datetime) -> bool:
        return self.not_before is None or self.not_before <= now

    def ended(self, now: datetime) -> bool:
        return self.not_after is not None and self.not_after <= now


def public_key(key_id: str, pem: bytes) -> dict[str, VerifyingKey]:
    """Public-key mode: the key that the merchant downloaded, under its id `PUB_KEY_ID_…`. Raises Permanent."""
    if not key_id.startswith("PUB_KEY_ID_"):
        raise Permanent("a WeChat Pay public key's id starts with PUB_KEY_ID_")
    try:
        key = serialization.load_pem_public_key(pem)
    except ValueError:
        raise Permanent(f"the public key {key_id} is no PEM public key") from None
    return {key_id: VerifyingKey(signing.public_rsa(key, key_id))}


def certificates(pems: Iterable[bytes]) -> dict[str, VerifyingKey]:
    """Platform certificates, each under its serial number. Raises Permanent."""
    return dict(map(certificate, pems))


def certificate(pem: bytes) -> tuple[str, VerifyingKey]:
    """Serial number and key. Raises Permanent."""
    try:
        read = x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise Permanent("a platform certificate is no PEM certificate") from None
    serial = canonical(f"{read.serial_number:X}")
    return serial, VerifyingKey(
        signing.public_rsa(read.public_key(), serial), read.not_valid_before_utc, read.not_valid_after_utc
    )


def canonical(serial: str) -> str:
    """Hexadecimal numbers are equal however they are padded and cased."""
    return serial.upper().lstrip("0")


def fingerprint(key: VerifyingKey) -> str:
    """SHA-256 over the DER of the public key, the first 8 bytes."""
    der = key.public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()[:16]
