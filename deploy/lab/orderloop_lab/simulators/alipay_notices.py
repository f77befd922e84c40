"""What Alipay sends a merchant: signed forms, acknowledged by `success`; and what may go wrong with one."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from pydantic import Field

from . import delivery
from .alipay_keys import Keys, form_signature
from .delivery import Deliveries, Letter, Manner
from .ledger import Simulator

# Seconds between the eight notices. [GOPAY doc/alipay.md]
RETRIES = (240, 600, 600, 3600, 7200, 21600, 54000)


class Faults(delivery.Faults):
    charset: str = Field("utf-8", pattern="^(utf-8|gbk|GBK)$")
    sign_empty: bool = True  # whether empty values are part of what is signed
    overrides: dict[str, str] = Field(default_factory=dict)  # merged over the form: wrong app_id, amount …


class Post(Deliveries[Faults]):
    retries = RETRIES
    id_field = "notify_id"

    def __init__(self, sim: Simulator, keys: Keys) -> None:
        super().__init__(sim, Faults)
        self._keys = keys

    def acknowledges(self, status: int, answer: str) -> bool:
        return (status, answer) == (200, "success")

    def compose(self, notice: Mapping[str, Any], faults: Faults, manner: Manner, attempt: int) -> Letter:
        headers = {"Content-Type": f"application/x-www-form-urlencoded; charset={faults.charset}"}
        return Letter(headers, self._body(notice["form"], faults, manner))

    def _body(self, form: Mapping[str, str], faults: Faults, manner: Manner) -> bytes:
        fields = dict(form) | {"charset": faults.charset} | faults.overrides
        key = self._keys.attacker if manner is Manner.FORGED else self._keys.alipay
        sign = form_signature(key, fields, faults.charset, empty=faults.sign_empty)
        if manner is Manner.TAMPERED:
            fields["total_amount"] = "0.01"
        return urlencode(fields | {"sign": sign, "sign_type": "RSA2"}, encoding=faults.charset).encode()
