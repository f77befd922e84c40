"""Alipay's keys and signatures, as Alipay itself makes them; shares no code with who verifies them.

`prepare(folder)` makes the keys once and says what a merchant configures.
Sources: gopay @alipay/sign.go, alipay-sdk SignatureUtils.
"""

import base64
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

APP_ID = "2021000117600001"
SELLER_ID = "2088102146225135"


@dataclass(frozen=True, slots=True)
class Keys:
    alipay: rsa.RSAPrivateKey
    attacker: rsa.RSAPrivateKey  # belongs to nobody the merchant trusts
    app: rsa.RSAPublicKey  # checks what the merchant asks
    folder: Path

    def settings(self) -> dict[str, str]:
        """What a merchant's payment-callback is configured with (the gateway's address is the caller's to add)."""
        return {
            "ORDERLOOP_ALIPAY_APP_ID": APP_ID,
            "ORDERLOOP_ALIPAY_SELLER_ID": SELLER_ID,
            "ORDERLOOP_ALIPAY_PUBLIC_KEY_FILE": str(self.folder / "alipay_public.txt"),
            "ORDERLOOP_ALIPAY_PRIVATE_KEY_FILE": str(self.folder / "app_private.pem"),
        }


def prepare(state: Path) -> dict[str, str]:
    return open_keys(state).settings()


def open_keys(state: Path) -> Keys:
    folder = state / "keys"
    if not folder.exists():
        draft = state / f"keys.{secrets.token_hex(4)}"  # a half-written folder must never pass for a whole one
        _generate(draft)
        draft.rename(folder)
    return Keys(
        _load(folder / "alipay.pem"),
        _load(folder / "attacker.pem"),
        _load(folder / "app_private.pem").public_key(),
        folder,
    )


def form_signature(key: rsa.RSAPrivateKey, fields: Mapping[str, str], charset: str, *, empty: bool) -> str:
    """Of a notice: everything but sign and sign_type; `empty` says whether empty values are part of it."""
    named = sorted((name, value) for name, value in fields.items() if name not in {"sign", "sign_type"})
    text = "&".join(f"{name}={value}" for name, value in named if value or empty)
    return text_signature(key, text.encode(charset))


def text_signature(key: rsa.RSAPrivateKey, text: bytes) -> str:
    return base64.b64encode(key.sign(text, padding.PKCS1v15(), hashes.SHA256())).decode()


def is_signed_by_app(keys: Keys, fields: Mapping[str, str]) -> bool:
    """A request's signature: everything but sign, sign_type included, empty values left out."""
    named = sorted((name, value) for name, value in fields.items() if name != "sign" and value)
    text = "&".join(f"{name}={value}" for name, value in named)
    try:
        signature = base64.b64decode(fields.get("sign", ""), validate=True)
        keys.app.verify(signature, text.encode(), padding.PKCS1v15(), hashes.SHA256())
    except (ValueError, InvalidSignature):
        return False
    return True


def signed_answer(key: rsa.RSAPrivateKey, method: str, said: Mapping[str, object]) -> bytes:
    """The signature is about the inner object exactly as it stands in the answer."""
    raw = json.dumps(said, ensure_ascii=False, separators=(",", ":")).replace("/", "\\/")  # as the real one escapes it
    name = method.replace(".", "_") + "_response"
    return f'{{"{name}":{raw},"sign":"{text_signature(key, raw.encode())}"}}'.encode()


def _generate(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("alipay", "attacker", "app_private"):
        key = rsa.generate_private_key(65537, 2048)
        path = folder / f"{name}.pem"
        path.touch(mode=0o600)
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        if name == "alipay":  # the web page shows bare base64
            der = key.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            (folder / "alipay_public.txt").write_bytes(base64.b64encode(der))


def _load(path: Path) -> rsa.RSAPrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError(f"{path} is no RSA key")
    return key
