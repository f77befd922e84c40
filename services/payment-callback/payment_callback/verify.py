"""Judging a captured callback offline, with the verifier that the service itself uses."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import orjson

from orderloop.errors import Permanent

from .channels import Notice, Reason, Refused, signing
from .channels.alipay import Alipay
from .channels.wechat import WeChat
from .channels.wechat_keys import VerifyingKey, certificates, fingerprint, public_key
from .masking import mask

# Never used for more than to fill the place of a key that was not given.
_NO_KEY = bytes(32)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What came of it. `content` is masked."""

    authentic: bool
    reason: str = ""  # of the refusal
    detail: str = ""
    facts: Mapping[str, str] = field(default_factory=dict[str, str])  # what was looked at, in words
    content: Mapping[str, Any] | None = None
    remark: str = ""  # about the content

    def as_json(self) -> dict[str, Any]:
        names = ("authentic", "reason", "detail", "facts", "content", "remark")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class WechatKey:
    """The one key that is to verify."""

    name: str  # for people
    keys: Mapping[str, VerifyingKey]

    @classmethod
    def public(cls, key_id: str, pem: bytes) -> "WechatKey":
        return cls(f"public key {key_id}", public_key(key_id, pem))

    @classmethod
    def certificate(cls, pem: bytes) -> "WechatKey":
        found = certificates([pem])
        (serial, key), *_ = found.items()
        return cls(f"platform certificate {serial}, valid until {key.not_after:%Y-%m-%d}", found)


def headers(raw: bytes) -> dict[str, str]:
    """A JSON object, or lines of `Name: value` with or without a request line. Raises Permanent."""
    if raw.lstrip()[:1] == b"{":
        try:
            said = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise Permanent(f"the headers are no JSON: {error}") from None
        return {str(name).lower(): str(value) for name, value in said.items()}
    found: dict[str, str] = {}
    for number, line in enumerate(raw.decode("latin-1").splitlines(), 1):
        name, colon, value = line.partition(":")
        if not line.strip() or (number == 1 and re.match(r"[A-Z]+ \S+( HTTP/|$)", line)):
            continue
        if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name.strip()):
            raise Permanent(f"line {number} of the headers is no `Name: value`")
        found[name.strip().lower()] = value.strip()
    if not found:
        raise Permanent("the headers are empty")
    return found


def wechat(said: Mapping[str, str], body: bytes, *, at: datetime, key: WechatKey, apiv3_key: bytes | None) -> Judgement:
    """Whether the service would have taken it at `at`, and what it says. Raises Permanent for unusable keys."""
    # Who is meant to be paid is not asked here: the merchant is whoever the notice names.
    channel = WeChat(mchid="", appids=[], apiv3_key=apiv3_key or _NO_KEY, keys=key.keys)
    facts = {"key": key.name, "fingerprint": next(iter(channel.fingerprints.values()))}
    facts["signed under"] = said.get("wechatpay-serial", "nothing")
    facts["clock"] = _clock(said.get("wechatpay-timestamp", ""), at)
    try:
        channel.verify(said, body, at)
    except Refused as refused:
        return Judgement(False, refused.reason, _why(channel, refused, said, body, at), facts)
    if apiv3_key is None:
        return Judgement(True, facts=facts, remark="Not decrypted: no APIv3 key was given.")
    try:
        content = channel.decrypt(body)
    except Refused as refused:
        return Judgement(False, refused.reason, refused.detail or _HINTS.get(refused.reason, ""), facts)
    return Judgement(
        True, facts=facts, content=mask(content), remark=_meaning(_of_merchant(content, apiv3_key, key), body)
    )


def _of_merchant(content: Mapping[str, Any], apiv3_key: bytes, key: WechatKey) -> WeChat:
    """The channel of the merchant whom the notice names."""
    merchant = next((content[name] for name in ("mchid", "sp_mchid", "combine_mchid") if name in content), "")
    app = next((content[name] for name in ("appid", "sp_appid", "combine_appid") if name in content), "")
    return WeChat(mchid=merchant, appids=[app], apiv3_key=apiv3_key, keys=key.keys)


