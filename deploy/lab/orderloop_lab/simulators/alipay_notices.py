"""What Alipay sends a merchant: signed forms, acknowledged by `success`; and what may go wrong with one."""

import asyncio
import time
from collections.abc import Mapping
from enum import StrEnum
from typing import Any
from urllib.parse import urlencode

import httpx
from pydantic import BaseModel, ConfigDict, Field

from .alipay_keys import Keys, form_signature
from .delivery import Deliveries
from .ledger import Simulator

# Seconds between the eight notices. [GOPAY doc/alipay.md]
RETRIES = (240, 600, 600, 3600, 7200, 21600, 54000)
ANSWER_WITHIN = 5.0  # seconds, never compressed


class Manner(StrEnum):
    """How one notice is sent."""

    GENUINE = "genuine"
    LOST = "lost"  # never leaves the building
    FORGED = "forged"  # a stranger's key
    TAMPERED = "tampered"  # the amount was changed after signing
    ANSWER_LOST = "answer_lost"


class Faults(BaseModel):
    """What goes wrong with one notice. The first attempts fail in the order of the counts, then it is genuine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    delay: float = Field(0, ge=0)  # seconds before the first attempt, divided by the time factor
    lose_first: int = Field(0, ge=0)
    forge: int = Field(0, ge=0)
    tamper: int = Field(0, ge=0)
    lose_answer: int = Field(0, ge=0)
    duplicates: int = Field(0, ge=0)  # sent again so often after it was acknowledged
    simultaneous: int = Field(1, ge=1)  # copies of every attempt, at the same instant
    charset: str = Field("utf-8", pattern="^(utf-8|gbk|GBK)$")
    sign_empty: bool = True  # whether empty values are part of what is signed
    overrides: dict[str, str] = Field(default_factory=dict)  # merged over the form: wrong app_id, amount …

    def manner(self, attempt: int) -> Manner:
        """`attempt` counts from 1."""
        story = (
            [Manner.LOST] * self.lose_first
            + [Manner.FORGED] * self.forge
            + [Manner.TAMPERED] * self.tamper
            + [Manner.ANSWER_LOST] * self.lose_answer
        )
        return story[attempt - 1] if attempt <= len(story) else Manner.GENUINE


class Post(Deliveries):
    """Composes, signs and sends, and writes every attempt into the ledger."""

    retries = RETRIES
    id_field = "notify_id"

    def __init__(self, sim: Simulator, keys: Keys, client: httpx.AsyncClient) -> None:
        super().__init__(sim)
        self._keys = keys
        self._client = client

    async def attempt(self, delivery: Mapping[str, Any], number: int, copy: int) -> bool:
        return await self.send(delivery, Faults.model_validate(delivery["faults"]), number, copy)

    async def send(self, notice: Mapping[str, Any], faults: Faults, attempt: int, copy: int) -> bool:
        """One attempt. Whether the channel heard `success`."""
        manner = faults.manner(attempt)
        key = f"{notice['notify_id']}:{attempt}:{copy}:{time.time_ns()}"
        record: dict[str, Any] = {
            "notify_id": notice["notify_id"],
            "about": notice["about"],
            "attempt": attempt,
            "copy": copy,
            "manner": manner,
            "sent_at": time.time(),
            "status": None,
            "answer": None,
            "error": None,
        }
        self._sim.ledger.put("attempt", key, record)
        if manner is Manner.LOST:
            return False
        headers = {"Content-Type": f"application/x-www-form-urlencoded; charset={faults.charset}"}
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                body = self._body(notice["form"], faults, manner)
                answer = await self._client.post(notice["url"], content=body, headers=headers)
        except Exception as error:  # no answer, however the client says so: not all it raises is an HTTPError
            record["error"] = f"{type(error).__name__}: {error}"
        else:
            record |= {"status": answer.status_code, "answer": answer.text[:500]}
        self._sim.ledger.put("attempt", key, record)
        return manner is not Manner.ANSWER_LOST and (record["status"], record["answer"]) == (200, "success")

    def _body(self, form: Mapping[str, str], faults: Faults, manner: Manner) -> bytes:
        fields = dict(form) | {"charset": faults.charset} | faults.overrides
        key = self._keys.attacker if manner is Manner.FORGED else self._keys.alipay
        sign = form_signature(key, fields, faults.charset, empty=faults.sign_empty)
        if manner is Manner.TAMPERED:
            fields["total_amount"] = "0.01"
        return urlencode(fields | {"sign": sign, "sign_type": "RSA2"}, encoding=faults.charset).encode()
