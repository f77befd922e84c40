"""Taking a notification: verify, translate, store, and only then acknowledge.

Whatever is acknowledged is durably stored; whatever is not acknowledged has changed nothing, or will be a repeat.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import orjson
import structlog
from opentelemetry import trace

from orderloop import tracing
from orderloop.clock import Clock
from orderloop.failpoints import failpoint

from . import credential, metrics
from .attempt import Attempt, Verdict
from .budget import Budget
from .channels import Answer, Channel, Notice, Reason, Refused
from .writer import Writer

log = structlog.get_logger()

# What the channels' own notices need is a twentieth of this.
LARGEST_BODY = 64 * 1024

# 401 unless something else is said: to a stranger all refusals look alike.
_STATUS = {
    Reason.METHOD: 405,
    Reason.TOO_LARGE: 413,
    Reason.MEDIA_TYPE: 415,
    Reason.MALFORMED: 400,
    Reason.UNDECRYPTABLE: 400,
    Reason.WRONG_MERCHANT: 400,
    # Authentic, and our lack of understanding: the channel tells us again for a day, time enough to learn. Not a 500:
    # those are for what nobody has thought of.
    Reason.NOT_UNDERSTOOD: 422,
}

# Only the channel itself can cause these: they are always logged, whatever strangers have spent.
_AUTHENTIC = frozenset({Reason.UNDECRYPTABLE, Reason.WRONG_MERCHANT, Reason.NOT_UNDERSTOOD})

# Beside the channel's own headers; behind a proxy the socket's address says little.
_LOGGED_HEADERS = frozenset({"content-type", "x-forwarded-for"})


@dataclass(frozen=True, slots=True)
class Doctor:
    """Answers our own probes; see `credential`."""

    key: bytes
    clock: Clock
    keys: Callable[[], Mapping[str, str]]  # serial -> fingerprint, of the channel's keys that verify here now

    def examine(
        self, headers: Mapping[str, str], source_address: str | None, body: bytes | None, reason: Reason
    ) -> str | None:
        """The sealed report, if the request is a genuine probe."""
        now = self.clock.now()
        mine = credential.find(self.key, body or b"", now)
        if mine is None:
            return None
        report = credential.Report(
            reason=reason,
            headers=tuple(sorted(name for name in headers if name.startswith("wechatpay-"))),
            user_agent=headers.get("user-agent", ""),
            source_address=source_address or "",
            body_sha256=credential.sha256(body or b""),
            at=now.timestamp(),
            keys=self.keys(),
        )
        return credential.seal(self.key, mine, report)


class Reception:
    """One channel's desk."""

    def __init__(
        self,
        channel: Channel,
        *,
        writer: Writer,
        clock: Clock,
        budget: Budget,
        doctor: Doctor | None = None,
        on_unknown_serial: Callable[[], None] | None = None,
    ) -> None:
        self.channel = channel
        self._doctor = doctor
        self._on_unknown_serial = on_unknown_serial
        self._writer = writer
        self._clock = clock
        self._budget = budget
        self._logged = channel.logged_headers | _LOGGED_HEADERS

    async def receive(
        self, *, method: str, headers: Mapping[str, str], source_address: str | None, body: bytes | None
    ) -> Answer:
        """The answer to one request. Header names are lower-case; `body` is None if it is too large to be read.

        Never raises for a reason that lies in the request or the database.
        """
        kept = {name: value for name, value in headers.items() if name in self._logged}
        try:
            notice = self._read(method, headers, body)
        except Refused as refused:
            if self._doctor and (proof := self._doctor.examine(headers, source_address, body, refused.reason)):
                return await self._prove(proof, refused, kept, source_address, body)
            if refused.reason is Reason.UNKNOWN_SERIAL and self._on_unknown_serial:
                self._on_unknown_serial()
            return await self._refuse(refused, kept, source_address, body)
        attempt = Attempt(
            channel=self.channel.name,
            status=self.channel.stored().status,
            source_address=source_address,
            headers=kept,
            body=body,
            notice=notice,
            trace_id=tracing.trace_id(),
            traceparent=tracing.current_traceparent(),
            span=trace.get_current_span().get_span_context(),
            traceparents=_traceparents(notice),
        )
        return await self._accept(attempt)

    def _read(self, method: str, headers: Mapping[str, str], body: bytes | None) -> Notice:
        if body is None:
            raise Refused(Reason.TOO_LARGE)
        if method != "POST":
            raise Refused(Reason.METHOD)
        if headers.get("content-type", "").partition(";")[0].strip().lower() != self.channel.media_type:
            raise Refused(Reason.MEDIA_TYPE)
        failpoint("payment_callback.before_verify")
        self.channel.verify(headers, body, self._clock.now())
        failpoint("payment_callback.after_verify")
        return self.channel.translate(body)

    async def _accept(self, attempt: Attempt) -> Answer:
        try:
            verdict = await self._writer.store(attempt)
        except Exception as error:
            metrics.RECEIVED.labels(self.channel.name, "unstored", type(error).__name__).inc()
            log.error("callback not stored, the channel will repeat it", order_no=attempt.order_no, error=repr(error))
            return self.channel.failed(503)
        failpoint("payment_callback.after_commit")
        metrics.RECEIVED.labels(self.channel.name, verdict, "").inc()
        if attempt.notice is not None and attempt.notice.remark:
            log.warning("authentic callback without effect", order_no=attempt.order_no, remark=attempt.notice.remark)
        return self.channel.stored()

    async def _prove(
        self, proof: str, refused: Refused, kept: Mapping[str, str], source_address: str | None, body: bytes | None
    ) -> Answer:
        """Like any refusal, but for what only the doctor understands; counted apart, so that no alarm rings."""
        metrics.RECEIVED.labels(self.channel.name, "doctor", "").inc()
        seen = Refused(Reason.DOCTOR, f"would be {refused.reason}")
        await self._write_down(seen, 401, kept, source_address, body)
        return Answer(401, orjson.dumps({"code": "FAIL", "message": "失败", "proof": proof}))

    async def _refuse(
        self, refused: Refused, kept: Mapping[str, str], source_address: str | None, body: bytes | None
    ) -> Answer:
        status = _STATUS.get(refused.reason, 401)
        metrics.RECEIVED.labels(self.channel.name, Verdict.REFUSED, refused.reason).inc()
        await self._write_down(refused, status, kept, source_address, body)
        return self.channel.failed(status)

    async def _write_down(
        self,
        refused: Refused,
        status: int,
        kept: Mapping[str, str],
        source_address: str | None,
        body: bytes | None,
    ) -> None:
        """Within the budget, unless only the channel itself can have caused it."""
        size = len(body or b"") + sum(map(len, kept.values()))
        if refused.reason not in _AUTHENTIC and not self._budget.spend(size, source_address, self._clock.now()):
            metrics.UNLOGGED.labels(self.channel.name).inc()
            return
        log.info(
            "callback refused",
            channel=self.channel.name,
            reason=refused.reason,
            detail=refused.detail,
            source_address=source_address,
        )
        with suppress(Exception):  # a refusal stands, whether or not it could be written down
            await self._writer.store(
                Attempt(
                    channel=self.channel.name,
                    status=status,
                    source_address=source_address,
                    headers=kept,
                    body=body,
                    refusal=refused.reason,
                    detail=refused.detail,
                    trace_id=tracing.trace_id(),
                )
            )


def _traceparents(notice: Notice) -> tuple[str | None, ...]:
    """Make the request findable by each of its orders, and give each fact the context that travels with it."""
    if len(notice.order_nos) == 1:
        tracing.tag_order(notice.order_nos[0])
        return tuple(tracing.current_traceparent() for _ in notice.facts)
    # one span, one order: a trace store finds a span by one value of a tag, not by one of a list's
    contexts: dict[str, str | None] = {}
    for order_no in notice.order_nos:
        with tracing.span("combined payment", order_no=order_no):
            contexts[order_no] = tracing.current_traceparent()
    return tuple(contexts[fact.event.order_no] for fact in notice.facts)