def alipay(body: bytes, *, at: datetime, pem: bytes, app_id: str | None, seller_id: str | None) -> Judgement:
    """The same for a form of Alipay's. The merchant is judged only where he is named."""
    key = signing.any_public_key(pem, "of Alipay")
    form = _form(body)
    channel = Alipay(
        app_ids=[app_id or form.get("app_id", "") or "none"],
        seller_id=seller_id or form.get("seller_id", "") or "none",
        key=key,
    )
    facts = {"key": "Alipay's public key", "fingerprint": fingerprint(VerifyingKey(key))}
    try:
        channel.verify({}, body, at)
        notice = channel.translate(body)
    except Refused as refused:
        return Judgement(False, refused.reason, refused.detail or _HINTS.get(refused.reason, ""), facts)
    return Judgement(True, facts=facts, content=mask(form), remark=_said(notice))


_HINTS = {
    Reason.HEADER_MISSING: "A proxy or the capture has dropped it.",
    Reason.PROBE: "A signature probe of the channel: refusing it is right, it comes again with a real signature.",
    Reason.BAD_SIGNATURE: "The body or the headers are not as they were sent, or another key signed them.",
    Reason.UNDECRYPTABLE: "The signature holds, but this APIv3 key does not open the content.",
    Reason.CERTIFICATE_EXPIRED: "The certificate's end lies before the time that was given.",
    Reason.CERTIFICATE_TOO_EARLY: "The certificate's beginning lies after the time that was given.",
}


def _why(channel: WeChat, refused: Refused, said: Mapping[str, str], body: bytes, at: datetime) -> str:
    match refused.reason:
        case Reason.BAD_SIGNATURE:
            for change, candidate in _damages(body):
                try:
                    channel.verify(said, candidate, at)
                except Refused:
                    continue
                return f"The signature holds {change}: the capture has changed the body."
            return _HINTS[Reason.BAD_SIGNATURE]
        case Reason.UNKNOWN_SERIAL:
            return "It was signed with another key than the one given; see `signed under`."
        case Reason.CLOCK:
            return f"{refused.detail}; the service takes less than 300 s either way. Give the time of arrival as --at."
        case _:
            return f"{refused.detail} {_HINTS.get(refused.reason, '')}".strip()


def _damages(body: bytes) -> list[tuple[str, bytes]]:
    """What editors and shells do to a body."""
    return [
        ("without the newline at the end", body.rstrip(b"\r\n")),
        ("with a newline at the end", body + b"\n"),
        ("with CRLF made LF", body.replace(b"\r\n", b"\n")),
        ("without the byte order mark", body.removeprefix(b"\xef\xbb\xbf")),
    ]


def _clock(timestamp: str, at: datetime) -> str:
    try:
        signed = datetime.fromtimestamp(int(timestamp), UTC)
    except (ValueError, OverflowError, OSError):
        return "no timestamp"
    return f"signed {signed:%Y-%m-%d %H:%M:%S}Z, judged {(at - signed).total_seconds():+.0f} s from then"


def _meaning(channel: WeChat, body: bytes) -> str:
    try:
        return _said(channel.translate(body))
    except Refused as refused:
        return f"The service would not understand it: {refused}"


def _said(notice: Notice) -> str:
    events = ", ".join(fact.event_id for fact in notice.facts) or "no event"
    return f"{notice.shape}: {events}" + (f" ({notice.remark})" if notice.remark else "")


def _form(body: bytes) -> dict[str, str]:
    charset = "gb18030" if b"charset=gb" in body.lower() else "utf-8"
    return dict(parse_qsl(body.decode("latin-1"), keep_blank_values=True, encoding=charset, errors="replace"))
