"""Asking the channels: real requests to their simulators, and nothing believed that they have not signed."""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from orderloop_lab.simulators import alipay_keys
from orderloop_lab.simulators.wechat_keys import MCHID, Keys
from payment_callback.gateways import (
    Closed,
    Gateway,
    GatewayRefuses,
    GatewaySilent,
    Paid,
    RefundAsked,
    RefundState,
    Unpaid,
)
from payment_callback.gateways.alipay import read_answer
from tests.support.merchant import alipay_gateway, simulator, wechat_gateway
from tests.support.simulator import SimulatorProcess

PAYER = ("oUpF8uMuAJO_M2pxb1Q9zNjWeS6o", "159****5620", "2088101117955611", "一件好东西")


@pytest.fixture(scope="module")
def wechat(keys: Keys) -> Iterator[SimulatorProcess]:
    with simulator("wechat", keys.folder.parent, SIM_TIME_FACTOR="10000") as process:
        yield process


@pytest.fixture(scope="module")
def alipay_sim(alipay_state: Path) -> Iterator[SimulatorProcess]:
    with simulator("alipay", alipay_state) as process:
        yield process


@pytest_asyncio.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


class Side:
    """One channel, asked and steered."""

    def __init__(self, gateway: Gateway, sim: SimulatorProcess, order_no: str) -> None:
        self.gateway = gateway
        self.sim = sim
        self.order_no = order_no
        self._wechat = sim.name == "wechat"

    def open(self, amount_fen: int = 9900) -> None:
        """The payer looks at the payment page."""
        self.sim.tell("/sim/prepay" if self._wechat else "/sim/open", out_trade_no=self.order_no, amount_fen=amount_fen)

    def pay(self, amount_fen: int = 9900) -> str:
        """The channel's number for the payment."""
        told = self.sim.tell("/sim/pay", out_trade_no=self.order_no, amount_fen=amount_fen)
        return told["transaction"]["transaction_id"] if self._wechat else told["trade"]["trade_no"]

    def fail(self, call: str, fault: str, times: int = 1) -> None:
        methods = {"query": "alipay.trade.query", "close": "alipay.trade.close", "refund": "alipay.trade.refund"}
        self.sim.tell("/sim/api-faults", call=call if self._wechat else methods[call], fault=fault, times=times)

    def refunds(self) -> list[dict[str, str]]:
        return self.sim.read("/sim/ledger", out_trade_no=self.order_no)["refunds"]


@pytest.fixture(params=["wechat", "alipay"])
def side(  # noqa: PLR0917
    request: pytest.FixtureRequest,
    wechat: SimulatorProcess,
    alipay_sim: SimulatorProcess,
    client: httpx.AsyncClient,
    keys: Keys,
    alipay: alipay_keys.Keys,
) -> Side:
    order_no = f"261122093015{abs(hash(request.node.name)) % 10**12:012d}"
    if request.param == "wechat":
        return Side(wechat_gateway(client, wechat.url, keys), wechat, order_no)
    return Side(alipay_gateway(client, alipay_sim.url, alipay), alipay_sim, order_no)


async def test_what_the_channel_has_never_heard_of_takes_no_money(side: Side) -> None:
    trade = await side.gateway.look(side.order_no)

    assert isinstance(trade.standing, Closed)
    assert trade.evidence["signed"] is (side.gateway.name == "alipay")  # WeChat Pay does not sign that


async def test_an_open_order_is_unpaid_then_closed_and_can_be_paid_no_more(side: Side) -> None:
    side.open()
    before = await side.gateway.look(side.order_no)

    await side.gateway.close(side.order_no)

    assert not isinstance(before.standing, Paid | Closed)
    assert isinstance((await side.gateway.look(side.order_no)).standing, Closed)
    with pytest.raises(httpx.HTTPStatusError):
        side.pay()


async def test_a_payment_is_told_with_the_channels_signature_and_without_the_payer(side: Side) -> None:
    side.open()
    number = side.pay(12345)

    trade = await side.gateway.look(side.order_no)

    assert isinstance(trade.standing, Paid)
    assert (trade.standing.transaction_id, trade.standing.amount_fen, trade.standing.currency) == (number, 12345, "CNY")
    assert trade.standing.paid_at.utcoffset() == timedelta(hours=8)
    assert trade.evidence["signed"] is True
    assert {"signature", "body_sha256", "answer", "asked_at"} <= trade.evidence.keys()
    assert not [secret for secret in PAYER if secret in str(trade.evidence)]


async def test_a_paid_order_is_not_closed(side: Side) -> None:
    side.pay()

    with pytest.raises(GatewayRefuses):
        await side.gateway.close(side.order_no)


