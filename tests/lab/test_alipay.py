"""The Alipay simulator: real signatures, the real schedule, and a memory that outlives kill -9."""

import base64
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from orderloop_lab.simulators.alipay_keys import APP_ID, SELLER_ID, Keys, open_keys, prepare
from orderloop_lab.simulators.alipay_notices import RETRIES, Faults
from orderloop_lab.simulators.delivery import Manner
from tests.support.simulator import SimulatorProcess

ORDER_NO = "261122093015ABCDEFGH1234"
FAST = "1000000"  # 24 h 24 m in 0.09 s


class Merchant:
    """Keeps what it is sent; answers with the next of its answers, then with the last one for ever."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.answers = [b"success"]
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.received.append(self.rfile.read(int(self.headers["Content-Length"])))
                answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/notify"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def form(self, number: int = -1, charset: str = "utf-8") -> dict[str, str]:
        return dict(parse_qsl(self.received[number].decode("ascii"), keep_blank_values=True, encoding=charset))


@pytest.fixture
def merchant() -> Iterator[Merchant]:
    merchant = Merchant()
    yield merchant
    merchant.close()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    state = tmp_path_factory.mktemp("alipay")
    prepare(state)
    return open_keys(state)


@pytest.fixture
def state(keys: Keys) -> Path:
    folder = keys.folder.parent
    for ledger in folder.glob("alipay.sqlite3*"):
        ledger.unlink()
    return folder


@pytest.fixture
def alipay(state: Path, merchant: Merchant) -> Iterator[SimulatorProcess]:
    with SimulatorProcess("alipay", state, SIM_TIME_FACTOR=FAST, SIM_NOTIFY_URL=merchant.url) as process:
        yield process


def settled(alipay: SimulatorProcess, order_no: str = ORDER_NO) -> dict[str, Any]:
    """The newest notice, once it is no longer being sent."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        notice = alipay.read("/sim/ledger", out_trade_no=order_no)["notices"][-1]
        if notice["state"] != "open":
            return notice
        time.sleep(0.01)  # between two looks
    raise TimeoutError("the notice stays open")


def is_alipays(keys: Keys, form: dict[str, str], charset: str = "utf-8") -> bool:
    """As a reader of Alipay's own page would verify it."""
    text = "&".join(f"{name}={form[name]}" for name in sorted(form) if name not in {"sign", "sign_type"})
    signature = base64.b64decode(form["sign"])
    keys.alipay.public_key().verify(signature, text.encode(charset), padding.PKCS1v15(), hashes.SHA256())
    return True


def test_the_schedule_is_eight_notices_in_a_good_day() -> None:
    assert RETRIES == (240, 600, 600, 3600, 7200, 21600, 54000)
    assert sum(RETRIES) == 24 * 3600 + 24 * 60


@pytest.mark.parametrize("charset", ["utf-8", "gbk"])
def test_a_payment_is_notified_by_a_signed_form(
    alipay: SimulatorProcess, merchant: Merchant, keys: Keys, charset: str
) -> None:
    alipay.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=9901, faults={"charset": charset})

    assert settled(alipay)["state"] == "acknowledged"
    form = merchant.form(charset=charset)
    assert is_alipays(keys, form, charset)
    assert (form["app_id"], form["seller_id"], form["total_amount"]) == (APP_ID, SELLER_ID, "99.01")
    assert (form["trade_status"], form["subject"]) == ("TRADE_SUCCESS", "一件好东西")


@pytest.mark.parametrize("answer", [b"fail", b"SUCCESS", b"success\n", b"", b'{"code":"SUCCESS"}'])
def test_anything_but_success_is_repeated_eight_times_in_all_under_one_id(
    alipay: SimulatorProcess, merchant: Merchant, answer: bytes
) -> None:
    merchant.answers = [answer]

    alipay.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=1)

    assert settled(alipay)["state"] == "given_up"
    assert len(merchant.received) == 8
    assert len({merchant.form(number)["notify_id"] for number in range(8)}) == 1


def test_faults_come_in_their_order_and_then_it_is_genuine() -> None:
    faults = Faults.model_validate({"lose_first": 1, "forge": 1, "tamper": 1, "lose_answer": 1})

    assert [faults.manner(attempt) for attempt in range(1, 6)] == [
        Manner.LOST,
        Manner.FORGED,
        Manner.TAMPERED,
        Manner.ANSWER_LOST,
        Manner.GENUINE,
    ]


def test_a_partial_refund_is_notified_with_the_running_total(alipay: SimulatorProcess, merchant: Merchant) -> None:
    alipay.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=9900)
    settled(alipay)
    for number, amount in (("R1", 100), ("R2", 250)):
        alipay.tell("/sim/refund", out_trade_no=ORDER_NO, out_request_no=number, refund_fen=amount)
        settled(alipay)

    told = [(form["out_biz_no"], form["refund_fee"], form["trade_status"]) for form in map(merchant.form, (1, 2))]
    assert told == [("R1", "1.00", "TRADE_SUCCESS"), ("R2", "3.50", "TRADE_SUCCESS")]


def test_a_whole_refund_closes_the_trade_and_more_is_refused(alipay: SimulatorProcess, merchant: Merchant) -> None:
    alipay.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=100)
    settled(alipay)
    alipay.tell("/sim/refund", out_trade_no=ORDER_NO, out_request_no="R1", refund_fen=100)
    settled(alipay)

    more = alipay.http.post("/sim/refund", json={"out_trade_no": ORDER_NO, "out_request_no": "R2", "refund_fen": 1})

    assert merchant.form()["trade_status"] == "TRADE_CLOSED"
    assert more.status_code == 409


def test_finished_and_expired_trades_are_notified_too(alipay: SimulatorProcess, merchant: Merchant) -> None:
    alipay.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=1)
    settled(alipay)
    alipay.tell("/sim/finish", out_trade_no=ORDER_NO)
    settled(alipay)
    finished = merchant.form()
    alipay.tell("/sim/open", out_trade_no="never_paid", amount_fen=1)
    alipay.tell("/sim/expire", out_trade_no="never_paid")
    settled(alipay, "never_paid")

    assert finished["trade_status"] == "TRADE_FINISHED"
    assert (merchant.form()["trade_status"], "gmt_payment" in merchant.form()) == ("TRADE_CLOSED", False)


def test_a_killed_simulator_goes_on_telling(alipay: SimulatorProcess, merchant: Merchant) -> None:
    merchant.answers = [b"fail", b"fail", b"success"]
    alipay.kill()
    slow = alipay._environ | {"SIM_TIME_FACTOR": "1000"}  # pyright: ignore[reportPrivateUsage]
    alipay._environ = slow  # pyright: ignore[reportPrivateUsage]
    alipay.start()
    alipay.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=1)

    alipay.kill()
    alipay.start()

    assert settled(alipay)["state"] == "acknowledged"


def test_an_unsigned_request_to_the_gateway_is_refused_with_a_signed_answer(alipay: SimulatorProcess) -> None:
    form = {"app_id": APP_ID, "method": "alipay.trade.query", "biz_content": "{}", "sign_type": "RSA2", "sign": "AAAA"}

    answer = httpx.post(f"{alipay.url}/gateway.do", data=form, trust_env=False)

    assert answer.json()["error_response"]["code"] == "40002"
