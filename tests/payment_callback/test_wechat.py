"""WeChat Pay's rules, one by one. Whoever signs here, the simulator, openssl, plain arithmetic, it is none of ours."""

import base64
import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wechatpayv3 import WeChatPay, WeChatPayType

from orderloop.errors import Permanent
from orderloop.events import PaymentNotified, RefundNotified
from orderloop_lab.simulators.wechat_keys import APPID, MCHID, KeyMode, Keys, self_signed
from payment_callback.channels import Notice, Question, Reason, Refused, Shape
from payment_callback.channels.wechat import WeChat
from payment_callback.channels.wechat_content import Transaction, read
from payment_callback.channels.wechat_keys import VerifyingKey, certificates, public_key
from tests.support.wechat import (
    ORDER_NO,
    SHAPES,
    TRANSACTION_ID,
    Sent,
    bent,
    combined,
    refund,
    send,
    sign,
    transaction,
)

NOW = datetime(2026, 11, 22, 9, 30, 20, tzinfo=UTC)
AT = NOW.timestamp()
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=5,
)
_PAID = {"out_trade_no", "transaction_id", "trade_state", "success_time", "amount", "currency", "mchid"}
# What a notice cannot be understood without, or not in another form.
NEEDED = {
    "transaction": _PAID | {"appid", "total", "payer_total"},
    "partner": _PAID - {"mchid"} | {"sp_mchid", "sp_appid", "total", "payer_total"},
    "combined": _PAID
    | {"combine_mchid", "combine_appid", "combine_out_trade_no", "sub_orders", "0", "total_amount", "payer_amount"},
    "refund": {"mchid", "transaction_id", "out_trade_no", "refund_id", "out_refund_no", "refund_status"}
    | {"success_time", "amount", "total", "refund"},
    "profit_sharing": {"transaction_id", "order_id", "receiver"},
    "echo": {"echo_message"},
}


def refusal(call: Callable[[], object]) -> Reason:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value.reason


@pytest.mark.parametrize("mode", [KeyMode.PUBLIC_KEY, KeyMode.CERTIFICATE])
def test_both_kinds_of_keys_verify_side_by_side(channel: WeChat, keys: Keys, mode: KeyMode) -> None:
    sent = send(keys, transaction(), mode=mode, at=AT)

    channel.verify(sent.lower, sent.body, NOW)


def test_a_certificates_serial_counts_as_a_number_however_it_is_written(channel: WeChat, keys: Keys) -> None:
    sent = send(keys, transaction(), mode=KeyMode.CERTIFICATE, at=AT)

    channel.verify(sent.lower | {"wechatpay-serial": "00" + keys.certificate_serial.lower()}, sent.body, NOW)


def by_openssl(key: Path, message: bytes) -> bytes:
    command = ["openssl", "dgst", "-sha256", "-sign", str(key)]
    return subprocess.run(command, input=message, capture_output=True, check=True).stdout


def by_arithmetic(key: Path, message: bytes) -> bytes:
    """RFC 8017, 8.2.1, with nothing but integers."""
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    assert isinstance(private, rsa.RSAPrivateKey)
    n, d = private.public_key().public_numbers().n, private.private_numbers().d
    digest_info = bytes.fromhex("3031300d060960864801650304020105000420") + hashlib.sha256(message).digest()
    padded = b"\x00\x01" + b"\xff" * (256 - 3 - len(digest_info)) + b"\x00" + digest_info
    return pow(int.from_bytes(padded, "big"), d, n).to_bytes(256, "big")


# A machine need not have the command line.
SIGNERS = [by_arithmetic, *([by_openssl] if shutil.which("openssl") else [])]


@pytest.mark.parametrize("by", SIGNERS)
@pytest.mark.parametrize("body", ['{"金额":1}'.encode(), b"", b"\n"])
def test_what_others_sign_by_the_book_verifies(
    channel: WeChat, keys: Keys, by: Callable[[Path, bytes], bytes], body: bytes
) -> None:
    message = b"%d\nabc\n%b\n" % (int(AT), body)
    signature = by(keys.folder / "private" / "public_key_mode.pem", message)

    channel.verify(
        {
            "wechatpay-serial": keys.public_key_id,
            "wechatpay-signature": base64.b64encode(signature).decode(),
            "wechatpay-timestamp": str(int(AT)),
            "wechatpay-nonce": "abc",
        },
        body,
        NOW,
    )


