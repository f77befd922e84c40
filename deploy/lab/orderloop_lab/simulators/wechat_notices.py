"""What WeChat Pay sends a merchant: sealed notices, acknowledged by a 2xx; and what may go wrong with one."""

import json
import random
import time
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from . import delivery
from .delivery import Deliveries, Letter, Manner
from .ledger import Simulator
from .wechat_certificates import Certificates
from .wechat_keys import KeyMode, Keys, encrypt, random_text, signature_headers

# Seconds between attempts; sum 24 h 4 m. [SKILL, WIM, WXDOC introduction.html]
RETRIES = (15, 15, 30, 180, 600, 1200, 1800, 1800, 1800, 3600, 10800, 10800, 10800, 21600, 21600)


class Faults(delivery.Faults):
    probe: int = Field(0, ge=0)
    break_tag: int = Field(0, ge=0)
    key_mode: KeyMode = KeyMode.PUBLIC_KEY
    clock_skew: int = 0  # seconds added to the signed timestamp
    associated_data: str = Field("transaction", max_length=15)
    overrides: dict[str, Any] = Field(default_factory=dict)  # merged over the plaintext: wrong mchid, amount …


class Post(Deliveries[Faults]):
    retries = RETRIES
    id_field = "notice_id"
    headers = {"User-Agent": "Mozilla/4.0"}  # noqa: RUF012  # what the real one sends, and what firewalls stumble over

    def __init__(self, sim: Simulator, keys: Keys, certificates: Certificates) -> None:
        super().__init__(sim, Faults)
        self._keys = keys
        self._certificates = certificates

    def acknowledges(self, status: int, answer: str) -> bool:
        return 200 <= status < 300

    def compose(self, notice: Mapping[str, Any], faults: Faults, manner: Manner, attempt: int) -> Letter:
        chance = self._sim.chance(notice["notice_id"], attempt)  # copies are the same bytes
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
        headers |= {"Request-ID": random_text(chance, 24), "Content-Type": "application/json"}
        return Letter(headers, body, {"serial": serial})

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
