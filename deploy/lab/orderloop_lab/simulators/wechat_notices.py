"""What WeChat Pay sends a merchant: sealed notices, acknowledged by a 2xx; and what may go wrong with one."""

import asyncio
import json
import random
import time
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, Field

from .delivery import Deliveries
from .ledger import Simulator
from .wechat_certificates import Certificates
from .wechat_keys import KeyMode, Keys, encrypt, random_text, signature_headers

# Seconds between attempts; sum 24 h 4 m. [SKILL, WIM, WXDOC introduction.html]
RETRIES = (15, 15, 30, 180, 600, 1200, 1800, 1800, 1800, 3600, 10800, 10800, 10800, 21600, 21600)
ANSWER_WITHIN = 5.0  # seconds, never compressed: this is what the merchant's code must keep


class Manner(StrEnum):
    """How one attempt is sent."""

    GENUINE = "genuine"
    LOST = "lost"  # never leaves the building
    PROBE = "probe"  # WECHATPAY/SIGNTEST/: a right merchant refuses it
    FORGED = "forged"  # a stranger's key under our serial
    TAMPERED = "tampered"  # the body was changed after signing
    BROKEN_TAG = "broken_tag"  # authentic, but the ciphertext does not decrypt
    ANSWER_LOST = "answer_lost"  # genuine, only that the answer never reaches us


class Faults(BaseModel):
    """What goes wrong with one notice. The first attempts fail in the order of the counts below, then it is genuine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    delay: float = Field(0, ge=0)  # seconds before the first attempt, divided by the time factor
    lose_first: int = Field(0, ge=0)
    probe: int = Field(0, ge=0)
    forge: int = Field(0, ge=0)
    tamper: int = Field(0, ge=0)
    break_tag: int = Field(0, ge=0)
    lose_answer: int = Field(0, ge=0)
    duplicates: int = Field(0, ge=0)  # sent again so often after it was acknowledged
    simultaneous: int = Field(1, ge=1)  # copies of every attempt, at the same instant
    key_mode: KeyMode = KeyMode.PUBLIC_KEY
    clock_skew: int = 0  # seconds added to the signed timestamp
    associated_data: str = Field("transaction", max_length=15)
    overrides: dict[str, Any] = Field(default_factory=dict)  # merged over the plaintext: wrong mchid, amount …

    def manner(self, attempt: int) -> Manner:
        """`attempt` counts from 1."""
        story = (
            [Manner.LOST] * self.lose_first
            + [Manner.PROBE] * self.probe
            + [Manner.FORGED] * self.forge
            + [Manner.TAMPERED] * self.tamper
            + [Manner.BROKEN_TAG] * self.break_tag
            + [Manner.ANSWER_LOST] * self.lose_answer
        )
        return story[attempt - 1] if attempt <= len(story) else Manner.GENUINE


class Post(Deliveries):
    """Composes, signs and sends, and writes every attempt into the ledger."""

    retries = RETRIES
    id_field = "notice_id"

    def __init__(self, sim: Simulator, keys: Keys, certificates: Certificates, client: httpx.AsyncClient) -> None:
        super().__init__(sim)
        self._keys = keys
        self._certificates = certificates
        self._client = client

    async def attempt(self, delivery: Mapping[str, Any], number: int, copy: int) -> bool:
        return await self.send(delivery, Faults.model_validate(delivery["faults"]), number, copy)

    async def send(self, notice: Mapping[str, Any], faults: Faults, attempt: int, copy: int) -> bool:
        """One attempt. Whether the channel heard a 2xx."""
        manner = faults.manner(attempt)
        chance = self._sim.chance(notice["notice_id"], attempt)  # copies are the same bytes
        headers, body = self._compose(notice, faults, manner, chance)
        key = f"{notice['notice_id']}:{attempt}:{copy}:{time.time_ns()}"
        record: dict[str, Any] = {
            "notice_id": notice["notice_id"],
            "about": notice["about"],
            "attempt": attempt,
            "copy": copy,
            "manner": manner,
            "serial": headers["Wechatpay-Serial"],
            "sent_at": time.time(),
            "answered_at": None,
            "status": None,
            "answer": None,
            "error": None,
        }
        self._sim.ledger.put("attempt", key, record)
        if manner is Manner.LOST:
            return False
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                answer = await self._client.post(notice["url"], content=body, headers=headers)
        except Exception as error:  # no answer, however the client says so: not all it raises is an HTTPError
            record["error"] = f"{type(error).__name__}: {error}"
        else:
            record["status"] = answer.status_code
            record["answer"] = answer.text[:500]
        record["answered_at"] = time.time()
        self._sim.ledger.put("attempt", key, record)
        status = record["status"]
        return manner is not Manner.ANSWER_LOST and status is not None and 200 <= status < 300

    def _compose(
        self, notice: Mapping[str, Any], faults: Faults, manner: Manner, chance: random.Random
    ) -> tuple[dict[str, str], bytes]:
        serial, key = self._certificates.signer(faults.key_mode, chance)
        body = self._envelope(notice, faults, manner, chance)
        if manner is Manner.FORGED:
            key = self._keys.attacker
        headers = signature_headers(
            serial,
            key,
            timestamp=int(time.time()) + faults.clock_skew,
            nonce=random_text(chance, 32),
            body=body,
        )
        if manner is Manner.PROBE:
            # the real probe keeps the length and stays legal base64
            headers["Wechatpay-Signature"] = ("WECHATPAY/SIGNTEST/" + headers["Wechatpay-Signature"])[:344]
        if manner is Manner.TAMPERED:
            body = body.replace(b"encrypt-resource", b"encrypt-resourcf", 1)
        return headers | {"Request-ID": random_text(chance, 24), "Content-Type": "application/json"}, body

    def _envelope(self, notice: Mapping[str, Any], faults: Faults, manner: Manner, chance: random.Random) -> bytes:
        # the resource is encrypted anew for every attempt: nobody may recognise a repeat by its bytes
        nonce = random_text(chance, 12)
        ciphertext = encrypt(
            self._keys.apiv3_key, notice["plaintext"], nonce=nonce, associated_data=faults.associated_data
        )
        if manner is Manner.BROKEN_TAG:
            ciphertext = ("A" if ciphertext[0] != "A" else "B") + ciphertext[1:]
        envelope = {
            "id": notice["notice_id"],
            "create_time": notice["create_time"],
            "resource_type": "encrypt-resource",
            "event_type": notice["event_type"],
            "summary": notice["summary"],
            "resource": {
                "original_type": notice["original_type"],
                "algorithm": "AEAD_AES_256_GCM",
                "ciphertext": ciphertext,
                "associated_data": faults.associated_data,
                "nonce": nonce,
            },
        }
        return json.dumps(envelope, ensure_ascii=False, separators=(",", ":")).encode()
