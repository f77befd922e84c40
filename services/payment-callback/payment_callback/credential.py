"""How the doctor and the service recognise each other through whatever stands between them.

A probe carries a credential that only holders of the doctor's key can make, inside the body: the part that no proxy may
touch. The service answers it, and nobody else, with a sealed report of what reached it: nobody on the way can make one,
read one, or use one of another probe. To everybody without the key the notify URL stays silent.
"""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

# Only characters that JSON, a form and a URL leave as they are.
_CREDENTIAL = re.compile(rb"orderloop-doctor-1\.([A-Za-z0-9_-]{22})\.([0-9]{10})\.([A-Za-z0-9_-]{43})")
_MARK = b"orderloop-doctor-1."

# A service whose clock is wrong shall still be able to say so.
_VALID = timedelta(days=1)
_NONCE_BYTES = 12


@dataclass(frozen=True, slots=True)
class Report:
    """What reached the service, as it saw it."""

    reason: str  # why it would have refused the request
    headers: tuple[str, ...]  # lower-case names, as far as the channel's protocol knows them
    user_agent: str
    source_address: str
    body_sha256: str
    at: float  # seconds since 1970, by the service's clock
    keys: Mapping[str, str]  # serial -> fingerprint of the public key


def doctor_key(secret: bytes) -> bytes:
    """The key that both sides derive from a secret they share anyway, such as the APIv3 key."""
    return hmac.digest(secret, b"orderloop doctor", "sha256")


def issue(key: bytes, now: datetime) -> str:
    """A credential for one probe: 99 characters."""
    said = f"orderloop-doctor-1.{_text(secrets.token_bytes(16))}.{int(now.timestamp()):010d}"
    return f"{said}.{_text(hmac.digest(key, said.encode(), 'sha256'))}"


def find(key: bytes, body: bytes, now: datetime) -> str | None:
    """The genuine credential in a request's body, if there is one."""
    if _MARK not in body:
        return None
    found = _CREDENTIAL.search(body)
    if found is None:
        return None
    said, _, mac = found[0].rpartition(b".")
    if not hmac.compare_digest(mac, _text(hmac.digest(key, said, "sha256")).encode()):
        return None
    return found[0].decode() if abs(now.timestamp() - int(found[2])) < _VALID.total_seconds() else None


def seal(key: bytes, credential: str, report: Report) -> str:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    sealed = _box(key).encrypt(nonce, orjson.dumps(asdict(report)), credential.encode())
    return _text(nonce + sealed)


def unseal(key: bytes, credential: str, sealed: str) -> Report | None:
    """None: whoever answered has not got our key, or answered another probe."""
    try:
        raw = base64.urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4))
        report = orjson.loads(_box(key).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], credential.encode()))
    except (ValueError, InvalidTag):
        return None
    return Report(**report | {"headers": tuple(report["headers"])})


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _box(key: bytes) -> AESGCM:
    return AESGCM(hmac.digest(key, b"report", "sha256"))


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
