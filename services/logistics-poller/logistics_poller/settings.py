"""What logistics-poller can be told from outside, beside the settings that every service has."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field, SecretStr, model_validator

from orderloop.settings import Settings, area

from .schedule import SHORTEST_GAP, Plan, Plans, Tier

_KUAIDI100 = "https://poll.kuaidi100.com"
_KUAIDI100_RECOGNITION = "https://www.kuaidi100.com"


class LogisticsSettings(Settings):
    model_config = area("LOGISTICS")

    time_factor: Annotated[float, Field(gt=0)] = Field(1, description="delays are divided by it; the lab's clock")
    idle_seconds: Annotated[float, Field(gt=0)] = Field(0.5, description="between two looks at what is due")
    at_once: Annotated[int, Field(ge=1, le=64)] = Field(8, description="foreign calls of one kind in flight")
    tiers: dict[str, list[tuple[float, float]]] = Field(
        default={},
        description='per courier, [hours of age at which the tier ends, minutes between asks]: {"sf": [[4, 30], …]}',
    )

    @model_validator(mode="after")
    def _no_tier_locks_a_waybill(self) -> "LogisticsSettings":
        shortest = SHORTEST_GAP.total_seconds() / 60 / (1 + Plan().spread[0])
        for courier, tiers in self.tiers.items():
            if not tiers or sorted(until for until, _ in tiers) != [until for until, _ in tiers]:
                raise ValueError(f"tiers of {courier}: the hours must grow")
            if any(minutes < shortest for _, minutes in tiers):
                raise ValueError(f"tiers of {courier}: asking more often than every 30 minutes locks the waybill")
        return self

    def plans(self) -> Plans:
        own = {
            courier: Plan(tiers=tuple(Tier(timedelta(hours=until), timedelta(minutes=every)) for until, every in tiers))
            for courier, tiers in self.tiers.items()
        }
        return Plans(
            default=Plan().compressed(self.time_factor),
            own={courier: plan.compressed(self.time_factor) for courier, plan in own.items()},
        )


class WmsSettings(Settings):
    model_config = area("WMS")

    base_url: str = Field(description="the warehouse's interface")


class Kuaidi100Settings(Settings):
    model_config = area("KUAIDI100")

    base_url: str = Field(_KUAIDI100, description="track queries")
    recognition_url: str | None = Field(None, description="courier recognition; unset: its own host, or base_url")
    customer: str = Field(description="the customer number of the contract")
    key: SecretStr = Field(description="the key that signs queries")

    @property
    def recognition_base_url(self) -> str:
        if self.recognition_url is not None:
            return self.recognition_url
        return _KUAIDI100_RECOGNITION if self.base_url == _KUAIDI100 else self.base_url


class ZtoSettings(Settings):
    model_config = area("ZTO")

    base_url: str = Field("https://japi.zto.com", description="ZTO's open platform")
    app_key: str | None = Field(None, description="unset: ZTO is asked through the aggregator only")
    app_secret: SecretStr | None = Field(None, description="the secret that signs queries")
