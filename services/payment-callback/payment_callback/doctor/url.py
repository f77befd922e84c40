"""What the channel demands of a notify URL before anything is sent. Pure.

Sources: the channel's payment pages (at most 255 characters, public, no query), community reports (ports).
"""

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from .verdict import Verdict

_LONGEST = 255


@dataclass(frozen=True, slots=True)
class Fault:
    verdict: Verdict
    text: str


def parse(url: str) -> SplitResult | None:
    """None if it is no absolute http(s) URL."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts if parts.scheme in ("http", "https") and parts.hostname else None


def faults(url: str) -> list[Fault]:
    """Everything that is wrong with the URL's form, the gravest first."""
    parts = parse(url)
    if parts is None:
        return [Fault(Verdict.BAD_URL, "it is no absolute https URL")]
    found: list[Fault] = []
    if len(url) > _LONGEST:
        found.append(Fault(Verdict.BAD_URL, f"it has {len(url)} characters, the channel takes {_LONGEST}"))
    if "?" in url or "#" in url:
        found.append(Fault(Verdict.BAD_URL, "it has a query or a fragment, which the channel refuses"))
    if parts.username is not None:
        found.append(Fault(Verdict.BAD_URL, "it carries a user name"))
    if not url.isascii():
        found.append(Fault(Verdict.BAD_URL, "it has characters that are not ASCII"))
    if parts.scheme != "https":
        found.append(Fault(Verdict.NOT_HTTPS, "it is http"))
    if parts.path.endswith("/"):
        found.append(Fault(Verdict.TRAILING_SLASH, "its path ends with a slash"))
    if parts.port not in (None, 443 if parts.scheme == "https" else 80):
        found.append(
            Fault(Verdict.BAD_URL, f"it names port {parts.port}: notify URLs with a port reportedly do not work")
        )
    if _is_address(parts.hostname or ""):
        found.append(Fault(Verdict.BAD_URL, "its host is an address, for which no public certificate is issued"))
    return found


def is_public(address: str) -> bool:
    return ip_address(address.partition("%")[0]).is_global


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
