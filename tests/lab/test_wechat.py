"""The WeChat Pay simulator: real signatures, the real schedule, and a memory that outlives kill -9."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from wechatpayv3 import WeChatPay, WeChatPayType

from orderloop_lab.simulators.delivery import Manner
from orderloop_lab.simulators.wechat_keys import APPID, MCHID, prepare
from orderloop_lab.simulators.wechat_notices import RETRIES, Faults
from tests.support.simulator import SimulatorProcess

ORDER_NO = "261122093015ABCDEFGH1234"
FAST = "100000"  # 24 h 4 m in 0.9 s


class Merchant:
    """Keeps what it is sent; answers with the next of its statuses, then with the last one for ever."""

    def __init__(self) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.statuses = [204]
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.received.append((dict(self.headers.items()), body))
                statuses = outer.statuses
                self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/order/callback/wechat"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def merchant() -> Iterator[Merchant]:
    merchant = Merchant()
    yield merchant
    merchant.close()


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys take a second to make, so one folder of keys serves every test; the ledger is each test's own."""
    folder = tmp_path_factory.mktemp("wechat")
    prepare(folder)
    return folder


@pytest.fixture
def wechat(state: Path, merchant: Merchant) -> Iterator[SimulatorProcess]:
    for ledger in state.glob("wechat.sqlite3*"):
        ledger.unlink()
    with SimulatorProcess("wechat", state, SIM_SEED="7", SIM_TIME_FACTOR=FAST, SIM_NOTIFY_URL=merchant.url) as process:
        yield process


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.01)  # between two looks
    raise TimeoutError("it does not come true")


def finished(wechat: SimulatorProcess, state: str) -> dict[str, Any]:
    """The only notice, once its delivery has come to that end."""

    def look() -> dict[str, Any] | None:
        (notice,) = wechat.read("/sim/ledger")["notices"]
        return notice if notice["state"] == state else None

    return until(look)


def by_library(wechat: SimulatorProcess, state: Path, **trust: Any) -> WeChatPay:
    """A merchant that is none of ours: the wechatpayv3 library."""
    keys = wechat.read("/sim/keys")
    return WeChatPay(
        wechatpay_type=WeChatPayType.JSAPI,
        mchid=MCHID,
        private_key=(state / "keys" / "merchant" / "private_key.pem").read_text(),
        cert_serial_no=keys["settings"]["ORDERLOOP_WECHAT_MERCHANT_SERIAL"],
        apiv3_key=keys["apiv3_key"],
        appid=APPID,
        **trust,
    )


def oracle(wechat: SimulatorProcess, state: Path, *, by_certificate: bool) -> WeChatPay:
    keys = wechat.read("/sim/keys")
    trust = (
        {"cert_dir": str(state / "keys" / "certificates")}
        if by_certificate
        else {"public_key": keys["public_key"]["pem"], "public_key_id": keys["public_key"]["id"]}
    )
    return by_library(wechat, state, **trust)


def test_the_schedule_is_the_channels_own() -> None:
    assert (len(RETRIES), sum(RETRIES)) == (15, 86_640)


def test_the_faults_of_a_notice_come_one_after_the_other() -> None:
    faults = Faults.model_validate({"lose_first": 1, "probe": 1, "forge": 2, "lose_answer": 1})

    assert [faults.manner(attempt) for attempt in range(1, 7)] == [
        Manner.LOST,
        Manner.PROBE,
        Manner.FORGED,
        Manner.FORGED,
        Manner.ANSWER_LOST,
        Manner.GENUINE,
    ]


@pytest.mark.parametrize("key_mode", ["public_key", "certificate"])
def test_an_independent_library_reads_the_payment_in_both_key_modes(
    wechat: SimulatorProcess, state: Path, merchant: Merchant, key_mode: str
) -> None:
    paid = wechat.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=9900, faults={"key_mode": key_mode})
    finished(wechat, "acknowledged")

    ((headers, body),) = merchant.received
    read = oracle(wechat, state, by_certificate=key_mode == "certificate").callback(headers, body)

    assert read["event_type"] == "TRANSACTION.SUCCESS"
    assert read["resource"] == paid["transaction"]
    assert read["resource"]["amount"] == {
        "total": 9900,
        "payer_total": 9900,
        "currency": "CNY",
        "payer_currency": "CNY",
    }
    assert headers["User-Agent"] == "Mozilla/4.0"


def test_what_is_refused_comes_again_until_it_is_acknowledged(wechat: SimulatorProcess, merchant: Merchant) -> None:
    merchant.statuses = [500, 401, 302, 204]
    wechat.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=1)

    notice = finished(wechat, "acknowledged")

    assert notice["attempts"] == 4
    attempts = wechat.read("/sim/ledger", out_trade_no=ORDER_NO)["attempts"]
    assert [attempt["status"] for attempt in attempts] == [500, 401, 302, 204]
    ids = {json.loads(body)["id"] for _, body in merchant.received}
    assert ids == {notice["notice_id"]}


