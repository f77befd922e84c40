"""A merchant with both channels' accounts, and the channels' simulators, as tests hold them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from orderloop.clock import Clock, SystemClock
from orderloop_lab.simulators import alipay_keys
from orderloop_lab.simulators.wechat_keys import APPID, MCHID, Keys
from payment_callback.channels import signing
from payment_callback.channels.wechat import WeChat
from payment_callback.channels.wechat_keys import VerifyingKey, certificates, public_key
from payment_callback.gateways.alipay import AlipayGateway, Seller
from payment_callback.gateways.wechat import Merchant, WeChatGateway
from tests.support.simulator import SimulatorProcess


@contextmanager
def simulator(name: str, state: Path, **environ: str) -> Iterator[SimulatorProcess]:
    """With a fresh ledger; the keys stay, they take a second to make."""
    for ledger in state.glob(f"{name}.sqlite3*"):
        ledger.unlink()
    with SimulatorProcess(name, state, SIM_SEED="7", **environ) as process:
        yield process


def wechat_gateway(
    client: httpx.AsyncClient,
    url: str,
    keys: Keys,
    *,
    public: bool = True,
    certificate: bool = True,
    sub_mchid: str | None = None,
    combined: bool = False,
    channel: WeChat | None = None,
    clock: Clock | None = None,
) -> WeChatGateway:
    """`public`, `certificate`: the channel's keys that the merchant has; without the latter it asks for the former.

    Unless it already has a `channel` with keys of its own.
    """
    known: dict[str, VerifyingKey] = {}
    if public:
        known |= public_key(keys.public_key_id, (keys.folder / "public_key.pem").read_bytes())
    if certificate:
        known |= certificates(path.read_bytes() for path in (keys.folder / "certificates").glob("*.pem"))
    merchant = Merchant(
        mchid=MCHID,
        appid=APPID,
        serial=keys.merchant_serial,
        key=signing.any_private_key((keys.folder / "merchant" / "private_key.pem").read_bytes(), "merchant"),
        sub_mchid=sub_mchid,
        combined=combined,
        public_key_id=None if certificate else keys.public_key_id,
    )
    channel = channel or WeChat(mchid=MCHID, appids=[APPID], apiv3_key=keys.apiv3_key, keys=known)
    return WeChatGateway(client, url, merchant, channel, clock=clock or SystemClock())


def alipay_gateway(client: httpx.AsyncClient, url: str, keys: alipay_keys.Keys) -> AlipayGateway:
    seller = Seller(
        alipay_keys.APP_ID,
        alipay_keys.SELLER_ID,
        signing.any_private_key((keys.folder / "app_private.pem").read_bytes(), "app"),
    )
    key = signing.any_public_key((keys.folder / "alipay_public.txt").read_bytes(), "Alipay")
    return AlipayGateway(client, f"{url}/gateway.do", seller, key, clock=SystemClock())
