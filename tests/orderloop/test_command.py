import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog
from click.testing import Result
from pydantic import BaseModel
from typer.testing import CliRunner

from orderloop import command
from orderloop.errors import Permanent
from orderloop.settings import KafkaSettings, PostgresSettings
from tests.support.databases import Database


class Order(BaseModel):
    amount: int


async def refuse() -> None:
    PostgresSettings()  # type: ignore[call-arg]
    KafkaSettings()  # type: ignore[call-arg]
    raise Permanent("the desk is closed")


async def stumble() -> None:
    Order.model_validate({"amount": "none"})


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("ORDERLOOP_")]:
        monkeypatch.delenv(name)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def run(*arguments: str, main: command.Main = refuse, **environ: str) -> Result:
    return CliRunner().invoke(command.create("order-core", "order_core", main), arguments, env=environ)


@pytest.mark.parametrize(
    ("arguments", "environ", "sentence"),
    [
        (["serve"], {}, "order-core: missing or wrong setting: ORDERLOOP_POSTGRES_URL (.env.example explains each)\n"),
        (
            ["serve"],
            {"ORDERLOOP_POSTGRES_URL": "x", "ORDERLOOP_POSTGRES_POOL_SIZE": "none"},
            "order-core: missing or wrong setting: ORDERLOOP_POSTGRES_POOL_SIZE (.env.example explains each)\n",
        ),
        (
            ["serve"],
            {"ORDERLOOP_LOG_LEVEL": "LOUD"},
            "order-core: missing or wrong setting: ORDERLOOP_LOG_LEVEL (.env.example explains each)\n",
        ),
        (
            ["serve"],
            {"ORDERLOOP_POSTGRES_URL": "x", "ORDERLOOP_KAFKA_BOOTSTRAP": "x"},
            "order-core: the desk is closed\n",
        ),
        (
            ["migrate"],
            {"ORDERLOOP_POSTGRES_URL": "x"},
            "order-core: ORDERLOOP_POSTGRES_OWNER_URL is not set; migrations run as the schema's owner\n",
        ),
    ],
)
def test_what_a_person_can_mend_is_one_sentence_and_exit_code_2(
    arguments: list[str], environ: dict[str, str], sentence: str
) -> None:
    done = run(*arguments, **environ)

    assert (done.exit_code, done.stderr) == (2, sentence)


@pytest.mark.parametrize("url", ["postgresql://x:canary@127.0.0.1:1/x", "mysql://x:canary@127.0.0.1/x"])
def test_a_database_that_cannot_be_reached_is_one_sentence_without_its_password(url: str) -> None:
    done = run("migrate", ORDERLOOP_POSTGRES_URL=url, ORDERLOOP_POSTGRES_OWNER_URL=url)

    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    assert "canary" not in done.stderr


def test_a_relay_listens_where_it_is_given_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        away = {"ORDERLOOP_POSTGRES_URL": "postgresql://127.0.0.1:1/x", "ORDERLOOP_KAFKA_BOOTSTRAP": "127.0.0.1:1"}
        done = run("relay", **away, ORDERLOOP_HTTP_PORT=port)

    assert done.exit_code == 2
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr


def test_a_bug_is_not_taken_for_a_wrong_setting() -> None:
    assert run("serve", main=stumble).exit_code == 1


def test_migrate_says_what_it_did_and_may_be_repeated(empty: Database) -> None:
    urls = {"ORDERLOOP_POSTGRES_URL": empty.app_url, "ORDERLOOP_POSTGRES_OWNER_URL": empty.owner_url}
    program = [sys.executable, "-m", "settlement", "migrate"]
    once, again = (
        subprocess.run(program, env=os.environ | urls, capture_output=True, text=True, check=True) for _ in range(2)
    )

    assert "settlement: 0001_settlement.sql" in once.stdout
    assert "settlement: nothing to migrate" in again.stdout
