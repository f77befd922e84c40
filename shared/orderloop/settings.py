"""Settings from the environment: `ORDERLOOP_<AREA>_<NAME>`. Only a service's app.py reads them.

A secret may also lie in a file: `ORDERLOOP_<AREA>_<NAME>_FILE` holds the path.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict


class _SecretFiles(PydanticBaseSettingsSource):
    """Reads `<VARIABLE>_FILE` for every secret field, as containers mount their secrets."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        prefix = str(self.config.get("env_prefix", ""))
        path = os.environ.get(f"{prefix}{field_name.upper()}_FILE")
        return (Path(path).read_text().strip() if path else None), field_name, False

    def __call__(self) -> dict[str, Any]:
        secrets = {
            name: self.get_field_value(field, name)[0]
            for name, field in self.settings_cls.model_fields.items()
            if "SecretStr" in str(field.annotation)
        }
        return {name: value for name, value in secrets.items() if value is not None}


class Settings(BaseSettings):
    """One area of settings. Values given in code win, then the environment, then secret files, then defaults.

    An empty variable counts as unset: compose files and charts pass `NAME=` for what nobody filled in.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _SecretFiles(settings_cls)


def area(name: str) -> SettingsConfigDict:
    """The configuration of one area: its variables start with `ORDERLOOP_<NAME>_`."""
    return SettingsConfigDict(env_prefix=f"ORDERLOOP_{name}_")


class PostgresSettings(Settings):
    model_config = area("POSTGRES")

    url: SecretStr = Field(description="DSN of the service's app role")
    owner_url: SecretStr | None = Field(None, description="DSN of the owner role; `migrate` alone uses it")
    pool_size: Annotated[int, Field(ge=1)] = Field(
        10, description="connections per process; a consumer that is behind holds four of them"
    )


class KafkaSettings(Settings):
    model_config = area("KAFKA")

    bootstrap: str = Field(description="host:port[,host:port…]")
    topic_prefix: str = Field("", description="put before every topic and group name; for tests and shared clusters")
    instance_id: str | None = Field(
        None, description="static group membership (a StatefulSet's pod name): a rolling restart spares a rebalance"
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="what the brokers speak: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"
    )
    ca_file: Path | None = Field(
        None, description="who vouches for the brokers, a PEM file; unset: the system's authorities"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="how to log in over SASL: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"
    )
    sasl_username: str | None = Field(None, description="set together with sasl_password, for SASL_*")
    sasl_password: SecretStr | None = Field(None, description="set together with sasl_username, for SASL_*")

    @model_validator(mode="after")
    def _logs_in_as_somebody(self) -> Self:
        if self.security_protocol.startswith("SASL") and not (self.sasl_username and self.sasl_password):
            raise ValueError(f"{self.security_protocol} needs sasl_username and sasl_password")
        return self

    # By default longer than any transaction may hold a row lock (postgres.SESSION), shorter than people wait for a pod.
    session_seconds: Annotated[int, Field(ge=6, le=60)] = Field(
        30, description="how long a member may be silent before its partitions go to others"
    )


class RedisSettings(Settings):
    model_config = area("REDIS")

    url: SecretStr = Field(description="redis://host:port/db")


class HttpSettings(Settings):
    model_config = area("HTTP")

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8080, description="port to listen on")
    trusted_proxies: str = Field(
        "", description="networks of our own proxies, split by commas: only their X-Forwarded-For is believed"
    )
    operator_token: SecretStr | None = Field(
        None, description="bearer token for what only operators may see; unset: nobody sees it"
    )


class TracingSettings(Settings):
    model_config = area("TRACING")

    endpoint: str | None = Field(None, description="OTLP/HTTP base address such as http://127.0.0.1:4318; unset: off")
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = Field(1.0, description="share of new traces that are kept")


class LogSettings(Settings):
    model_config = area("LOG")

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="least severe line to write")
    format: Literal["json", "console"] = Field("json", description="json for machines, console for a terminal")


class OutboxSettings(Settings):
    model_config = area("OUTBOX")

    relay: Literal["embedded", "external"] = Field(
        "embedded", description="embedded: `serve` runs the relay too; external: `relay` runs as a process of its own"
    )
    batch: Annotated[int, Field(ge=1, le=10_000)] = Field(2000, description="rows published and deleted at once")
