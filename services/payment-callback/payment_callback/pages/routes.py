"""The pages' routes. Everything is escaped by the templates; bodies and contents are masked before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import resources
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlencode

import asyncpg
import orjson
from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from orderloop import auth

from .. import store
from ..attempt import Verdict
from ..channels import Channel, Refused
from ..channels.wechat import WeChat
from ..marks import mark, page
from ..masking import mask
from . import words
from .words import Language

_PER_PAGE = 50
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_templates = Environment(
    loader=PackageLoader("payment_callback", "pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The form as it was filled in; empty texts are what was not."""

    since: str = ""
    until: str = ""
    order_no: str = ""
    transaction_id: str = ""
    result: str = ""
    channel: str = ""
    after: str = ""

    def link(self, language: Language, **changes: str) -> str:
        fields = {name: getattr(self, name) for name in self.__slots__} | {"lang": str(language)} | changes
        return "/callbacks?" + urlencode({name: value for name, value in fields.items() if value})


def router(pool: asyncpg.Pool, channels: Sequence[Channel], operator: auth.Guard, *, hours: int) -> APIRouter:
    """`/callbacks` for operators; their browser asks for the operator token as a password."""
    routes = APIRouter(prefix="/callbacks", dependencies=[Depends(operator)], include_in_schema=False)
    names = [channel.name for channel in channels]

    @routes.get("")
    async def listed(  # pyright: ignore[reportUnusedFunction]
        wanted: Annotated[Wanted, Depends(_wanted)], language: Annotated[Language, Depends(_language)]
    ) -> HTMLResponse:
        rows = await _search(pool, wanted)
        shown = rows[:_PER_PAGE]
        marked = [dict(row) | {"mark": mark(row["received_at"], row["id"])} for row in shown]
        return _page(
            "list.html",
            language,
            other_language=wanted.link(_other(language)),
            wanted=wanted,
            rows=marked,
            verdicts=[*Verdict],
            channels=names,
            hours=hours,
            newest=wanted.link(language, after="") if wanted.after else "",
            older=wanted.link(language, after=marked[-1]["mark"]) if len(rows) > _PER_PAGE else "",
        )

    @routes.get("/style.css")
    async def style() -> Response:  # pyright: ignore[reportUnusedFunction]
        css = resources.files("payment_callback.pages").joinpath("style.css").read_text(encoding="utf-8")
        return Response(css, media_type="text/css", headers={"Cache-Control": "max-age=3600"})

    @routes.get("/{row_mark}")
    async def one(  # pyright: ignore[reportUnusedFunction]
        row_mark: str, language: Annotated[Language, Depends(_language)]
    ) -> HTMLResponse:
        async with pool.acquire() as conn:
            row = await store.one(conn, page(row_mark))
        channel = next((channel for channel in channels if row and channel.name == row["channel"]), None)
        body, content = _told(channel, row["body"] if row else None)
        return _page(
            "one.html",
            language,
            status=200 if row else 404,
            other_language=f"/callbacks/{row_mark}?lang={_other(language)}",
            row=dict(row) if row else None,
            headers=orjson.loads(row["headers"]) if row else {},
            body=body,
            content=content,
        )

    return routes


async def _search(pool: asyncpg.Pool, wanted: Wanted) -> list[asyncpg.Record]:
    now = datetime.now(UTC)
    async with pool.acquire() as conn:
        return await store.search(
            conn,
            order_no=wanted.order_no or None,
            transaction_id=wanted.transaction_id or None,
            channel=wanted.channel or None,
            verdict=Verdict(wanted.result) if wanted.result else None,
            since=_time(wanted.since) or now - timedelta(days=7),
            until=_time(wanted.until) or now + timedelta(minutes=1),
            before=page(wanted.after) if wanted.after else None,
            most=_PER_PAGE + 1,
        )


def _wanted(  # noqa: PLR0917  # the form's fields
    since: str = "",
    until: str = "",
    order_no: Annotated[str, Query(max_length=64)] = "",
    transaction_id: Annotated[str, Query(max_length=64)] = "",
    result: str = "",
    channel: Annotated[str, Query(max_length=64)] = "",
    after: str = "",
) -> Wanted:
    """What cannot be meant counts as not filled in: a person sees the form again, not an error."""
    order, transaction, name = (text.replace("\0", "").strip() for text in (order_no, transaction_id, channel))
    return Wanted(
        since=since if _time(since) else "",
        until=until if _time(until) else "",
        order_no=order,
        transaction_id=transaction,
        result=result if result in [*Verdict] else "",
        channel=name,
        after=after,
    )


def _language(lang: str = "", accept_language: Annotated[str, Header()] = "") -> Language:
    if lang in [*Language]:
        return Language(lang)
    return Language.EN if accept_language.strip().lower().startswith("en") else Language.ZH


def _other(language: Language) -> Language:
    return Language.EN if language is Language.ZH else Language.ZH


def _time(text: str) -> datetime | None:
    """What `<input type=datetime-local>` sends, taken as UTC."""
    try:
        moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        return None
    return moment if 1970 <= moment.year < 2200 else None


def _told(channel: Channel | None, body: bytes | None) -> tuple[str, str]:
    """The body and its decrypted content, both masked; empty where there is nothing that may be shown."""
    if body is None or channel is None:
        return "", ""
    if channel.media_type != "application/json":
        return _pretty(mask(dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)))), ""
    try:
        parsed: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "", ""
    content = ""
    if isinstance(channel, WeChat):
        try:
            content = _pretty(mask(channel.decrypt(body)))
        except Refused:
            content = ""
    return (_pretty(mask(parsed)) if isinstance(parsed, dict) else ""), content


def _pretty(content: Mapping[str, Any]) -> str:
    return orjson.dumps(content, option=orjson.OPT_INDENT_2).decode()


def _page(template: str, language: Language, *, status: int = 200, **values: Any) -> HTMLResponse:
    said = {
        "t": partial(words.word, language),
        "verdict": partial(words.verdict, language),
        "reason": partial(words.reason, language),
        "signature": partial(words.signature, language),
        "language": str(language),
    }
    return HTMLResponse(_templates.get_template(template).render(**said, **values), status, _HEADERS)
