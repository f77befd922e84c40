"""Settings of payment-callback alone; the areas that all services share stand in orderloop.settings."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from orderloop.settings import Settings, area


class WechatSettings(Settings):
    model_config = area("WECHAT")

    mchid: str = Field(description="merchant number; a notice for another one is refused")
    appid: str = Field(description="app id, or several split by commas; a notice for another one is refused")
    apiv3_key: SecretStr = Field(description="the APIv3 key, 32 characters; decrypts notices")
    public_key_id: str | None = Field(None, description="PUB_KEY_ID_…; set together with public_key_file")
    public_key_file: Path | None = Field(None, description="the downloaded pub_key.pem")
    certificate_dir: Path | None = Field(
        None, description="folder of platform certificates *.pem; during a switch-over beside the public key"
    )


class CallbackSettings(Settings):
    model_config = area("CALLBACK")

    refused_rows_per_hour: Annotated[int, Field(ge=0)] = Field(
        5000, description="refused callbacks that one process logs per hour; more are only counted"
    )
    refused_bytes_per_hour: Annotated[int, Field(ge=0)] = Field(
        32 * 1024 * 1024, description="bytes of refused callbacks that one process logs per hour"
    )
    refused_rows_per_address: Annotated[int, Field(ge=0)] = Field(
        500, description="refused callbacks that one process logs per hour and sender; more are only counted"
    )
    log_hours: Annotated[int, Field(ge=24)] = Field(
        72, description="hours for which every callback's body stays in the log; whole days are dropped"
    )
    memory_days: Annotated[int, Field(ge=30)] = Field(
        90, description="days for which what was seen is remembered: repeats within them change nothing"
    )
