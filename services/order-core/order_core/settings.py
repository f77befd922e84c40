"""order-core's settings: the house's areas and its own."""

from datetime import timedelta
from typing import Annotated, Self

from pydantic import Field, SecretStr, model_validator

from orderloop.settings import (
    HttpSettings,
    KafkaSettings,
    OutboxSettings,
    PostgresSettings,
    RedisSettings,
    Settings,
    area,
)

from .retention import Keep
from .timers import PATIENCE, Patience


class OrderSettings(Settings):
    model_config = area("ORDER")

    wait_minutes: Annotated[float, Field(gt=0)] = Field(
        15, description="how long an event may wait for its predecessor before it becomes an anomaly"
    )
    unpaid_minutes: Annotated[float, Field(gt=0)] = Field(
        30, description="how long an order may stay unpaid before the channels are asked to close it"
    )
    receipt_days: Annotated[float, Field(gt=0)] = Field(
        3, description="how long after delivery receipt counts as confirmed when the customer says nothing"
    )
    time_factor: Annotated[float, Field(gt=0)] = Field(
        1, description="divides these waits, for labs and tests: with 1440 a day passes in a minute"
    )
    default_warehouse: str = Field("main", description="where a ship request goes that names no warehouse")
    default_express_code: str = Field("zto", description="the courier of a ship request that names none")

    @property
    def longest_wait(self) -> timedelta:
        return timedelta(minutes=self.wait_minutes)

    @property
    def patience(self) -> Patience:
        waits = PATIENCE
        return Patience(
            unpaid=timedelta(minutes=self.unpaid_minutes) / self.time_factor,
            close_answer=waits.close_answer / self.time_factor,
            longest_close_answer=waits.longest_close_answer / self.time_factor,
            receipt=timedelta(days=self.receipt_days) / self.time_factor,
        )


class RetentionSettings(Settings):
    """How long what is finished is kept. Only the tables' owner may remove it, see docs/runbooks/retention.md."""

    model_config = area("RETENTION")

    key_days: Annotated[int, Field(ge=30)] = Field(30, description="how long a key's answer is kept")
    access_log_days: Annotated[int, Field(ge=30)] = Field(
        180, description="how long every attempt at a change stays in the access log"
    )
    dead_letter_days: Annotated[int, Field(ge=1)] = Field(90, description="how long resolved dead letters are kept")
    evidence_days: Annotated[int, Field(ge=1)] = Field(
        180, description="how long an anomaly's evidence is kept once it is resolved"
    )
    # The floor is the refund window of the channels; three years is how long the Chinese e-commerce law (article 31)
    # wants transactions to be kept.
    order_days: Annotated[int, Field(ge=366)] = Field(
        1096, description="age of a month of orders whose inbox and log may go; longer than any topic's retention"
    )

    @property
    def keep(self) -> Keep:
        days = (self.key_days, self.access_log_days, self.dead_letter_days, self.evidence_days, self.order_days)
        return Keep(*(timedelta(days=n) for n in days))


class HoldsSettings(Settings):
    """How payment-callback is asked to keep the callbacks that open anomalies cite."""

    model_config = area("HOLDS")

    base_url: str | None = Field(
        None, description="payment-callback's address; unset: callbacks that open anomalies cite go after their days"
    )
    token: SecretStr | None = Field(None, description="payment-callback's operator token, set together with base_url")

    @model_validator(mode="after")
    def _may_ask(self) -> Self:
        if (self.base_url is None) != (self.token is None):
            raise ValueError("base_url and token belong together")
        return self


class OrderCoreSettings:
    """Everything `serve` needs, read from the environment once."""

    def __init__(self) -> None:
        self.postgres = PostgresSettings()  # type: ignore[call-arg]
        self.kafka = KafkaSettings()  # type: ignore[call-arg]
        self.redis = RedisSettings()  # type: ignore[call-arg]
        self.http = HttpSettings()  # type: ignore[call-arg]
        self.outbox = OutboxSettings()  # type: ignore[call-arg]
        self.order = OrderSettings()  # type: ignore[call-arg]
        self.retention = RetentionSettings()  # type: ignore[call-arg]
        self.holds = HoldsSettings()  # type: ignore[call-arg]
