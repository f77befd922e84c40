"""Settlement's own settings: the bank, and who gets what."""

from datetime import timedelta
from ipaddress import ip_address
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from orderloop.settings import Settings, area

from .instruct import Pace
from .split import TEN_THOUSAND, Receiver, SplitRule


class BankSettings(Settings):
    model_config = area("BANK")

    base_url: str = Field(description="address of the bank's interface, https unless it is this machine")
    secret: SecretStr = Field(min_length=16, description="key of the HMAC over every call")
    timeout_seconds: Annotated[float, Field(gt=0)] = Field(
        15, description="an answer later than this leaves the outcome unknown, and it is asked for"
    )
    query_seconds: Annotated[float, Field(gt=0)] = Field(
        30, description="wait before the first query of an unknown outcome; doubles with every query"
    )
    query_longest_seconds: Annotated[float, Field(gt=0)] = Field(3600, description="the longest wait between queries")
    resend_hours: Annotated[float, Field(gt=0)] = Field(
        24, description="how long an instruction the bank has never seen may be sent again (its keys' memory)"
    )
    lease_seconds: Annotated[float, Field(gt=0)] = Field(
        60, description="silence after which another worker asks the bank; longer than the time-out"
    )
    concurrency: Annotated[int, Field(ge=1, le=500)] = Field(16, description="calls to the bank at once, per process")
    allow_http: bool = Field(False, description="accept a plain http address that is not this machine: labs only")

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        address = urlsplit(self.base_url)
        if address.scheme != "https" and not (
            address.scheme == "http" and (self.allow_http or _is_here(address.hostname or ""))
        ):
            raise ValueError("base_url: money is not moved over plain http")
        if self.lease_seconds <= self.timeout_seconds:
            raise ValueError("lease_seconds: a lease must outlast a call")
        return self

    def pace(self) -> Pace:
        return Pace(
            lease=timedelta(seconds=self.lease_seconds),
            first_query=timedelta(seconds=self.query_seconds),
            longest_query=timedelta(seconds=self.query_longest_seconds),
            resend_within=timedelta(hours=self.resend_hours),
            calls_at_once=self.concurrency,
        )


class ReceiverSetting(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=64)
    account: str = Field(min_length=1, max_length=64)
    weight: int = Field(default=1, ge=1)


class SettlementSettings(Settings):
    """Without defaults on purpose: whose account gets money is nothing to be guessed."""

    model_config = area("SETTLEMENT")

    platform_fee: Annotated[int, Field(ge=0, le=TEN_THOUSAND)] = Field(
        description="the platform's fee in 1/10000 of an order's amount: 60 = 0.6 %"
    )
    platform_account: str = Field(min_length=1, max_length=64, description="where the fee goes")
    receivers: tuple[ReceiverSetting, ...] = Field(
        description='who shares the rest, as JSON: [{"name": "merchant", "account": "6222…", "weight": 1}]'
    )

    @model_validator(mode="after")
    def _splits(self) -> Self:
        self.rule()
        return self

    def rule(self) -> SplitRule:
        return SplitRule(
            platform=Receiver("platform", self.platform_account),
            platform_fee=self.platform_fee,
            receivers=tuple(Receiver(one.name, one.account, one.weight) for one in self.receivers),
        )


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
