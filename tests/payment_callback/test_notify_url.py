import pytest

from payment_callback.doctor.allow_list import ADDRESSES, FIREWALLS, snippet
from payment_callback.doctor.url import faults, is_public
from payment_callback.doctor.verdict import Verdict

GOOD = "https://pay.example.com/v1/order/callback/wechat"


@pytest.mark.parametrize(
    ("url", "verdicts"),
    [
        (GOOD, []),
        (GOOD + "/", [Verdict.TRAILING_SLASH]),
        ("http" + GOOD[5:], [Verdict.NOT_HTTPS]),
        (GOOD + "?a=1", [Verdict.BAD_URL]),
        (GOOD + "?", [Verdict.BAD_URL]),
        (GOOD + "#a", [Verdict.BAD_URL]),
        ("https://pay.example.com:443/x", []),
        ("https://pay.example.com:8443/x", [Verdict.BAD_URL]),
        ("http://pay.example.com:80/x", [Verdict.NOT_HTTPS]),
        ("https://user:secret@pay.example.com/x", [Verdict.BAD_URL]),
        ("https://203.0.113.7/x", [Verdict.BAD_URL]),
        ("https://[2001:db8::1]/x", [Verdict.BAD_URL]),
        ("https://pay.example.com/回调", [Verdict.BAD_URL]),
        ("https://pay.example.com/" + "x" * 231, []),
        ("https://pay.example.com/" + "x" * 232, [Verdict.BAD_URL]),
        ("pay.example.com/x", [Verdict.BAD_URL]),
        ("https:///x", [Verdict.BAD_URL]),
        ("https://pay.example.com:port/x", [Verdict.BAD_URL]),
        ("", [Verdict.BAD_URL]),
    ],
)
def test_what_the_channel_demands_of_a_notify_url(url: str, verdicts: list[Verdict]) -> None:
    assert [fault.verdict for fault in faults(url)] == verdicts


def test_addresses_that_the_channel_cannot_reach() -> None:
    assert [is_public(one) for one in ("8.8.8.8", "2606:4700::1111")] == [True, True]
    assert not any(
        map(is_public, ("127.0.0.1", "10.1.2.3", "192.168.1.1", "100.64.0.1", "::1", "fe80::1%eth0", "fd00::1"))
    )


@pytest.mark.parametrize("firewall", FIREWALLS)
def test_every_allow_list_names_the_path_and_the_method(firewall: str) -> None:
    said = snippet(firewall, "/v1/order/callback/wechat")

    assert "/v1/order/callback/wechat" in said
    assert "POST" in said


def test_the_nginx_snippet_lists_the_channel_s_addresses_as_a_hint() -> None:
    assert all(f"# allow {address};" in snippet("nginx", "/x") for address in ADDRESSES)
