"""Alipay's notifications: what is authentic, and what it means."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from urllib.parse import parse_qsl

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orderloop.errors import Permanent
from orderloop.events import PaymentNotified
from orderloop_lab.simulators.alipay_keys import APP_ID, SELLER_ID, Keys
from payment_callback.channels import Question, Reason, Refused, Shape
from payment_callback.channels.alipay import Alipay
from payment_callback.channels.signing import any_private_key, any_public_key
from tests.support.alipay import ORDER_NO, TRADE_NO, refund, send, trade

NOW = datetime(2026, 11, 22, 9, 31, tzinfo=UTC)


@pytest.fixture
def channel(alipay: Keys) -> Alipay:
    key = any_public_key((alipay.folder / "alipay_public.txt").read_bytes(), "of Alipay")
    return Alipay(app_ids=[APP_ID], seller_id=SELLER_ID, key=key)


def refusal(do: Callable[[], object]) -> Reason:
    with pytest.raises(Refused) as caught:
        do()
    return caught.value.reason


@pytest.mark.parametrize("charset", ["utf-8", "gbk"])
@pytest.mark.parametrize("empty", [True, False])
def test_an_authentic_notice_passes_in_its_own_charset_with_or_without_empty_values(
    channel: Alipay, alipay: Keys, charset: str, empty: bool
) -> None:
    sent = send(alipay, trade(), charset=charset, empty=empty)

    channel.verify(sent.lower, sent.body, NOW)

    assert len(channel.translate(sent.body).facts) == 1


@given(data=st.data())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_changed_byte_is_refused(channel: Alipay, alipay: Keys, data: st.DataObject) -> None:
    sent = send(alipay, trade())
    place = data.draw(st.integers(0, len(sent.body) - 1))
    byte = data.draw(st.sampled_from(sorted(set(b"abcXYZ0189.&=%-+/") - {sent.body[place]})))
    changed = sent.body[:place] + bytes([byte]) + sent.body[place + 1 :]

    with suppress(Refused):
        channel.verify(sent.lower, changed, NOW)
        assert _values(changed) == _values(sent.body)  # another spelling of the same form, such as %2d for -


def _values(body: bytes) -> list[tuple[str, str]]:
    return parse_qsl(body.decode("latin-1"), keep_blank_values=True, encoding="latin-1")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda body: body.replace(b"total_amount=99.00", b"total_amount=0.01"), Reason.BAD_SIGNATURE),
        (lambda body: body + b"&extra=1", Reason.BAD_SIGNATURE),
        (lambda body: body.replace(b"sign_type=RSA2", b"sign_type=RSA"), Reason.SIGNATURE_TYPE),
        (lambda body: body.replace(b"&sign_type=RSA2", b""), Reason.SIGNATURE_TYPE),
        (lambda body: body.replace(b"sign=", b"sing="), Reason.HEADER_MISSING),
        (lambda body: body + b"&total_amount=99.00", Reason.MALFORMED),
        (lambda _: b"", Reason.MALFORMED),
        (lambda _: b"{}", Reason.MALFORMED),
        (lambda _: b"sign_type=RSA2&sign=%ff", Reason.BAD_SIGNATURE),
    ],
)
def test_what_is_not_the_channels_own_is_refused(
    channel: Alipay, alipay: Keys, change: Callable[[bytes], bytes], reason: Reason
) -> None:
    sent = send(alipay, trade())

    assert refusal(lambda: channel.verify(sent.lower, change(sent.body), NOW)) is reason


def test_a_strangers_key_is_refused(channel: Alipay, alipay: Keys) -> None:
    forger = Keys(alipay.attacker, alipay.attacker, alipay.app, alipay.folder)
    sent = send(forger, trade())

    assert refusal(lambda: channel.verify(sent.lower, sent.body, NOW)) is Reason.BAD_SIGNATURE


@pytest.mark.parametrize("status", ["TRADE_SUCCESS", "TRADE_FINISHED"])
def test_success_and_finished_are_one_fact(channel: Alipay, alipay: Keys, status: str) -> None:
    notice = channel.translate(send(alipay, trade(trade_status=status)).body)

    assert (notice.shape, notice.order_nos, notice.transaction_ids) == (Shape.TRANSACTION, (ORDER_NO,), (TRADE_NO,))
    (fact,) = notice.facts
    assert fact.event_id == f"alipay:{TRADE_NO}:paid"
    assert fact.event == PaymentNotified(
        order_no=ORDER_NO,
        channel="alipay",
        mchid=SELLER_ID,
        transaction_id=TRADE_NO,
        trade_state="SUCCESS",
        amount_fen=9900,
        payer_total_fen=9850,
        currency="CNY",
        paid_at=datetime(2026, 11, 22, 9, 30, 15, tzinfo=UTC),
        source="callback",
    )


def test_a_partial_refund_is_asked_about_and_still_says_that_it_was_paid(channel: Alipay, alipay: Keys) -> None:
    notice = channel.translate(send(alipay, refund("R2", "3.00")).body)

    assert notice.shape is Shape.REFUND
    assert notice.questions == (Question("alipay", ORDER_NO, TRADE_NO, "R2"),)
    assert [fact.event_id for fact in notice.facts] == [f"alipay:{TRADE_NO}:paid"]


def test_a_full_refund_closes_the_trade_and_is_asked_about(channel: Alipay, alipay: Keys) -> None:
    notice = channel.translate(send(alipay, refund("R1", "99.00", trade_status="TRADE_CLOSED")).body)

    assert (notice.shape, len(notice.questions), notice.facts) == (Shape.REFUND, 1, ())


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        (trade(trade_status="TRADE_CLOSED", gmt_close="2026-11-22 18:00:00"), Shape.CLOSED),
        (trade(trade_status="WAIT_BUYER_PAY"), Shape.TRANSACTION),
        (trade(out_trade_no="another_shop_77"), Shape.TRANSACTION),
        (refund("") | {"trade_status": "TRADE_CLOSED"}, Shape.REFUND),
    ],
)
def test_what_no_order_needs_to_hear_is_understood_and_becomes_no_event(
    channel: Alipay, alipay: Keys, fields: dict[str, str], shape: Shape
) -> None:
    notice = channel.translate(send(alipay, fields).body)

    assert (notice.shape, notice.facts, notice.questions) == (shape, (), ())
    assert notice.remark


@pytest.mark.parametrize("changes", [{"app_id": "2021"}, {"seller_id": "2088000000000000"}, {"seller_id": ""}])
def test_anothers_notice_is_refused(channel: Alipay, alipay: Keys, changes: dict[str, str]) -> None:
    assert refusal(lambda: channel.translate(send(alipay, trade(**changes)).body)) is Reason.WRONG_MERCHANT


@pytest.mark.parametrize("amount", ["99", "99.0", "99.00"])
def test_yuan_become_fen_exactly(channel: Alipay, alipay: Keys, amount: str) -> None:
    (fact,) = channel.translate(send(alipay, trade(total_amount=amount)).body).facts

    assert isinstance(fact.event, PaymentNotified)
    assert fact.event.amount_fen == 9900


@pytest.mark.parametrize(
    "changes",
    [
        {"total_amount": "99.001"},
        {"total_amount": "9.9e1"},
        {"total_amount": ""},
        {"total_amount": "-1"},
        {"total_amount": "٩٩"},
        {"gmt_payment": "yesterday"},
        {"gmt_payment": "2026-11-22T17:30:15+08:00"},
        {"trade_status": "TRADE_OF_TOMORROW"},
        {"trade_no": ""},
        {"trade_no": "x" * 65},
    ],
)
def test_what_is_authentic_but_not_understood_is_never_guessed(
    channel: Alipay, alipay: Keys, changes: dict[str, str]
) -> None:
    assert refusal(lambda: channel.translate(send(alipay, trade(**changes)).body)) is Reason.NOT_UNDERSTOOD


@pytest.mark.parametrize("missing", ["out_trade_no", "trade_no", "trade_status", "gmt_payment", "total_amount"])
def test_a_missing_field_is_never_guessed(channel: Alipay, alipay: Keys, missing: str) -> None:
    fields = trade()
    del fields[missing]

    assert refusal(lambda: channel.translate(send(alipay, fields).body)) is Reason.NOT_UNDERSTOOD


@pytest.mark.parametrize(("charset", "named"), [("utf-8", "klingon"), ("gbk", "utf-8")])
def test_a_form_that_is_not_in_its_charset_is_malformed(
    channel: Alipay, alipay: Keys, charset: str, named: str
) -> None:
    sent = send(alipay, trade(), charset=charset, named=named)
    channel.verify(sent.lower, sent.body, NOW)

    assert refusal(lambda: channel.translate(sent.body)) is Reason.MALFORMED


@given(fields=st.dictionaries(st.sampled_from([*refund()]), st.text(st.characters(codec="utf-8"), max_size=80)))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_authentic_form_ends_in_anything_but_a_notice_or_a_refusal(
    channel: Alipay, alipay: Keys, fields: dict[str, str]
) -> None:
    with suppress(Refused):
        channel.translate(send(alipay, refund() | fields).body)


def test_it_acknowledges_with_exactly_success_and_nothing_else() -> None:
    key = rsa.generate_private_key(65537, 2048).public_key()
    channel = Alipay(app_ids=["a"], seller_id="s", key=key)

    assert (channel.stored().status, channel.stored().body, channel.stored().media_type) == (
        200,
        b"success",
        b"text/plain",
    )
    assert channel.failed(503).body == b"fail"


def test_short_or_missing_keys_stop_the_start(alipay: Keys) -> None:
    small = rsa.generate_private_key(65537, 1024).public_key()  # noqa: S505

    with pytest.raises(Permanent, match="1024 bits"):
        Alipay(app_ids=["a"], seller_id="s", key=small)
    with pytest.raises(Permanent, match="app id"):
        Alipay(app_ids=[], seller_id="s", key=alipay.app)
    for junk in (b"junk", b"-----BEGIN PUBLIC KEY-----", b"-----BEGIN CERTIFICATE-----", b""):
        with pytest.raises(Permanent, match="no public key"):
            any_public_key(junk, "x")
        with pytest.raises(Permanent, match="no private key"):
            any_private_key(junk, "x")