def test_sixteen_refusals_end_the_attempts(wechat: SimulatorProcess, merchant: Merchant) -> None:
    merchant.statuses = [503]
    wechat.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=1)

    assert finished(wechat, "given_up")["attempts"] == len(merchant.received) == 16


def test_duplicates_and_simultaneous_copies_are_sent(wechat: SimulatorProcess, merchant: Merchant) -> None:
    wechat.tell(
        "/sim/pay", out_trade_no=ORDER_NO, amount_fen=1, faults={"duplicates": 2, "simultaneous": 3, "lose_first": 1}
    )

    assert finished(wechat, "acknowledged")["attempts"] == 4
    assert len(merchant.received) == 9
    assert len({headers["Wechatpay-Nonce"] for headers, _ in merchant.received}) == 3


def test_probes_and_forgeries_do_not_verify(wechat: SimulatorProcess, state: Path, merchant: Merchant) -> None:
    merchant.statuses = [401]
    probed = wechat.tell("/sim/probe", out_trade_no=ORDER_NO, amount_fen=1)
    forged = wechat.tell("/sim/forge", out_trade_no=ORDER_NO, amount_fen=1)
    reader = oracle(wechat, state, by_certificate=False)

    assert [probed["attempt"]["status"], forged["attempt"]["status"]] == [401, 401]
    (probe, probe_body), (forgery, forged_body) = merchant.received
    assert probe["Wechatpay-Signature"].startswith("WECHATPAY/SIGNTEST/")
    assert len(base64.b64decode(probe["Wechatpay-Signature"], validate=False)) > 0
    assert reader.callback(probe, probe_body) is None
    assert reader.callback(forgery, forged_body) is None
    assert wechat.read("/sim/ledger")["transactions"] == []


def test_an_independent_library_downloads_the_certificates_and_follows_a_rotation(
    wechat: SimulatorProcess, state: Path, merchant: Merchant, tmp_path: Path
) -> None:
    first = wechat.read("/sim/keys")["platform_certificate"]
    reader = by_library(wechat, state, cert_dir=str(state / "keys" / "certificates"))
    core = reader._core  # pyright: ignore[reportPrivateUsage]  # it knows the real address only
    core._gate_way, core._cert_dir = wechat.url, f"{tmp_path}/"  # pyright: ignore[reportPrivateUsage]

    new = wechat.tell("/sim/certificates", share=1)
    wechat.kill()
    wechat.start()
    paid = wechat.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=9900, faults={"key_mode": "certificate"})
    finished(wechat, "acknowledged")
    ((headers, body),) = merchant.received
    read = reader.callback(headers, body)  # its serial is unknown there, so the library downloads

    assert headers["Wechatpay-Serial"] == new["serial"]
    assert read["resource"] == paid["transaction"]
    listed = {file.stem: file.read_text() for file in tmp_path.iterdir()}
    assert listed == {first["serial"]: first["pem"], new["serial"]: new["pem"]}


def test_a_withdrawn_certificate_is_listed_no_more(wechat: SimulatorProcess, state: Path) -> None:
    new = wechat.tell("/sim/certificates", share=0.5)
    both = ask(wechat, state, "/v3/certificates").json()["data"]
    wechat.tell("/sim/certificates/traffic", share=1, withdraw=True)

    (left,) = ask(wechat, state, "/v3/certificates").json()["data"]

    assert [one["serial_no"] for one in both][-1] == left["serial_no"] == new["serial"]
    assert len(both) == 2


def test_an_order_is_paid_once(wechat: SimulatorProcess) -> None:
    wechat.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=1)

    again = wechat.http.post("/sim/pay", json={"out_trade_no": ORDER_NO, "amount_fen": 1})

    assert (again.status_code, again.json()["code"]) == (409, "ORDERPAID")


def test_a_refund_is_told_and_turns_the_transaction(wechat: SimulatorProcess, state: Path, merchant: Merchant) -> None:
    wechat.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=100)
    wechat.tell("/sim/refund", out_trade_no=ORDER_NO, out_refund_no="R1", refund_fen=30)
    until(lambda: len(merchant.received) == 2)

    reader = oracle(wechat, state, by_certificate=False)
    read = {body["event_type"]: body["resource"] for body in (reader.callback(*one) for one in merchant.received)}

    assert read["REFUND.SUCCESS"]["amount"]["refund"] == 30
    assert wechat.read("/sim/ledger")["transactions"][0]["trade_state"] == "REFUND"


