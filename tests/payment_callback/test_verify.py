"""A captured callback, judged on somebody's own machine: through the command, as a person would."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orderloop_lab.simulators.alipay_keys import open_keys as open_alipay_keys
from orderloop_lab.simulators.wechat_keys import KeyMode, Keys
from payment_callback.__main__ import main
from tests.support import alipay
from tests.support.wechat import TRANSACTION_ID, Sent, send, transaction

AT = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)


def verify(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """What the command exits with, says and complains about."""
    ended = CliRunner().invoke(main, ("verify", *arguments, "--json"), env={"COLUMNS": "200"})
    return ended.exit_code, json.loads(ended.stdout or "{}"), ended.stderr


@dataclass
class Capture:
    folder: Path
    keys: Keys

    def keep(self, sent: Sent, *, raw: bool = False) -> None:
        lines = "POST /v1/order/callback/wechat HTTP/1.1\r\n" + "".join(
            f"{k}: {v}\r\n" for k, v in sent.headers.items()
        )
        (self.folder / "headers").write_text(lines if raw else json.dumps(sent.headers))
        (self.folder / "body").write_bytes(sent.body)

    def judge(self, *options: str, at: str = "2026-11-22T17:30:30+08:00") -> tuple[int, dict[str, Any], str]:
        given = options or (
            "--public-key",
            str(self.keys.folder / "public_key.pem"),
            "--serial",
            self.keys.public_key_id,
        )
        return verify(
            *("wechat", "--at", at, *given),
            *("--headers", str(self.folder / "headers"), "--body", str(self.folder / "body")),
        )

    @property
    def apiv3(self) -> tuple[str, ...]:
        return (
            *("--public-key", str(self.keys.folder / "public_key.pem"), "--serial", self.keys.public_key_id),
            *("--apiv3-key-file", str(self.keys.folder / "apiv3.key")),
        )


@pytest.fixture
def capture(tmp_path: Path, keys: Keys) -> Capture:
    return Capture(tmp_path, keys)


def sent(keys: Keys, **how: Any) -> Sent:
    return send(keys, transaction(), at=AT.timestamp(), **how)


@pytest.mark.parametrize("raw", [True, False])
def test_an_authentic_callback_is_shown_with_its_key_clock_and_masked_content(
    capture: Capture, keys: Keys, raw: bool
) -> None:
    capture.keep(sent(keys), raw=raw)

    status, said, _ = capture.judge(*capture.apiv3)

    assert (status, said["authentic"]) == (0, True)
    assert keys.public_key_id in said["facts"]["key"]
    assert "+30 s" in said["facts"]["clock"]
    assert said["content"]["transaction_id"] == TRANSACTION_ID
    assert said["content"]["amount"]["total"] == 9900
    assert "oUpF8u" not in json.dumps(said)
    assert f"wechat:{TRANSACTION_ID}:paid" in said["remark"]


def test_a_platform_certificate_judges_and_without_the_apiv3_key_the_signature_still_is(
    capture: Capture, keys: Keys
) -> None:
    capture.keep(sent(keys, mode=KeyMode.CERTIFICATE))
    (pem,) = (keys.folder / "certificates").glob("*.pem")

    status, said, _ = capture.judge("--certificate", str(pem), at=str(AT.timestamp()))

    assert (status, said["authentic"], said["content"]) == (0, True, None)
    assert "valid until" in said["facts"]["key"]
    assert "Not decrypted" in said["remark"]


@pytest.mark.parametrize(
    ("damage", "reason", "detail"),
    [
        (lambda s: Sent(s.headers, s.body + b"\n"), "bad_signature", "without the newline at the end"),
        (lambda s: Sent(s.headers, s.body.replace(b"encrypt", b"encrypd")), "bad_signature", "another key"),
        (lambda s: Sent(s.headers | {"Wechatpay-Serial": "PUB_KEY_ID_1"}, s.body), "unknown_serial", "signed under"),
        (lambda s: Sent(s.headers | {"Wechatpay-Timestamp": "1"}, s.body), "clock", "300 s"),
        (
            lambda s: Sent({k: v for k, v in s.headers.items() if k != "Wechatpay-Nonce"}, s.body),
            "header_missing",
            "wechatpay-nonce",
        ),
        (
            lambda s: Sent(s.headers | {"Wechatpay-Signature": "WECHATPAY/SIGNTEST/" + "A" * 300}, s.body),
            "probe",
            "refusing it is right",
        ),
    ],
)
def test_a_refused_callback_says_why(capture: Capture, keys: Keys, damage: Any, reason: str, detail: str) -> None:
    capture.keep(damage(sent(keys)))

    status, said, _ = capture.judge()

    assert (status, said["authentic"], said["reason"]) == (1, False, reason)
    assert detail in said["detail"]


def test_another_apiv3_key_does_not_open_what_is_authentic(capture: Capture, keys: Keys, tmp_path: Path) -> None:
    capture.keep(sent(keys))
    (tmp_path / "key").write_text("x" * 32)

    status, said, _ = capture.judge(*capture.apiv3[:-1], str(tmp_path / "key"))

    assert (status, said["reason"]) == (1, "undecryptable")


def test_input_that_cannot_be_used_is_a_third_thing(capture: Capture, keys: Keys, tmp_path: Path) -> None:
    capture.keep(sent(keys))
    (tmp_path / "short").write_text("short")
    (tmp_path / "no.pem").write_text("no key")

    no_key = capture.judge("--serial", "PUB_KEY_ID_1")
    no_pem = capture.judge("--serial", "PUB_KEY_ID_1", "--public-key", str(tmp_path / "no.pem"))
    short = capture.judge(*capture.apiv3[:-1], str(tmp_path / "short"))
    no_time = capture.judge(at="yesterday")
    (tmp_path / "headers").write_text("what is this")
    no_headers = capture.judge()

    assert [one[0] for one in (no_key, no_pem, short, no_time, no_headers)] == [2] * 5
    assert "--certificate" in no_key[2]
    assert "no PEM" in no_pem[2]
    assert "32" in short[2]
    assert "line 1" in no_headers[2]


def test_an_alipay_form_is_judged_and_shown_masked(tmp_path: Path) -> None:
    alipay_keys = open_alipay_keys(tmp_path)
    sent = alipay.send(alipay_keys, alipay.trade(buyer_logon_id="13800009999"))
    (tmp_path / "body").write_bytes(sent.body)
    (tmp_path / "tampered").write_bytes(sent.body.replace(b"99.00", b"1.00"))
    pem = alipay_keys.settings()["ORDERLOOP_ALIPAY_PUBLIC_KEY_FILE"]

    def judge(body: str, *options: str) -> tuple[int, dict[str, Any]]:
        status, said, _ = verify("alipay", "--public-key", pem, "--body", str(tmp_path / body), *options)
        return status, said

    authentic, tampered = judge("body"), judge("tampered")
    another = judge("body", "--app-id", "2021000000000000")

    assert (authentic[0], authentic[1]["content"]["total_amount"]) == (0, "99.00")
    assert "13800009999" not in json.dumps(authentic[1])
    assert (tampered[0], tampered[1]["reason"]) == (1, "bad_signature")
    assert (another[0], another[1]["reason"]) == (1, "wrong_merchant")
