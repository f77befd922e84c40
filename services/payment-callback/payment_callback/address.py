"""Whose request it is, behind proxies. Pure."""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network


def networks(text: str) -> tuple[Network, ...]:
    """`10.0.0.0/8, 192.168.1.7`. Raises ValueError."""
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


def of_client(peer: str | None, forwarded_for: str, trusted: Iterable[Network]) -> str | None:
    """The last address of `X-Forwarded-For` that no trusted proxy of ours has; the socket's own if that is no proxy.

    What stands left of that address was written by the stranger, and means nothing.
    """
    trusted = tuple(trusted)
    client = peer
    for claimed in reversed([part.strip() for part in forwarded_for.split(",")]):
        if client is None or not _within(client, trusted):
            return client
        if not _is_address(claimed):
            return client
        client = claimed
    return client


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _within(address: str, trusted: tuple[Network, ...]) -> bool:
    if not _is_address(address):
        return False
    parsed = ip_address(address)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return any((mapped or parsed) in network for network in trusted)