def test_a_notice_of_any_shape_can_be_sent(wechat: SimulatorProcess, state: Path, merchant: Merchant) -> None:
    wechat.tell(
        "/sim/notice",
        about="echo",
        event_type="SECURITY_ECHO.SUCCESS",
        original_type="security",
        plaintext={"echo_message": "hello"},
        faults={"associated_data": ""},
    )
    finished(wechat, "acknowledged")

    read = oracle(wechat, state, by_certificate=False).callback(*merchant.received[0])

    assert read["resource"] == {"echo_message": "hello"}


def test_after_kill_nine_it_goes_on_with_what_was_not_acknowledged(
    wechat: SimulatorProcess, merchant: Merchant
) -> None:
    merchant.statuses = [503]
    wechat.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=1, faults={"lose_first": 1, "delay": 50_000})
    wechat.kill()
    merchant.statuses = [204]

    wechat.start()

    assert finished(wechat, "acknowledged")["attempts"] == 2
    assert len(merchant.received) == 1


def test_the_same_seed_tells_the_same_story(wechat: SimulatorProcess, state: Path) -> None:
    first = wechat.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=1)
    finished(wechat, "acknowledged")
    wechat.kill()
    for ledger in state.glob("wechat.sqlite3*"):
        ledger.unlink()
    wechat.start()

    second = wechat.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=1)

    assert first["notice_id"] == second["notice_id"]
    assert first["transaction"]["transaction_id"] == second["transaction"]["transaction_id"]


def ask(wechat: SimulatorProcess, state: Path, path: str, **headers: str) -> httpx.Response:
    """A signed query, as a merchant asks it."""
    key = serialization.load_pem_private_key((state / "keys" / "merchant" / "private_key.pem").read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    serial = wechat.read("/sim/keys")["settings"]["ORDERLOOP_WECHAT_MERCHANT_SERIAL"]
    timestamp = str(int(time.time()))
    message = f"GET\n{path}\n{timestamp}\nN1\n\n".encode()
    signature = base64.b64encode(key.sign(message, padding.PKCS1v15(), hashes.SHA256())).decode()
    authorization = (
        f'WECHATPAY2-SHA256-RSA2048 mchid="{MCHID}",nonce_str="N1",timestamp="{timestamp}",'
        f'serial_no="{serial}",signature="{signature}"'
    )
    return wechat.http.get(path, headers={"Authorization": authorization, **headers})


def test_an_order_query_is_answered_signed_and_a_refusal_is_not(wechat: SimulatorProcess, state: Path) -> None:
    paid = wechat.tell("/sim/pay", out_trade_no="order|1*2", amount_fen=77)
    path = f"/v3/pay/transactions/out-trade-no/order%7C1*2?mchid={MCHID}"

    answer = ask(wechat, state, path, **{"Wechatpay-Serial": "PUB_KEY_ID_0"})
    unknown = ask(wechat, state, f"/v3/pay/transactions/out-trade-no/unknown1?mchid={MCHID}")
    unsigned = wechat.http.get(path)

    assert answer.json() == paid["transaction"]
    public = serialization.load_pem_public_key(wechat.read("/sim/keys")["public_key"]["pem"].encode())
    assert isinstance(public, rsa.RSAPublicKey)
    headers = answer.headers
    message = f"{headers['Wechatpay-Timestamp']}\n{headers['Wechatpay-Nonce']}\n{answer.text}\n".encode()
    signature = base64.b64decode(headers["Wechatpay-Signature"])
    public.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
    assert (unknown.status_code, unknown.json()["code"]) == (404, "ORDER_NOT_EXIST")
    assert "Wechatpay-Signature" not in unknown.headers
    assert (unsigned.status_code, unsigned.json()["code"]) == (401, "SIGN_ERROR")


@pytest.mark.parametrize(
    "body",
    [
        {"out_trade_no": "short", "amount_fen": 1},
        {"out_trade_no": ORDER_NO, "amount_fen": 1.5},
        {"out_trade_no": ORDER_NO, "amount_fen": 0},
        {"out_trade_no": ORDER_NO, "amount_fen": 1, "faults": {"duplicate": 1}},
    ],
)
def test_a_mistaken_request_is_refused(wechat: SimulatorProcess, body: dict[str, Any]) -> None:
    assert wechat.http.post("/sim/pay", json=body).status_code == 400


def test_keys_are_made_once_and_private_ones_are_for_their_owner_alone(tmp_path: Path) -> None:
    first = prepare(tmp_path)

    assert prepare(tmp_path) == first
    assert len(Path(first["ORDERLOOP_WECHAT_APIV3_KEY_FILE"]).read_text()) == 32
    modes = [file.stat().st_mode & 0o077 for file in (tmp_path / "keys" / "private").iterdir()]
    assert set(modes) == {0}
