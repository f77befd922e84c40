"""Examining a notify URL: its form, its name, its certificate, and probes through the real path."""

import asyncio
import base64
import secrets
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import orjson

from .. import credential
from . import reading
from .reading import Finding, Heard, Probe
from .url import Fault, faults, is_public, parse
from .verdict import Verdict

_CHANNEL_WAITS_SECONDS = 5.0
_CHANNELS_AGENT = "Mozilla/4.0"  # what the channel sends, and what human checks stumble over
_BROWSERS_AGENT = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36"
)
_LARGEST_ANSWER = 256 * 1024
_NOTIFY_PATHS = ("/v1/order/callback/wechat", "/v1/order/callback/alipay")

# Somebody in between decides: what decides it?
_SOMEBODY_ELSE = frozenset(
    {Verdict.FOREIGN_SUCCESS, Verdict.BLOCK_PAGE, Verdict.FORBIDDEN, Verdict.REDIRECT, Verdict.FOREIGN_ANSWER}
    | {Verdict.CUT_OFF, Verdict.TIMEOUT}
)


@dataclass(frozen=True, slots=True)
class Patient:
    """What is examined, and how."""

    url: str
    key: bytes  # the doctor's
    keys: Mapping[str, str] = field(
        default_factory=dict[str, str]
    )  # serial -> fingerprint, that the service should know
    lab: bool = False  # http, ports and private addresses are fine here
    authority: Path | None = None  # trusted beside the system's certificate authorities
    connect_to: str | None = None  # an address to ask instead of DNS
    timeout: float = _CHANNEL_WAITS_SECONDS


@dataclass(frozen=True, slots=True)
class Step:
    """One probe and what came of it."""

    what: str
    finding: Finding
    milliseconds: int = 0


@dataclass(frozen=True, slots=True)
class Diagnosis:
    url: str
    verdict: Verdict
    detail: str
    faults: Sequence[Fault] = ()
    addresses: Sequence[str] = ()
    steps: Sequence[Step] = ()
    hints: Sequence[str] = ()
    certificate_ends: datetime | None = None

    @property
    def healthy(self) -> bool:
        return self.verdict is Verdict.HEALTHY


async def examine(patient: Patient) -> Diagnosis:
    """Never raises for what is wrong with the URL, the network or the answers."""
    wrong = [fault for fault in faults(patient.url) if not patient.lab or fault.verdict is Verdict.TRAILING_SLASH]
    parts = parse(patient.url)
    if parts is None or parts.hostname is None:
        return Diagnosis(patient.url, Verdict.BAD_URL, wrong[0].text if wrong else "no URL", wrong)
    addresses, unresolved = await _resolve(patient, parts.hostname)
    if unresolved is not None:
        return _told(patient, wrong, Finding(Verdict.DNS_FAILURE, unresolved))
    if not patient.lab and patient.connect_to is None and not all(map(is_public, addresses)):
        private = ", ".join(address for address in addresses if not is_public(address))
        wrong.append(Fault(Verdict.PRIVATE_ADDRESS, f"{parts.hostname} resolves to {private}"))
    steps = [await _probe(patient, "as the channel sends it", patient.url)]
    hints: list[str] = []
    if steps[0].finding.verdict in _SOMEBODY_ELSE:
        steps += await _find_the_rule(patient)
        hints += _rule(steps)
    if steps[0].finding.verdict in (Verdict.WRONG_PATH, Verdict.REDIRECT, Verdict.FORBIDDEN):
        found = await _find_the_path(patient)
        steps += found
        hints += [f"{step.what} reaches our service" for step in found if step.finding.report is not None]
    ends = await _certificate_ends(patient) if parts.scheme == "https" else None
    return _told(patient, wrong, steps[0].finding, addresses=addresses, steps=steps, hints=hints, ends=ends)


def _told(
    patient: Patient,
    wrong: Sequence[Fault],
    finding: Finding,
    *,
    addresses: Sequence[str] = (),
    steps: Sequence[Step] = (),
    hints: Sequence[str] = (),
    ends: datetime | None = None,
) -> Diagnosis:
    """What is wrong with the URL itself is the verdict even where a lenient path lets the probe through."""
    verdict, detail = finding.verdict, finding.detail
    if wrong:
        verdict, detail = wrong[0].verdict, wrong[0].text
    return Diagnosis(patient.url, verdict, detail, wrong, addresses, steps, hints, ends)


async def _resolve(patient: Patient, host: str) -> tuple[list[str], str | None]:
    if patient.connect_to is not None:
        return [patient.connect_to], None
    try:
        async with asyncio.timeout(patient.timeout):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except TimeoutError:
        return [], f"{host}: no answer from DNS"
    except (OSError, UnicodeError) as error:
        return [], f"{host}: {getattr(error, 'strerror', None) or error}"
    return sorted({str(info[4][0]) for info in found}), None


