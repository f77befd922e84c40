"""Reading an answer: was it our service, and if not, who? Pure.

Marks of firewalls from public fingerprint collections (wafw00f, identYwaf) and from pages seen; a mark only names who
answered, it never decides whether our service did: only its proof does.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from .. import credential
from ..credential import Report
from .verdict import Verdict


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer as it came. Header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Probe:
    """What was sent."""

    credential: str
    headers: Mapping[str, str]
    body: bytes
    keys: Mapping[str, str]  # serial -> fingerprint, as the doctor knows them


@dataclass(frozen=True, slots=True)
class Finding:
    verdict: Verdict
    detail: str = ""
    report: Report | None = None


# (where, what it contains, whose it is); the body in lower case
_MARKS = (
    ("header server", "cloudflare", "Cloudflare"),
    ("header cf-ray", "", "Cloudflare"),
    ("body", "attention required! | cloudflare", "Cloudflare"),
    ("body", "errors.aliyun.com", "Aliyun WAF"),
    ("body", "g.alicdn.com/sd-base", "Aliyun WAF"),
    ("body", "blocked as it may cause potential threats to the server's security", "Aliyun WAF"),
    ("body", "waf.tencent-cloud.com", "Tencent Cloud WAF"),
    ("body", "t-sec web应用防火墙", "Tencent Cloud WAF"),
    ("body", "提交的请求可能对网站造成威胁", "Tencent Cloud WAF"),
    ("body", "safeline", "SafeLine"),
    ("body", "长亭", "SafeLine"),
    ("body", "safedog", "SafeDog"),
    ("body", "mod_security", "ModSecurity"),
    ("body", "modsecurity", "ModSecurity"),
    ("body", "网站防火墙", "a web firewall"),
    ("body", "awswaf", "AWS WAF"),
)
_HUMAN_CHECK = (
    "人机验证",
    "安全验证",
    "滑动验证",
    "captcha",
    "challenge",
    "enable javascript",
    "checking your browser",
)
_FAIL = {"code": "FAIL", "message": "失败"}
_OUR_PROBLEMS = "https://orderloop.dev/problems/"
_CLOCK_TOLERANCE_SECONDS = 60  # the channel's window is 300, and clocks that drift go on drifting


def read(probe: Probe, heard: Heard, *, key: bytes, now: float) -> Finding:
    """What the answer to a probe tells."""
    answer = _object(heard.body)
    if sealed := answer.get("proof"):
        report = credential.unseal(key, probe.credential, str(sealed))
        if report is not None:
            return _ours(probe, report, now)
    return _foreign(heard, answer)


def who(heard: Heard) -> str:
    """The firewall or proxy that answered, as far as it shows itself."""
    body = heard.body[:20_000].decode("utf-8", "replace").lower()
    for where, mark, name in _MARKS:
        kind, _, header = where.partition(" ")
        if kind == "body" and mark in body:
            return name
        if kind == "header" and header in heard.headers and mark in heard.headers[header].lower():
            return name
    return heard.headers.get("server", "")


def _ours(probe: Probe, report: Report, now: float) -> Finding:
    sent = {name.lower() for name in probe.headers if name.lower().startswith("wechatpay-")}
    if missing := sorted(sent - set(report.headers)):
        return Finding(Verdict.HEADERS_STRIPPED, ", ".join(missing), report)
    if report.body_sha256 != credential.sha256(probe.body):
        return Finding(Verdict.BODY_CHANGED, "", report)
    if abs(report.at - now) > _CLOCK_TOLERANCE_SECONDS or report.reason == "clock":
        return Finding(Verdict.CLOCK, f"{report.at - now:+.0f} s", report)
    if report.reason in ("method", "media_type", "too_large"):
        return Finding(Verdict.FOREIGN_ANSWER, f"the request was changed on the way: {report.reason}", report)
    if wrong := [serial for serial, fingerprint in probe.keys.items() if report.keys.get(serial) != fingerprint]:
        return Finding(Verdict.WRONG_KEY, f"the service does not verify with {', '.join(sorted(wrong))}", report)
    return Finding(Verdict.HEALTHY, "", report)


def _foreign(heard: Heard, answer: Mapping[str, object]) -> Finding:
    status, name = heard.status, who(heard)
    detail = f"{status} {name}".strip()
    html = "html" in heard.headers.get("content-type", "") or heard.body.lstrip()[:1] == b"<"
    marked = name not in ("", heard.headers.get("server", ""))
    if 200 <= status < 300:
        human = any(mark in heard.body.decode("utf-8", "replace").lower() for mark in _HUMAN_CHECK)
        return Finding(Verdict.FOREIGN_SUCCESS, f"{detail}, a human check" if human else detail)
    if 300 <= status < 400:
        return Finding(Verdict.REDIRECT, f"{status} to {heard.headers.get('location', 'nowhere')}")
    if answer == _FAIL or heard.body == b"fail":
        return Finding(Verdict.WRONG_KEY, "it refuses as our service does, without the proof")
    if str(answer.get("type", "")).startswith(_OUR_PROBLEMS):
        return Finding(Verdict.WRONG_PATH, f"our service answers {status} here")
    if marked and html:
        return Finding(Verdict.BLOCK_PAGE, detail)
    if status in (404, 410):
        return Finding(Verdict.WRONG_PATH, detail)
    if status in (401, 403, 405, 406, 418, 429, 444, 468, 493):
        return Finding(Verdict.FORBIDDEN, detail)
    if status >= 500:
        return Finding(Verdict.UPSTREAM_DOWN, detail)
    return Finding(Verdict.FOREIGN_ANSWER, detail)


def _object(body: bytes) -> dict[str, object]:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