@pytest.mark.parametrize("mode", [KeyMode.PUBLIC_KEY, KeyMode.CERTIFICATE])
def test_an_independent_library_reads_the_same_from_the_same_notice(channel: WeChat, keys: Keys, mode: KeyMode) -> None:
    sent = send(keys, transaction(), mode=mode, at=AT)
    by_key = {"public_key": (keys.folder / "public_key.pem").read_text(), "public_key_id": keys.public_key_id}
    by_certificate = {"cert_dir": str(keys.folder / "certificates")}
    oracle = WeChatPay(
        wechatpay_type=WeChatPayType.JSAPI,
        mchid=MCHID,
        private_key=(keys.folder / "merchant" / "private_key.pem").read_text(),
        cert_serial_no=keys.merchant_serial,
        apiv3_key=keys.apiv3_key.decode(),
        appid=APPID,
        **(by_key if mode is KeyMode.PUBLIC_KEY else by_certificate),
    )

    theirs = oracle.callback(sent.headers, sent.body)
    channel.verify(sent.lower, sent.body, NOW)

    assert theirs["resource"] == channel.decrypt(sent.body) == transaction()


@pytest.mark.parametrize(("age", "fresh"), [(299, True), (300, False), (-299, True), (-300, False), (90_000, False)])
def test_five_minutes_either_way_are_the_limit(channel: WeChat, keys: Keys, age: int, fresh: bool) -> None:
    sent = send(keys, transaction(), at=AT - age)

    if fresh:
        channel.verify(sent.lower, sent.body, NOW)
    else:
        assert refusal(lambda: channel.verify(sent.lower, sent.body, NOW)) is Reason.CLOCK


@pytest.mark.parametrize("timestamp", ["", "-1", "1e9", " 1763803820", "１７６３８０３８２０", "1" * 40, "0x1"])
def test_a_timestamp_is_plain_digits(channel: WeChat, keys: Keys, timestamp: str) -> None:
    sent = send(keys, transaction(), at=AT)

    headers = sent.lower | {"wechatpay-timestamp": timestamp}

    assert refusal(lambda: channel.verify(headers, sent.body, NOW)) is Reason.CLOCK


@pytest.mark.parametrize("name", ["serial", "signature", "timestamp", "nonce"])
def test_every_header_is_needed(channel: WeChat, keys: Keys, name: str) -> None:
    headers = send(keys, transaction(), at=AT).lower
    del headers[f"wechatpay-{name}"]

    assert refusal(lambda: channel.verify(headers, b"", NOW)) is Reason.HEADER_MISSING


def test_a_missing_signature_type_means_the_default_and_another_one_is_refused(channel: WeChat, keys: Keys) -> None:
    sent = send(keys, transaction(), at=AT)
    without = {name: value for name, value in sent.lower.items() if name != "wechatpay-signature-type"}

    channel.verify(without, sent.body, NOW)
    other = sent.lower | {"wechatpay-signature-type": "WECHATPAY2-SM2-WITH-SM3"}

    assert refusal(lambda: channel.verify(other, sent.body, NOW)) is Reason.SIGNATURE_TYPE


@pytest.mark.parametrize("serial", ["PUB_KEY_ID_of_somebody_else", "5F00", "not hexadecimal"])
@pytest.mark.parametrize("age", [0, 9000])
def test_a_probe_is_a_probe_under_any_serial_and_at_any_time(
    channel: WeChat, keys: Keys, serial: str, age: int
) -> None:
    sent = send(keys, transaction(), at=AT - age)
    signature = "WECHATPAY/SIGNTEST/" + sent.headers["Wechatpay-Signature"]
    headers = sent.lower | {"wechatpay-signature": signature[:344], "wechatpay-serial": serial}

    assert refusal(lambda: channel.verify(headers, sent.body, NOW)) is Reason.PROBE


@pytest.mark.parametrize("serial", ["PUB_KEY_ID_0000", "0123456789ABCDEF", "", "é", "not hexadecimal"])
def test_an_unknown_serial_is_refused(channel: WeChat, keys: Keys, serial: str) -> None:
    sent = send(keys, transaction(), at=AT)

    headers = sent.lower | {"wechatpay-serial": serial}

    assert refusal(lambda: channel.verify(headers, sent.body, NOW)) is Reason.UNKNOWN_SERIAL


