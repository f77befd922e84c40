"""Certificates for a host, right and wrong ones, from an authority of this folder's own."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Kind(StrEnum):
    VALID = "valid"
    EXPIRED = "expired"
    WRONG_HOST = "wrong_host"
    UNKNOWN = "unknown"  # from an authority that nobody trusts
    NONE = "none"  # no TLS at all


def make(folder: Path, kind: Kind, host: str) -> tuple[Path, Path] | None:
    """Writes ca.pem (to be trusted), and a certificate with its key, which it returns; None without TLS."""
    folder.mkdir(parents=True, exist_ok=True)
    authority_key, authority = _authority("the lab's authority")
    (folder / "ca.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    if kind is Kind.NONE:
        return None
    if kind is Kind.UNKNOWN:
        authority_key, authority = _authority("nobody's authority")
    key = ec.generate_private_key(ec.SECP256R1())
    ends = datetime.now(UTC) + timedelta(days=-1 if kind is Kind.EXPIRED else 90)
    certificate = (
        _draft(host, authority.subject, key.public_key(), ends)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("elsewhere.test" if kind is Kind.WRONG_HOST else host)]),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].touch(mode=0o600)
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def _authority(name: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _draft(name, _named(name), key.public_key(), datetime.now(UTC) + timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def _draft(name: str, issuer: x509.Name, key: ec.EllipticCurvePublicKey, ends: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(ends - timedelta(days=120 if ends < datetime.now(UTC) else 400))
        .not_valid_after(ends)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
