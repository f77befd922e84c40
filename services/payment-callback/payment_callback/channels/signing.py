"""What the channels' signatures have in common. Pure."""

import binascii

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from orderloop.errors import Permanent

_SHORTEST_RSA_BITS = 2048


def verify(key: rsa.RSAPublicKey, signature: str, message: bytes) -> None:
    """RSA PKCS#1 v1.5 with SHA-256 over `message`, the signature in base64. Raises InvalidSignature."""
    key.verify(decode(signature), message, padding.PKCS1v15(), hashes.SHA256())


def decode(text: str) -> bytes:
    """Raises InvalidSignature. Only the canonical base64 counts, so that one signature has one spelling."""
    try:
        raw = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise InvalidSignature from None
    if binascii.b2a_base64(raw, newline=False) != text.encode("latin-1", "replace"):
        raise InvalidSignature
    return raw


def public_rsa(key: object, name: str) -> rsa.RSAPublicKey:
    """Raises Permanent unless it is an RSA key."""
    if not isinstance(key, rsa.RSAPublicKey):
        raise Permanent(f"key {name} is not an RSA key")
    return key


def long_enough(key: rsa.RSAPublicKey | rsa.RSAPrivateKey, name: str) -> None:
    """Raises Permanent for a key that is too short to trust."""
    if key.key_size < _SHORTEST_RSA_BITS:
        raise Permanent(f"key {name} has {key.key_size} bits, fewer than {_SHORTEST_RSA_BITS}")


def any_public_key(raw: bytes, name: str) -> rsa.RSAPublicKey:
    """A PEM public key, a PEM certificate, or the bare base64 that a channel's web page shows. Raises Permanent."""
    try:
        if b"BEGIN CERTIFICATE" in raw:
            return public_rsa(x509.load_pem_x509_certificate(raw).public_key(), name)
        if b"-----BEGIN" in raw:
            return public_rsa(serialization.load_pem_public_key(raw), name)
        return public_rsa(serialization.load_der_public_key(_bare(raw)), name)
    except ValueError:
        raise Permanent(f"the key {name} is no public key") from None


def any_private_key(raw: bytes, name: str) -> rsa.RSAPrivateKey:
    """A PEM private key, or the bare base64 of one, PKCS#8 or PKCS#1. Raises Permanent."""
    try:
        if b"-----BEGIN" in raw:
            key = serialization.load_pem_private_key(raw, None)
        else:
            key = serialization.load_der_private_key(_bare(raw), None)
    except (ValueError, TypeError):
        raise Permanent(f"the key {name} is no private key without a password") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise Permanent(f"key {name} is not an RSA key")
    long_enough(key, name)
    return key


def _bare(raw: bytes) -> bytes:
    return binascii.a2b_base64(b"".join(raw.split()), strict_mode=True)