@pytest.mark.parametrize("fault", ["unreached", "lost", "later", "forged"])
async def test_an_answer_that_is_none_is_silence_and_never_a_fact(side: Side, fault: str) -> None:
    side.pay()
    side.fail("query", fault)

    with pytest.raises(GatewaySilent):
        await side.gateway.look(side.order_no)

    assert isinstance((await side.gateway.look(side.order_no)).standing, Paid)


async def test_money_goes_back_once_however_often_it_is_asked_for(side: Side) -> None:
    wish = RefundAsked(side.order_no, side.pay(), "R1", 300, 9900, "too large")
    side.fail("refund", "lost")

    with pytest.raises(GatewaySilent):
        await side.gateway.refund(wish)
    again = await side.gateway.refund(wish)
    third = await side.gateway.look_at_refund(wish)

    assert len(side.refunds()) == 1
    assert {again.state, third.state} <= {RefundState.SUCCESS, RefundState.PROCESSING}
    assert (again.refund_fen, again.total_fen) == (300, 9900)
    assert isinstance((await side.gateway.look(side.order_no)).standing, Paid)  # a refunded order was paid


async def test_each_refunds_own_amount_is_told_not_the_running_total(side: Side) -> None:
    number = side.pay()
    for out_refund_no, amount in (("A1", 100), ("A2", 250)):
        await side.gateway.refund(RefundAsked(side.order_no, number, out_refund_no + side.order_no, amount, 9900, "r"))

    heard = await side.gateway.look_at_refund(RefundAsked(side.order_no, number, "A2" + side.order_no))

    assert heard.refund_fen == 250


async def test_a_refund_that_nobody_asked_for_is_unknown(side: Side) -> None:
    wish = RefundAsked(side.order_no, side.pay(), "never")

    assert (await side.gateway.look_at_refund(wish)).state is RefundState.UNKNOWN


async def test_more_than_was_paid_is_refused(side: Side) -> None:
    with pytest.raises(GatewayRefuses):
        await side.gateway.refund(RefundAsked(side.order_no, side.pay(), "much", 9901, 9900, "r"))


async def test_a_whole_refund_leaves_the_order_paid_in_the_past(side: Side) -> None:
    number = side.pay()
    await side.gateway.refund(RefundAsked(side.order_no, number, "whole" + side.order_no, 9900, 9900, "r"))

    assert isinstance((await side.gateway.look(side.order_no)).standing, Paid)


async def test_a_channel_that_is_away_is_silent(client: httpx.AsyncClient, keys: Keys) -> None:
    with pytest.raises(GatewaySilent, match="ConnectError"):
        await wechat_gateway(client, "http://127.0.0.1:1", keys).look("261122093015ABCDEFGH1234")


@pytest.mark.parametrize(("public", "certificate"), [(True, False), (False, True), (True, True)])
async def test_answers_are_verified_in_either_key_mode_and_in_both(
    wechat: SimulatorProcess,
    client: httpx.AsyncClient,
    keys: Keys,
    public: bool,
    certificate: bool,
) -> None:
    order_no = f"261122093016ABCDEFGH{public:d}{certificate:d}00"
    wechat.tell("/sim/pay", out_trade_no=order_no, amount_fen=1)

    trade = await wechat_gateway(client, wechat.url, keys, public=public, certificate=certificate).look(order_no)

    assert trade.evidence["serial"].startswith("PUB_KEY_ID_") is not certificate


async def test_a_probe_among_the_answers_is_asked_again_and_three_are_silence(
    wechat: SimulatorProcess, client: httpx.AsyncClient, keys: Keys
) -> None:
    order_no, gateway = "261122093017ABCDEFGH1234", wechat_gateway(client, wechat.url, keys)
    wechat.tell("/sim/pay", out_trade_no=order_no, amount_fen=1)
    wechat.tell("/sim/api-faults", call="query", fault="probe", times=5)

    with pytest.raises(GatewaySilent, match="probes"):
        await gateway.look(order_no)
    assert isinstance((await gateway.look(order_no)).standing, Paid)


async def test_an_unsigned_success_is_silence(wechat: SimulatorProcess, client: httpx.AsyncClient, keys: Keys) -> None:
    wechat.tell("/sim/pay", out_trade_no="261122093018ABCDEFGH1234", amount_fen=1)
    wechat.tell("/sim/api-faults", call="query", fault="unsigned")

    with pytest.raises(GatewaySilent, match="not authentic"):
        await wechat_gateway(client, wechat.url, keys).look("261122093018ABCDEFGH1234")


