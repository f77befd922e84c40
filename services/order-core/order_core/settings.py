"""order-core's settings: the house's areas and its own."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from orderloop.settings import (
    HttpSettings,
    KafkaSettings,
    OutboxSettings,
    PostgresSettings,
    RedisSettings,
    Settings,
    area,
)


class OrderSettings(Settings):
    model_config = area("ORDER")

    wait_minutes: Annotated[float, Field(gt=0)] = Field(
        15, description="how long an event may wait for its predecessor before it becomes an anomaly"
    )
    default_warehouse: str = Field("main", description="where a ship request goes that names no warehouse")
    default_express_code: str = Field("zto", description="the courier of a ship request that names none")

    @property
    def longest_wait(self) -> timedelta:
        return timedelta(minutes=self.wait_minutes)


class OrderCoreSettings:
    """Everything `serve` needs, read from the environment once."""

    def __init__(self) -> None:
        self.postgres = PostgresSettings()  # type: ignore[call-arg]
        self.kafka = KafkaSettings()  # type: ignore[call-arg]
        self.redis = RedisSettings()  # type: ignore[call-arg]
        self.http = HttpSettings()  # type: ignore[call-arg]
        self.outbox = OutboxSettings()  # type: ignore[call-arg]
        self.order = OrderSettings()  # type: ignore[call-arg]
