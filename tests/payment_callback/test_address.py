import pytest

from payment_callback.address import networks, of_client

PROXIES = networks("10.0.0.0/8, 192.168.1.7")


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("101.226.103.15", "", "101.226.103.15"),
        ("101.226.103.15", "1.2.3.4", "101.226.103.15"),  # no proxy of ours: what it claims means nothing
        ("10.0.0.1", "101.226.103.15", "101.226.103.15"),
        ("10.0.0.1", "1.2.3.4, 101.226.103.15", "101.226.103.15"),  # the left one was written by the stranger
        ("10.0.0.1", "1.2.3.4, 101.226.103.15, 10.2.2.2,192.168.1.7", "101.226.103.15"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "nonsense", "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4, nonsense, 10.2.2.2", "10.2.2.2"),
        ("::ffff:10.0.0.1", "2001:db8::1", "2001:db8::1"),
        ("testclient", "1.2.3.4", "testclient"),
        (None, "1.2.3.4", None),
    ],
)
def test_only_our_own_proxies_are_believed(peer: str | None, forwarded_for: str, client: str | None) -> None:
    assert of_client(peer, forwarded_for, PROXIES) == client


def test_without_proxies_the_socket_speaks_for_itself() -> None:
    assert of_client("10.0.0.1", "1.2.3.4", networks("")) == "10.0.0.1"


def test_a_network_that_is_none_is_said_to_be_none() -> None:
    with pytest.raises(ValueError, match="10"):
        networks("10.0.0.0/99")