def _draft(patient: Patient, *, agent: str, headers: bool, bulky: bool) -> Probe:
    """As like a notice as can be, but for a signature that cannot be right."""
    now = datetime.now(UTC)
    mine = credential.issue(patient.key, now)
    if "alipay" in patient.url:
        body = f"notify_type=trade_status_sync&sign_type=RSA2&notify_id={mine}&sign={'A' * 344}".encode()
        return Probe(
            mine, {"User-Agent": agent, "Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}, body, {}
        )
    resource = {"original_type": "transaction", "algorithm": "AEAD_AES_256_GCM", "associated_data": "transaction"}
    if bulky:
        resource |= {"ciphertext": base64.b64encode(secrets.token_bytes(600)).decode(), "nonce": secrets.token_hex(6)}
    envelope = {
        "id": mine,
        "create_time": now.isoformat(timespec="seconds"),
        "resource_type": "encrypt-resource",
        "event_type": "TRANSACTION.SUCCESS",
        "summary": "支付成功",
        "resource": resource,
    }
    said = {"User-Agent": agent, "Content-Type": "application/json", "Accept": "*/*"}
    if headers:
        said |= {
            "Wechatpay-Serial": next(iter(patient.keys), "PUB_KEY_ID_0000000000000000000000000000"),
            "Wechatpay-Signature": base64.b64encode(secrets.token_bytes(256)).decode(),
            "Wechatpay-Timestamp": str(int(now.timestamp())),
            "Wechatpay-Nonce": secrets.token_hex(16),
            "Wechatpay-Signature-Type": "WECHATPAY2-SHA256-RSA2048",
        }
    return Probe(mine, said, orjson.dumps(envelope), patient.keys)


async def _probe(
    patient: Patient,
    what: str,
    url: str,
    *,
    agent: str = _CHANNELS_AGENT,
    headers: bool = True,
    bulky: bool = True,
) -> Step:
    probe = _draft(patient, agent=agent, headers=headers, bulky=bulky)
    began = asyncio.get_running_loop().time()
    heard = await _post(patient, url, probe)
    took = int((asyncio.get_running_loop().time() - began) * 1000)
    if isinstance(heard, Finding):
        return Step(what, heard, took)
    now = datetime.now(UTC).timestamp()
    return Step(what, reading.read(probe, heard, key=patient.key, now=now), took)


async def _post(patient: Patient, url: str, probe: Probe) -> Heard | Finding:
    target = httpx.URL(url)
    headers, extensions = dict(probe.headers), dict[str, str]()
    if patient.connect_to is not None:
        headers["Host"] = target.netloc.decode()
        extensions["sni_hostname"] = target.host
        target = target.copy_with(host=patient.connect_to)
    try:
        async with (
            asyncio.timeout(patient.timeout),
            httpx.AsyncClient(
                verify=_trust(patient),
                follow_redirects=False,
                trust_env=False,
                timeout=None,  # noqa: S113  # see above
            ) as client,
            client.stream("POST", target, content=probe.body, headers=headers, extensions=extensions) as answer,
        ):
            body = b""
            async for part in answer.aiter_bytes():
                body += part
                if len(body) > _LARGEST_ANSWER:
                    break
            return Heard(answer.status_code, dict(answer.headers), body)
    except TimeoutError:
        return Finding(Verdict.TIMEOUT, f"nothing within {patient.timeout:g} s")
    except httpx.HTTPError as error:
        return _unheard(error)


def _unheard(error: httpx.HTTPError) -> Finding:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Finding(Verdict.TLS_FAILURE, cause.verify_message)
        if isinstance(cause, ssl.SSLError):
            return Finding(Verdict.TLS_FAILURE, cause.reason or str(cause))
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.ConnectError):
        return Finding(Verdict.UNREACHABLE, str(error))
    return Finding(Verdict.CUT_OFF, str(error) or type(error).__name__)


def _trust(patient: Patient) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if patient.authority is not None:
        context.load_verify_locations(cafile=patient.authority)
    return context


async def _find_the_rule(patient: Patient) -> list[Step]:
    """The same probe with one thing changed at a time."""
    return [
        await _probe(patient, "with a browser's User-Agent", patient.url, agent=_BROWSERS_AGENT),
        await _probe(patient, "without the encrypted body", patient.url, bulky=False),
        await _probe(patient, "without the channel's headers", patient.url, headers=False),
    ]


def _rule(steps: Sequence[Step]) -> list[str]:
    passed = [step.what for step in steps[1:] if step.finding.report is not None]
    if not passed:
        return ["no variation of the probe passes: the rule is about the path, the method or the sender's address"]
    return [f"{what}, the probe passes: that is what the rule is about" for what in passed]


async def _find_the_path(patient: Patient) -> list[Step]:
    url = httpx.URL(patient.url)
    other = url.path.rstrip("/") if url.path.endswith("/") else f"{url.path}/"
    paths = dict.fromkeys([other, *(path for path in _NOTIFY_PATHS if path != url.path)])
    urls = [str(url.copy_with(path=path)) for path in paths if path]
    return [await _probe(patient, one, one) for one in urls]


async def _certificate_ends(patient: Patient) -> datetime | None:
    parts = parse(patient.url)
    if parts is None or parts.hostname is None:
        return None
    try:
        async with asyncio.timeout(patient.timeout):
            _, writer = await asyncio.open_connection(
                patient.connect_to or parts.hostname,
                parts.port or 443,
                ssl=_trust(patient),
                server_hostname=parts.hostname,
            )
    except (OSError, TimeoutError):
        return None
    certificate = writer.get_extra_info("ssl_object").getpeercert() or {}
    writer.transport.abort()
    ends = certificate.get("notAfter")
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(ends), UTC) if ends else None
