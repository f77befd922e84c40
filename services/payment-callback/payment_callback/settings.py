"""Settings of payment-callback alone; the areas that all services share stand in orderloop.settings."""

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from orderloop.settings import Settings, area


def _private(url: str) -> str:
    """https, but for a simulator on this machine or beside us in a cluster: answers decide about money."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    near = host in {"127.0.0.1", "::1"} or (host and "." not in host and ":" not in host)
    if parts.scheme != "https" and not (parts.scheme == "http" and near):
        raise ValueError("must start with https://")
    return url


_Url = Annotated[str, AfterValidator(_private)]


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
    certificate_hours: Annotated[float, Field(gt=0, le=12)] = Field(
        12, description="platform certificates are downloaded at the start, then at most so many hours apart"
    )
    api_base_url: _Url = Field("https://api.mch.weixin.qq.com", description="the channel's API")
    merchant_serial: str | None = Field(
        None, description="serial number of the merchant's API certificate; unset: the channel is never asked"
    )
    merchant_key_file: Path | None = Field(None, description="apiclient_key.pem, set together with merchant_serial")
    sub_mchid: str | None = Field(None, description="for a service provider: the merchant it acts for")
    combined: bool = Field(False, description="true: orders may be paid as combined orders under their own number")
    refund_notify_url: _Url | None = Field(
        None, description="where refunds are notified; unset: as set on the merchant platform"
    )


class AlipaySettings(Settings):
    """Optional as a whole: without these there is no Alipay."""

    model_config = area("ALIPAY")

    app_id: str | None = Field(None, description="app id, or several split by commas; the first one asks")
    seller_id: str | None = Field(None, description="2088…, the seller; a notice for another one is refused")
    public_key_file: Path | None = Field(None, description="Alipay's public key (not the app's): PEM or bare base64")
    private_key_file: Path | None = Field(None, description="the app's private key: PEM or bare base64")
    gateway_url: _Url = Field("https://openapi.alipay.com/gateway.do", description="the channel's API")


class EvidenceSettings(Settings):
    """Looking for payments of which no callback told us."""

    model_config = area("EVIDENCE")

    policy: Literal["report", "apply"] = Field(
        "report", description="report: an anomaly for a person; apply: the payment is published, too"
    )
    first_minutes: list[Annotated[float, Field(gt=0)]] = Field(
        [5, 15, 30], description="ages of a pending order, in minutes, at which its channel is asked"
    )
    then_minutes: Annotated[float, Field(gt=0)] = Field(60, description="after those, every so many minutes")
    grace_seconds: Annotated[float, Field(ge=0)] = Field(
        60, description="a callback may be this late before it counts as missing; never compressed"
    )
    queries_per_second: Annotated[int, Field(ge=1)] = Field(
        20, description="how often one process asks the channels without being asked"
    )
    time_factor: Annotated[float, Field(gt=0)] = Field(
        1, description="divides the minutes above and the waits between repeated calls; 1 in reality"
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
    doctor_key: SecretStr | None = Field(
        None, description="what `doctor` and the service recognise each other by; unset: derived from the APIv3 key"
    )
    notify_url: str | None = Field(None, description="the notify URL as the channel calls it; `doctor` examines it")
    log_hours: Annotated[int, Field(ge=24)] = Field(
        72, description="hours for which every callback's body stays in the log; whole days are dropped"
    )
    memory_days: Annotated[int, Field(ge=30)] = Field(
        90, description="days for which what was seen is remembered: repeats within them change nothing"
    )
    errand_days: Annotated[int, Field(ge=30)] = Field(
        90, description="days for which closes and refunds are kept after their outcome was told"
    )
