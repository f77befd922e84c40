"""The channel's own self-test: it sends a real, signed notice, and we look into our log for what became of it."""

import asyncio
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import asyncpg

from ..attempt import Verdict as Taken
from ..channels import Refused
from ..channels.wechat import NAME, WeChat
from ..gateways import GatewayRefuses, GatewaySilent
from ..gateways.wechat import WeChatGateway
from ..store import Page, one, search
from .examine import Step
from .reading import Finding
from .verdict import Verdict

# The channel sends at once; the first repetition would come after 15 s.
_PATIENCE_SECONDS = 10.0
_LOOK_SECONDS = 0.2


async def echo(
    pool: asyncpg.Pool,
    gateway: WeChatGateway,
    channel: WeChat,
    *,
    notify_url: str,
    serials: Iterable[str],
    patience_seconds: float = _PATIENCE_SECONDS,
) -> list[Step]:
    """One self-test per key. Needs the service's own database."""
    return [await _one(pool, gateway, channel, notify_url, serial, patience_seconds) for serial in serials]


async def _one(  # noqa: PLR0917
    pool: asyncpg.Pool, gateway: WeChatGateway, channel: WeChat, notify_url: str, serial: str, patience_seconds: float
) -> Step:
    what = f"the channel's self-test under {serial}"
    message = f"orderloop-{secrets.token_hex(12)}"
    began = datetime.now(UTC)
    try:
        await gateway.echo(message, notify_url=notify_url, serial=serial)
    except (GatewayRefuses, GatewaySilent) as error:
        return Step(what, Finding(Verdict.NOT_ASKED, str(error)))
    try:
        async with asyncio.timeout(patience_seconds):
            while (row := await _arrived(pool, channel, message, began)) is None:  # noqa: ASYNC110  # another process logs it
                await asyncio.sleep(_LOOK_SECONDS)
    except TimeoutError:
        return Step(what, Finding(Verdict.NOT_ARRIVED, f"nothing in the log within {patience_seconds:g} s"))
    took = int((row["received_at"] - began).total_seconds() * 1000)
    if row["verdict"] == Taken.REFUSED:
        return Step(what, Finding(Verdict.WRONG_KEY, f"our service refused it: {row['reason']}"), took)
    return Step(what, Finding(Verdict.HEALTHY), took)


async def _arrived(pool: asyncpg.Pool, channel: WeChat, message: str, began: datetime) -> asyncpg.Record | None:
    async with pool.acquire() as conn:
        rows = await search(
            conn,
            order_no=None,
            transaction_id=None,
            channel=NAME,
            verdict=None,
            since=began - timedelta(seconds=5),  # the database's clock is another one
            until=began + timedelta(minutes=1),
            before=None,
            most=200,
        )
        for row in rows:
            whole = await one(conn, Page(row["received_at"], row["id"]))
            if whole is not None and _echoes(channel, whole["body"], message):
                return whole
    return None


def _echoes(channel: WeChat, body: bytes | None, message: str) -> bool:
    try:
        return channel.decrypt(body or b"").get("echo_message") == message
    except Refused:
        return False
