"""Our accounts at the payment channels, one line of REGISTERED each.

A further channel is one more module and one more line here: docs/guides/add-a-payment-channel.md.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx

from orderloop.clock import Clock
from orderloop.errors import Permanent

from .certificates import Certificates
from .channels import Channel, signing, wechat_keys
from .channels import alipay as alipay_channels
from .channels import wechat as wechat_channels
from .gateways import Gateway
from .gateways.alipay import AlipayGateway, Seller
from .gateways.wechat import Merchant, WeChatGateway
from .settings import AlipaySettings, WechatSettings


@dataclass(frozen=True, slots=True)
class Account:
    """A channel that tells us, and whether we can ask it."""

    channel: Channel
    gateway: Gateway | None = None  # None: it only tells; closes and refunds there stay unknown
    certificates: Certificates | None = None  # None: its keys do not change by themselves


# Reads its own settings. None: they are not there, so neither is the channel. Raises Permanent when they are wrong.
Open = Callable[[httpx.AsyncClient, Clock], Account | None]


def wechat(client: httpx.AsyncClient, clock: Clock) -> Account:
    settings = WechatSettings()  # pyright: ignore[reportCallIssue]
    channel = wechat_channel(settings)
    if (settings.merchant_serial is None) != (settings.merchant_key_file is None):
        raise Permanent("ORDERLOOP_WECHAT_MERCHANT_SERIAL and ORDERLOOP_WECHAT_MERCHANT_KEY_FILE belong together")
    every = timedelta(hours=settings.certificate_hours)
    if settings.merchant_serial is None or settings.merchant_key_file is None:
        if not channel.keys:
            raise Permanent("neither a WeChat Pay public key nor a platform certificate is configured")
        return Account(channel, certificates=Certificates(channel, None, every=every, clock=clock))
    merchant = Merchant(
        mchid=settings.mchid,
        appid=_appids(settings)[0],
        serial=settings.merchant_serial,
        key=signing.any_private_key(settings.merchant_key_file.read_bytes(), "of the WeChat Pay merchant"),
        sub_mchid=settings.sub_mchid,
        combined=settings.combined,
        # Only once the switch is over: as long as certificates are configured, the channel may still need them.
        public_key_id=settings.public_key_id if settings.certificate_dir is None else None,
        refund_notify_url=settings.refund_notify_url,
    )
    gateway = WeChatGateway(client, settings.api_base_url, merchant, channel, clock=clock)
    # With the public key alone there are no certificates to be had.
    by_certificate = settings.certificate_dir is not None or settings.public_key_id is None
    source = gateway if by_certificate else None
    return Account(channel, gateway, Certificates(channel, source, every=every, clock=clock))


def alipay(client: httpx.AsyncClient, clock: Clock) -> Account | None:
    settings = AlipaySettings()  # pyright: ignore[reportCallIssue]
    named = (settings.app_id, settings.seller_id, settings.public_key_file, settings.private_key_file)
    if all(value is None for value in named):
        return None
    if not (settings.app_id and settings.seller_id and settings.public_key_file and settings.private_key_file):
        raise Permanent(
            "ORDERLOOP_ALIPAY_APP_ID, …_SELLER_ID, …_PUBLIC_KEY_FILE and …_PRIVATE_KEY_FILE belong together"
        )
    key = signing.any_public_key(settings.public_key_file.read_bytes(), "of Alipay")
    app_ids = [app_id.strip() for app_id in settings.app_id.split(",")]
    channel = alipay_channels.Alipay(app_ids=app_ids, seller_id=settings.seller_id, key=key)
    seller = Seller(
        app_id=app_ids[0],
        seller_id=settings.seller_id,
        key=signing.any_private_key(settings.private_key_file.read_bytes(), "of the Alipay app"),
    )
    return Account(channel, AlipayGateway(client, settings.gateway_url, seller, key, clock=clock))


REGISTERED: tuple[Open, ...] = (
    wechat,
    alipay,
)


def open_accounts(registered: Iterable[Open], client: httpx.AsyncClient, clock: Clock) -> list[Account]:
    """The accounts whose settings are there. Raises Permanent."""
    return [account for one in registered if (account := one(client, clock)) is not None]


def wechat_channel(settings: WechatSettings) -> wechat_channels.WeChat:
    """WeChat Pay with the keys that are configured. Raises Permanent when they cannot be used."""
    keys = dict[str, wechat_keys.VerifyingKey]()
    if (settings.public_key_id is None) != (settings.public_key_file is None):
        raise Permanent("ORDERLOOP_WECHAT_PUBLIC_KEY_ID and ORDERLOOP_WECHAT_PUBLIC_KEY_FILE belong together")
    if settings.public_key_id is not None and settings.public_key_file is not None:
        keys |= wechat_keys.public_key(settings.public_key_id, settings.public_key_file.read_bytes())
    if settings.certificate_dir is not None:
        keys |= wechat_keys.certificates(_pems(settings.certificate_dir))
    return wechat_channels.WeChat(
        mchid=settings.mchid,
        appids=_appids(settings),
        apiv3_key=settings.apiv3_key.get_secret_value().encode(),
        keys=keys,
    )


def _appids(settings: WechatSettings) -> list[str]:
    return [appid.strip() for appid in settings.appid.split(",")]


def _pems(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("*.pem"))]
