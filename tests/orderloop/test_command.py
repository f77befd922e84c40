import os
import subprocess
import sys

import pytest

from tests.support.databases import Database

PROGRAM = """
import sys
from orderloop import command
from orderloop.errors import Permanent
from orderloop.settings import KafkaSettings, PostgresSettings
from pydantic import BaseModel

class Order(BaseModel):
    amount: int

async def run():
    PostgresSettings()
    KafkaSettings()
    if sys.argv[2:] == ["--bug"]:
        Order(amount="x")
    raise Permanent("the desk is closed")

command.create("order-core", "order_core", run)(sys.argv[1:2])
"""


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("ORDERLOOP_")}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env=bare | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


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
    process = run(*arguments, **environ)

    assert (process.returncode, process.stderr) == (2, sentence)


@pytest.mark.parametrize("url", ["postgresql://x:canary@127.0.0.1:1/x", "mysql://x:canary@127.0.0.1/x"])
def test_a_database_that_cannot_be_reached_is_one_sentence_without_its_password(url: str) -> None:
    process = run("migrate", ORDERLOOP_POSTGRES_URL=url, ORDERLOOP_POSTGRES_OWNER_URL=url)

    assert (process.returncode, len(process.stderr.splitlines())) == (2, 1)
    assert "canary" not in process.stderr


def test_a_bug_is_not_taken_for_a_wrong_setting() -> None:
    process = run("serve", "--bug", ORDERLOOP_POSTGRES_URL="x", ORDERLOOP_KAFKA_BOOTSTRAP="x")

    assert process.returncode == 1
    assert "Traceback" in process.stderr


def test_migrate_says_what_it_did_and_may_be_repeated(empty: Database) -> None:
    urls = {"ORDERLOOP_POSTGRES_URL": empty.app_url, "ORDERLOOP_POSTGRES_OWNER_URL": empty.owner_url}
    program = [sys.executable, "-m", "settlement", "migrate"]
    once, again = (
        subprocess.run(program, env=os.environ | urls, capture_output=True, text=True, check=True) for _ in range(2)
    )

    assert "settlement: 0001_settlement.sql" in once.stdout
    assert "settlement: nothing to migrate" in again.stdout
