"""WeChat Pay's keys, and what it does with them: real RSA signatures, a real platform certificate, real AES-256-GCM.

`prepare(folder)` makes them once, before anything starts, and says what a merchant configures.
Sources: WXDOC build-verify-sign-src, 4012154180; certificates live five years.
"""

import base64
import json
import random
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.x509.oid import NameOID

MCHID = "1900007291"
APPID = "wxd678efh567hg6787"
_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


class KeyMode(StrEnum):
    """Who vouches for a signature. During a switch-over a merchant meets both."""

    PUBLIC_KEY = "public_key"
    CERTIFICATE = "certificate"
    MIXED = "mixed"  # chance decides, attempt by attempt


@dataclass(frozen=True, slots=True)
class Keys:
    public_key_id: str
    public_key: rsa.RSAPrivateKey
    certificate_serial: str  # upper-case hexadecimal, 40 digits
    certificate: rsa.RSAPrivateKey
    attacker: rsa.RSAPrivateKey  # belongs to nobody the merchant trusts
    apiv3_key: bytes
    merchant_serial: str
    merchant: rsa.RSAPublicKey  # checks what the merchant asks us
    folder: Path

    def signer(self, mode: KeyMode, chance: random.Random) -> tuple[str, rsa.RSAPrivateKey]:
        """Serial and private key."""
        if mode is KeyMode.MIXED:
            mode = chance.choice([KeyMode.PUBLIC_KEY, KeyMode.CERTIFICATE])
        if mode is KeyMode.PUBLIC_KEY:
            return self.public_key_id, self.public_key
        return self.certificate_serial, self.certificate

    def settings(self) -> dict[str, str]:
        """What a merchant's payment-callback is configured with (the API's address is the caller's to add)."""
        return {
            "ORDERLOOP_WECHAT_MCHID": MCHID,
            "ORDERLOOP_WECHAT_APPID": APPID,
            "ORDERLOOP_WECHAT_APIV3_KEY_FILE": str(self.folder / "apiv3.key"),
            "ORDERLOOP_WECHAT_PUBLIC_KEY_ID": self.public_key_id,
            "ORDERLOOP_WECHAT_PUBLIC_KEY_FILE": str(self.folder / "public_key.pem"),
            "ORDERLOOP_WECHAT_CERTIFICATE_DIR": str(self.folder / "certificates"),
            "ORDERLOOP_WECHAT_MERCHANT_SERIAL": self.merchant_serial,
            "ORDERLOOP_WECHAT_MERCHANT_KEY_FILE": str(self.folder / "merchant" / "private_key.pem"),
        }

    def as_json(self) -> dict[str, object]:
        return {
            "mchid": MCHID,
            "appid": APPID,
            "apiv3_key": self.apiv3_key.decode(),
            "public_key": {"id": self.public_key_id, "pem": (self.folder / "public_key.pem").read_text()},
            "platform_certificate": {
                "serial": self.certificate_serial,
                "pem": (self.folder / "certificates" / f"{self.certificate_serial}.pem").read_text(),
            },
            "settings": self.settings(),
        }


def prepare(state: Path) -> dict[str, str]:
    """Make the keys under `state` unless they are there, and return the merchant's settings."""
    return open_keys(state).settings()


def open_keys(state: Path) -> Keys:
    folder = state / "keys"
    if not folder.exists():
        # a half-written folder must never be mistaken for a whole one
        draft = state / f"keys.{secrets.token_hex(4)}"
        _generate(draft)
        draft.rename(folder)
    identity = json.loads((folder / "identity.json").read_text())
    merchant = _load(folder / "merchant" / "private_key.pem")
    return Keys(
        public_key_id=identity["public_key_id"],
        public_key=_load(folder / "private" / "public_key_mode.pem"),
        certificate_serial=identity["certificate_serial"],
        certificate=_load(folder / "private" / "certificate_mode.pem"),
        attacker=_load(folder / "private" / "attacker.pem"),
        apiv3_key=(folder / "apiv3.key").read_bytes(),
        merchant_serial=identity["merchant_serial"],
        merchant=merchant.public_key(),
        folder=folder,
    )


def _generate(folder: Path) -> None:
    for name in ("private", "certificates", "merchant"):
        (folder / name).mkdir(parents=True)
    made = {name: rsa.generate_private_key(65537, 2048) for name in ("public_key_mode", "certificate_mode", "attacker")}
    for name, key in made.items():
        _write_private(folder / "private" / f"{name}.pem", key)
    _write_private(folder / "merchant" / "private_key.pem", rsa.generate_private_key(65537, 2048))
    public = made["public_key_mode"].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "public_key.pem").write_bytes(pem)
    # As old as anything that anybody may replay: notices are verified at the time at which they came.
    begins, ends = datetime(2026, 1, 1, tzinfo=UTC), datetime.now(UTC) + timedelta(days=5 * 365)
    certificate = self_signed(made["certificate_mode"], begins=begins, ends=ends)
    serial = f"{certificate.serial_number:040X}"
    (folder / "certificates" / f"{serial}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "apiv3.key").write_text("".join(secrets.choice(_CHARACTERS) for _ in range(32)))
    identity = {
        "public_key_id": f"PUB_KEY_ID_0119000072912026{secrets.randbelow(10**16):016d}",
        "certificate_serial": serial,
        "merchant_serial": secrets.token_hex(20).upper(),
    }
    (folder / "identity.json").write_text(json.dumps(identity))


def self_signed(key: rsa.RSAPrivateKey, *, begins: datetime, ends: datetime) -> x509.Certificate:
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tenpay.com (simulated)"),
            x509.NameAttribute(NameOID.COMMON_NAME, "Tenpay.com sign"),
        ]
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .sign(key, hashes.SHA256())
    )


def _write_private(path: Path, key: rsa.RSAPrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(pem_of(key))


def pem_of(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def read_private(pem: bytes) -> rsa.RSAPrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError("no RSA key")
    return key


def _load(path: Path) -> rsa.RSAPrivateKey:
    return read_private(path.read_bytes())


def random_text(chance: random.Random, length: int) -> str:
    return "".join(chance.choices(_CHARACTERS, k=length))


def sign(key: rsa.RSAPrivateKey, timestamp: str, nonce: str, body: bytes) -> str:
    message = f"{timestamp}\n{nonce}\n".encode() + body + b"\n"
    return base64.b64encode(key.sign(message, padding.PKCS1v15(), hashes.SHA256())).decode()


def signature_headers(
    serial: str, key: rsa.RSAPrivateKey, *, timestamp: int, nonce: str, body: bytes
) -> dict[str, str]:
    return {
        "Wechatpay-Serial": serial,
        "Wechatpay-Signature": sign(key, str(timestamp), nonce, body),
        "Wechatpay-Timestamp": str(timestamp),
        "Wechatpay-Nonce": nonce,
        "Wechatpay-Signature-Type": "WECHATPAY2-SHA256-RSA2048",
    }


def encrypt(apiv3_key: bytes, plaintext: Mapping[str, object], *, nonce: str, associated_data: str) -> str:
    body = json.dumps(plaintext, ensure_ascii=False, separators=(",", ":")).encode()
    return seal(apiv3_key, body, nonce=nonce, associated_data=associated_data)


def seal(apiv3_key: bytes, body: bytes, *, nonce: str, associated_data: str) -> str:
    """base64 of ciphertext and 16-byte tag."""
    return base64.b64encode(AESGCM(apiv3_key).encrypt(nonce.encode(), body, associated_data.encode())).decode()