async def test_a_partner_asks_in_its_merchants_name(
    wechat: SimulatorProcess, client: httpx.AsyncClient, keys: Keys
) -> None:
    order_no = "261122093019ABCDEFGH1234"
    wechat.tell("/sim/pay", out_trade_no=order_no, amount_fen=77)

    trade = await wechat_gateway(client, wechat.url, keys, sub_mchid="1900000109").look(order_no)

    assert isinstance(trade.standing, Paid)
    assert (trade.standing.mchid, trade.evidence["answer"]["sub_mchid"]) == (MCHID, "1900000109")


async def test_a_combined_order_is_found_where_the_ordinary_query_knows_nothing(
    wechat: SimulatorProcess, client: httpx.AsyncClient, keys: Keys
) -> None:
    order_no = "261122093020ABCDEFGH1234"
    wechat.tell("/sim/pay", out_trade_no=order_no, amount_fen=88, combined=True)

    ordinary = await wechat_gateway(client, wechat.url, keys).look(order_no)
    combined = await wechat_gateway(client, wechat.url, keys, combined=True).look(order_no)

    assert isinstance(ordinary.standing, Closed)
    assert isinstance(combined.standing, Paid)
    assert combined.standing.amount_fen == 88


@pytest.mark.parametrize("kind", ["ordinary", "partner", "combined"])
async def test_an_unpaid_order_of_every_kind_is_closed_where_it_belongs(
    wechat: SimulatorProcess, client: httpx.AsyncClient, keys: Keys, kind: str
) -> None:
    order_no = f"261122093021{kind.upper():A<12.12}"
    wechat.tell("/sim/prepay", out_trade_no=order_no, amount_fen=88, combined=kind == "combined")
    gateway = wechat_gateway(
        client,
        wechat.url,
        keys,
        sub_mchid="1900000109" if kind == "partner" else None,
        combined=kind == "combined",
    )
    before = await gateway.look(order_no)

    await gateway.close(order_no)

    assert isinstance(before.standing, Unpaid)
    assert isinstance((await gateway.look(order_no)).standing, Closed)
    assert wechat.http.post("/sim/pay", json={"out_trade_no": order_no, "amount_fen": 88}).status_code == 409


async def test_a_paid_combined_order_is_not_closed(
    wechat: SimulatorProcess, client: httpx.AsyncClient, keys: Keys
) -> None:
    order_no = "261122093022ABCDEFGH1234"
    wechat.tell("/sim/pay", out_trade_no=order_no, amount_fen=88, combined=True)

    with pytest.raises(GatewayRefuses, match="ORDERPAID"):
        await wechat_gateway(client, wechat.url, keys, combined=True).close(order_no)


@pytest.mark.parametrize("kind", ["partner", "combined"])
async def test_money_goes_back_for_orders_of_every_kind(
    wechat: SimulatorProcess, client: httpx.AsyncClient, keys: Keys, kind: str
) -> None:
    order_no = f"261122093023{kind.upper():A<12.12}"
    paid = wechat.tell("/sim/pay", out_trade_no=order_no, amount_fen=88, combined=kind == "combined")
    gateway = wechat_gateway(
        client,
        wechat.url,
        keys,
        sub_mchid="1900000109" if kind == "partner" else None,
        combined=kind == "combined",
    )
    wish = RefundAsked(order_no, paid["transaction"]["transaction_id"], f"R{order_no}", 8, 88, "r")

    first, second = await gateway.refund(wish), await gateway.look_at_refund(wish)

    assert (first.refund_fen, second.refund_fen, second.total_fen) == (8, 8, 88)
    assert isinstance((await gateway.look(order_no)).standing, Paid)


@pytest.mark.parametrize(
    ("body", "raw"),
    [
        (b'{"x_response":{"a": 1,"b":"\\/"} , "sign":"S"}', b'{"a": 1,"b":"\\/"}'),
        (b'{"sign":"S","x_response":{"sign":"inner"}}', b'{"sign":"inner"}'),
        ('{"x_response":{"名":"}{"},"sign":"S"}'.encode(), '{"名":"}{"}'.encode()),
    ],
)
def test_the_signed_bytes_are_those_that_stand_in_the_answer(body: bytes, raw: bytes) -> None:
    assert read_answer(body, "x_response").raw == raw


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"{}",
        b"[1]",
        b'{"x_response":{}}',
        b'{"x_response":{},"sign":"S"',
        b'{"x_response":{},"x_response":{},"sign":"S"}',
        b'{"x_response":"text","sign":"S"}',
        b'{"x_response":{},"sign":1}',
        b'{"x_response":{} "sign":"S"}',
        b"\xff",
    ],
)
def test_an_answer_of_another_form_is_silence(body: bytes) -> None:
    with pytest.raises(GatewaySilent):
        read_answer(body, "x_response")