def test_a_strangers_key_under_our_serial_is_refused(channel: WeChat, keys: Keys) -> None:
    sent = send(keys, transaction(), mode=KeyMode.CERTIFICATE, at=AT)

    headers = sent.lower | {"wechatpay-serial": keys.public_key_id}

    assert refusal(lambda: channel.verify(headers, sent.body, NOW)) is Reason.BAD_SIGNATURE


@pytest.mark.parametrize("signature", ["", "AAAA", "not base64!", "é", "AAAA" * 86])
def test_a_signature_that_is_none_is_refused(channel: WeChat, keys: Keys, signature: str) -> None:
    sent = send(keys, transaction(), at=AT)

    headers = sent.lower | {"wechatpay-signature": signature}

    assert refusal(lambda: channel.verify(headers, sent.body, NOW)) is Reason.BAD_SIGNATURE


@given(data=st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_bit_is_refused(channel: WeChat, keys: Keys, data: st.DataObject) -> None:
    sent = send(keys, transaction(), at=AT, nonce="5K8264ILTKCH16CQ2502SI8ZNMTM67VS")
    part = data.draw(st.sampled_from(["body", "wechatpay-signature", "wechatpay-timestamp", "wechatpay-nonce"]))
    original = sent.body if part == "body" else sent.lower[part].encode()
    bit = data.draw(st.integers(0, len(original) * 8 - 1))
    flipped = bytearray(original)
    flipped[bit // 8] ^= 1 << (bit % 8)
    headers, body = dict(sent.lower), sent.body
    if part == "body":
        body = bytes(flipped)
    else:
        headers[part] = flipped.decode("latin-1")

    assert refusal(lambda: channel.verify(headers, body, NOW)) in {Reason.BAD_SIGNATURE, Reason.CLOCK}


def test_every_spelling_of_the_last_signature_character_but_one_is_refused(channel: WeChat, keys: Keys) -> None:
    """256 bytes leave four unused bits in base64: a lax decoder takes 16 spellings for one signature."""
    sent = send(keys, transaction(), at=AT)
    signature = sent.headers["Wechatpay-Signature"]
    accepted: list[str] = []
    for character in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/":
        headers = sent.lower | {"wechatpay-signature": f"{signature[:341]}{character}=="}
        try:
            channel.verify(headers, sent.body, NOW)
        except Refused:
            continue
        accepted.append(character)

    assert accepted == [signature[341]]


def test_a_payment_becomes_one_payment_notified(channel: WeChat, keys: Keys) -> None:
    notice = channel.translate(send(keys, transaction()).body)

    assert (notice.shape, notice.order_nos, notice.transaction_ids) == (
        Shape.TRANSACTION,
        (ORDER_NO,),
        (TRANSACTION_ID,),
    )
    (fact,) = notice.facts
    assert fact.event_id == f"wechat:{TRANSACTION_ID}:paid"
    assert fact.event == PaymentNotified(
        order_no=ORDER_NO,
        channel="wechat",
        mchid=MCHID,
        transaction_id=TRANSACTION_ID,
        trade_state="SUCCESS",
        amount_fen=9900,
        payer_total_fen=9800,
        currency="CNY",
        paid_at=datetime(2026, 11, 22, 9, 30, 15, tzinfo=UTC),
        source="callback",
    )


def test_the_event_type_of_the_envelope_decides_nothing(channel: WeChat, keys: Keys) -> None:
    sent = send(keys, refund(), event_type="TRANSACTION.SUCCESS", original_type="transaction")

    assert channel.translate(sent.body).shape is Shape.REFUND


def test_an_empty_or_absent_associated_data_is_fine(channel: WeChat, keys: Keys) -> None:
    empty = send(keys, transaction(), associated_data="")
    envelope = json.loads(empty.body)
    del envelope["resource"]["associated_data"]

    assert channel.translate(empty.body) == channel.translate(json.dumps(envelope).encode())


def test_a_combined_payment_becomes_one_event_for_each_order(channel: WeChat, keys: Keys) -> None:
    other = "261122093016ABCDEFGH1235"

    notice = channel.translate(send(keys, combined((ORDER_NO, "T1"), (other, "T2"))).body)

    assert notice.shape is Shape.COMBINED
    assert [(fact.event_id, fact.event.order_no) for fact in notice.facts] == [
        ("wechat:T1:paid", ORDER_NO),
        ("wechat:T2:paid", other),
    ]
    events = [fact.event for fact in notice.facts if isinstance(fact.event, PaymentNotified)]
    assert [(event.mchid, event.amount_fen, event.payer_total_fen) for event in events] == [
        ("1900000109", 100, 90),
        ("1900000109", 100, 90),
    ]


def test_a_partners_notice_is_checked_by_its_service_provider(channel: WeChat, keys: Keys) -> None:
    plain = transaction(sp_mchid=MCHID, sp_appid=APPID, sub_mchid="1900000109", sub_appid="wx1")
    del plain["mchid"], plain["appid"]

    assert len(channel.translate(send(keys, plain).body).facts) == 1


@pytest.mark.parametrize(
    ("status", "event_id"),
    [
        ("SUCCESS", "wechat:50300001234567890123456789012:refunded"),
        ("ABNORMAL", "wechat:50300001234567890123456789012:abnormal"),
        ("CLOSED", "wechat:50300001234567890123456789012:closed"),
    ],
)
def test_a_refund_that_ends_differently_is_another_fact(
    channel: WeChat, keys: Keys, status: str, event_id: str
) -> None:
    plain = refund(refund_status=status)
    if status != "SUCCESS":
        del plain["success_time"]

    (fact,) = channel.translate(send(keys, plain).body).facts

    assert fact.event_id == event_id
    assert isinstance(fact.event, RefundNotified)
    assert (fact.event.refund_fen, fact.event.total_fen) == (100, 9900)
    assert (fact.event.finished_at is None) == (status != "SUCCESS")


@pytest.mark.parametrize("merchant", [{}, {"sp_mchid": MCHID, "sub_mchid": "1900000109"}])
def test_a_refund_may_name_its_merchant_differently_or_not_at_all(
    channel: WeChat, keys: Keys, merchant: dict[str, str]
) -> None:
    plain = refund() | merchant
    del plain["mchid"]

    assert len(channel.translate(send(keys, plain).body).facts) == 1


@pytest.mark.parametrize(
    ("plain", "shape"),
    [
        (
            {
                "mchid": MCHID,
                "transaction_id": TRANSACTION_ID,
                "order_id": "3008450740201411110007820472",
                "out_order_no": "P1",
                "receiver": {"type": "MERCHANT_ID", "account": "190001001", "amount": 888, "description": "分账"},
                "success_time": "2026-11-22T17:30:15+08:00",
            },
            Shape.PROFIT_SHARING,
        ),
        ({"echo_message": "hello", "encrypt_echo_message": "x"}, Shape.ECHO),
        (transaction(trade_state="REFUND"), Shape.TRANSACTION),
        (transaction(out_trade_no="another-shop-77"), Shape.TRANSACTION),
        (refund(out_trade_no="another-shop-77"), Shape.REFUND),
    ],
)
def test_what_no_order_needs_to_hear_becomes_no_event_but_is_understood(
    channel: WeChat, keys: Keys, plain: dict[str, Any], shape: Shape
) -> None:
    notice = channel.translate(send(keys, plain).body)

    assert (notice.shape, notice.facts) == (shape, ())
    assert notice.remark


@pytest.mark.parametrize(
    "plain",
    [
        transaction(mchid="1900000001"),
        transaction(appid="wx_of_somebody"),
        refund(mchid="1900000001"),
        combined((ORDER_NO, "T1")) | {"combine_mchid": "1900000001"},
        combined((ORDER_NO, "T1")) | {"combine_appid": "wx_of_somebody"},
    ],
)
def test_another_merchants_notice_is_refused(channel: WeChat, keys: Keys, plain: dict[str, Any]) -> None:
    sent = send(keys, plain)

    assert refusal(lambda: channel.translate(sent.body)) is Reason.WRONG_MERCHANT


@pytest.mark.parametrize(
    "amount",
    [
        {"total": 99.0, "payer_total": 99},
        {"total": "9900", "payer_total": 9900},
        {"total": -1, "payer_total": 1},
        {"total": True, "payer_total": 1},
        {"total": 10**30, "payer_total": 1},
        {"total": None},
        {},
        None,
    ],
)
def test_an_amount_that_is_no_number_of_fen_is_never_guessed(channel: WeChat, keys: Keys, amount: object) -> None:
    sent = send(keys, transaction(amount=amount))

    assert refusal(lambda: channel.translate(sent.body)) is Reason.NOT_UNDERSTOOD


def test_an_amount_paid_wholly_by_coupons_is_zero_for_the_payer(channel: WeChat, keys: Keys) -> None:
    (fact,) = channel.translate(send(keys, transaction(amount={"total": 5, "payer_total": 0})).body).facts

    assert isinstance(fact.event, PaymentNotified)
    assert (fact.event.amount_fen, fact.event.payer_total_fen, fact.event.currency) == (5, 0, "CNY")


@pytest.mark.parametrize(
    "plain",
    [
        {"a_shape": "of tomorrow"},
        {},
        transaction(success_time="2026-11-22T17:30:15"),
        transaction(success_time="yesterday"),
        transaction(success_time=None),
        transaction(transaction_id=None),
        transaction(transaction_id="4\0"),
        transaction(out_trade_no=7),
        transaction(success_time="0001-01-01T00:00:00+08:00"),
        transaction(appid=None),
        combined((ORDER_NO, "T1")) | {"sub_orders": None},
        combined((ORDER_NO, "T1")) | {"sub_orders": []},
        refund(amount=7),
        refund(refund_status="OF_TOMORROW"),
        refund(out_refund_no=None),
    ],
)
def test_what_is_authentic_but_not_understood_is_refused_without_its_values(
    channel: WeChat, keys: Keys, plain: dict[str, Any]
) -> None:
    sent = send(keys, plain)

    with pytest.raises(Refused) as caught:
        channel.translate(sent.body)

    assert caught.value.reason is Reason.NOT_UNDERSTOOD
    assert "2026" not in caught.value.detail


def changed(sent: Sent, **resource: Any) -> bytes:
    envelope = json.loads(sent.body)
    envelope["resource"] |= resource
    return json.dumps(envelope).encode()


def test_a_broken_tag_another_key_or_other_associated_data_do_not_decrypt(channel: WeChat, keys: Keys) -> None:
    sent = send(keys, transaction())
    ciphertext = json.loads(sent.body)["resource"]["ciphertext"]
    broken = ("A" if ciphertext[0] != "A" else "B") + ciphertext[1:]
    stranger = WeChat(
        mchid=MCHID, appids=[APPID], apiv3_key=b"x" * 32, keys={"A": VerifyingKey(keys.public_key.public_key())}
    )

    assert refusal(lambda: channel.translate(changed(sent, ciphertext=broken))) is Reason.UNDECRYPTABLE
    assert refusal(lambda: channel.translate(changed(sent, ciphertext=""))) is Reason.UNDECRYPTABLE
    assert refusal(lambda: channel.translate(changed(sent, associated_data="other"))) is Reason.UNDECRYPTABLE
    assert refusal(lambda: stranger.translate(sent.body)) is Reason.UNDECRYPTABLE


@pytest.mark.parametrize("part", ["ciphertext", "tag", "nonce", "associated_data"])
@given(data=st.data())
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_bit_below_the_signature_does_not_decrypt(
    channel: WeChat, keys: Keys, part: str, data: st.DataObject
) -> None:
    sent = send(keys, transaction())
    resource = json.loads(sent.body)["resource"]
    sealed = base64.b64decode(resource["ciphertext"])
    originals = {
        "ciphertext": sealed[:-16],
        "tag": sealed[-16:],
        "nonce": resource["nonce"].encode(),
        "associated_data": resource["associated_data"].encode(),
    }
    width = 8 if part in {"ciphertext", "tag"} else 7  # the others are text: with an eighth bit they would be none
    bit = data.draw(st.integers(0, len(originals[part]) * width - 1))
    flipped = bytearray(originals[part])
    flipped[bit // width] ^= 1 << (bit % width)
    parts = originals | {part: bytes(flipped)}
    change = {
        "ciphertext": base64.b64encode(parts["ciphertext"] + parts["tag"]).decode(),
        "nonce": parts["nonce"].decode(),
        "associated_data": parts["associated_data"].decode(),
    }

    assert refusal(lambda: channel.translate(changed(sent, **change))) is Reason.UNDECRYPTABLE


@pytest.mark.parametrize(
    "resource",
    [
        {"algorithm": "AEAD_SM4_GCM"},
        {"nonce": "short"},
        {"nonce": 7},
        {"ciphertext": "é"},
        {"ciphertext": None},
        {"associated_data": 7},
    ],
)
def test_a_resource_of_another_form_is_malformed(channel: WeChat, keys: Keys, resource: dict[str, Any]) -> None:
    body = changed(send(keys, transaction()), **resource)

    assert refusal(lambda: channel.translate(body)) is Reason.MALFORMED


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"resource":[]}', b"\xff\xfe", b"{}", b"1" * 5000])
def test_a_body_that_is_no_envelope_is_malformed(channel: WeChat, keys: Keys, body: bytes) -> None:
    sent = sign(keys, body, at=AT)
    channel.verify(sent.lower, sent.body, NOW)

    assert refusal(lambda: channel.translate(body)) is Reason.MALFORMED


@pytest.mark.parametrize("shape", SHAPES)
@given(data=st.data())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_authentic_content_ends_in_anything_but_a_notice_or_a_refusal(
    channel: WeChat, keys: Keys, shape: str, data: st.DataObject
) -> None:
    plain = data.draw(st.sampled_from([content for _, content in bent(SHAPES[shape])]))
    more = data.draw(st.dictionaries(st.sampled_from([*transaction(), *refund(), "sub_orders"]), ANYTHING, max_size=3))

    with suppress(Refused):
        channel.translate(send(keys, plain | more).body)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_field_that_no_order_needs_never_costs_a_notice(channel: WeChat, keys: Keys, shape: str) -> None:
    """Every documented field may be of another form; what the facts are made of may not."""
    whole = channel.translate(send(keys, SHAPES[shape]).body)

    refused = {path for path, content in bent(SHAPES[shape]) if not _same(channel, keys, content, whole)}

    assert {path.split(".")[-1] for path in refused} == NEEDED[shape]


def _same(channel: WeChat, keys: Keys, content: dict[str, Any], whole: Notice) -> bool:
    try:
        return channel.translate(send(keys, content).body) == whole
    except Refused:
        return False


def test_what_is_not_documented_is_kept_at_every_depth() -> None:
    content = read(transaction(new="1", payer={"openid": "o", "level": 3}, amount={"total": 1, "tax": 2}))

    assert isinstance(content, Transaction)
    assert content.model_extra == {"new": "1"}
    assert content.payer.model_extra == {"level": 3}
    assert content.amount is not None
    assert content.amount.model_extra == {"tax": 2}


@pytest.mark.parametrize("amount", [None, {}, {"refund": 100}, {"total": 9900}, "absent"])
def test_a_refund_that_does_not_say_how_much_is_asked_about(channel: WeChat, keys: Keys, amount: object) -> None:
    plain = refund(amount=amount)
    if amount == "absent":
        del plain["amount"]

    notice = channel.translate(send(keys, plain).body)

    assert (notice.facts, notice.questions) == ((), (Question("wechat", ORDER_NO, TRANSACTION_ID, "R1"),))


def test_short_or_missing_keys_stop_the_start(keys: Keys) -> None:
    good = VerifyingKey(keys.public_key.public_key())
    small = rsa.generate_private_key(65537, 1024).public_key()  # noqa: S505
    curve = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = curve.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    with pytest.raises(Permanent, match="31 bytes"):
        WeChat(mchid=MCHID, appids=[APPID], apiv3_key=b"x" * 31, keys={"A": good})
    with pytest.raises(Permanent, match="1024 bits"):
        WeChat(mchid=MCHID, appids=[APPID], apiv3_key=b"x" * 32, keys={"A": VerifyingKey(small)})
    with pytest.raises(Permanent, match="not an RSA key"):
        public_key("PUB_KEY_ID_1", pem)
    with pytest.raises(Permanent, match="PUB_KEY_ID_"):
        public_key("1", pem)
    with pytest.raises(Permanent, match="no PEM public key"):
        public_key("PUB_KEY_ID_1", b"junk")
    with pytest.raises(Permanent, match="no PEM certificate"):
        certificates([b"junk"])


def test_a_certificate_is_good_from_its_beginning_until_its_end(keys: Keys) -> None:
    second = timedelta(seconds=1)
    certificate = self_signed(keys.certificate, begins=NOW - 2 * second, ends=NOW)
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    channel = WeChat(mchid=MCHID, appids=[APPID], apiv3_key=keys.apiv3_key, keys=certificates([pem]))
    sent = send(keys, transaction(), mode=KeyMode.CERTIFICATE, at=AT)
    headers = sent.lower | {"wechatpay-serial": f"{certificate.serial_number:X}"}

    def judge(now: datetime) -> None:
        channel.verify(headers, sent.body, now)

    judge(NOW - 2 * second)
    judge(NOW - second)

    assert refusal(lambda: judge(NOW)) is Reason.CERTIFICATE_EXPIRED
    assert refusal(lambda: judge(NOW - 3 * second)) is Reason.CERTIFICATE_TOO_EARLY
