"""What every simulator stands on: its environment, a ledger that outlives kill -9, and an ASGI start.

Environment: SIM_PORT, SIM_STATE (folder), SIM_SEED (any text), SIM_TIME_FACTOR (delays are divided by it).

    def build(sim: Simulator) -> Starlette: ...

    if __name__ == "__main__":
        run("bank", build)
"""

import json
import os
import random
import sqlite3
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse

_SCHEMA = """
create table if not exists document (
    kind text not null, key text not null, body text not null,
    seq integer primary key autoincrement, unique (kind, key)
);
create table if not exists journal (
    seq integer primary key autoincrement, kind text not null, key text not null, body text not null
);
create index if not exists journal_by_key on journal (kind, key);
"""


class Ledger:
    """Documents by (kind, key), and a journal that is only ever appended to. Bodies are JSON objects.

    Every call is durable against kill -9 when it returns, unless it stands inside `transaction()`.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        # the process may die at any moment, the machine does not: WAL without an fsync per commit is enough
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = normal")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Generator[None]:
        """All or nothing. No `await` inside: the connection is shared by every request of the process."""
        self._db.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")

    def put(self, kind: str, key: str, body: Mapping[str, Any]) -> None:
        """Write or replace a document; its place in `all()` stays that of its first writing."""
        self._db.execute(
            "insert into document (kind, key, body) values (?, ?, ?) "
            "on conflict (kind, key) do update set body = excluded.body",
            (kind, key, json.dumps(body, ensure_ascii=False)),
        )

    def add(self, kind: str, key: str, body: Mapping[str, Any]) -> bool:
        """Write a document unless there is one already; False then. This is how an idempotency key is kept."""
        done = self._db.execute(
            "insert into document (kind, key, body) values (?, ?, ?) on conflict (kind, key) do nothing",
            (kind, key, json.dumps(body, ensure_ascii=False)),
        )
        return done.rowcount == 1

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        row = self._db.execute("select body from document where kind = ? and key = ?", (kind, key)).fetchone()
        return None if row is None else json.loads(row[0])

    def all(self, kind: str) -> list[dict[str, Any]]:
        """The documents of one kind, oldest first."""
        rows = self._db.execute("select body from document where kind = ? order by seq", (kind,))
        return [json.loads(body) for (body,) in rows]

    def below(self, kind: str, key: str) -> list[dict[str, Any]]:
        """The documents whose keys are `key:…`, by key: found by the index, however many others there are."""
        rows = self._db.execute(
            "select body from document where kind = ? and key > ? and key < ? order by key",
            (kind, f"{key}:", f"{key};"),
        )
        return [json.loads(body) for (body,) in rows]

    def count(self, kind: str) -> int:
        return int(self._db.execute("select count(*) from document where kind = ?", (kind,)).fetchone()[0])

    def append(self, kind: str, key: str, body: Mapping[str, Any]) -> int:
        """One more line of the journal, e.g. an access-log line; returns its number, unique in this ledger."""
        written = self._db.execute(
            "insert into journal (kind, key, body) values (?, ?, ?)", (kind, key, json.dumps(body, ensure_ascii=False))
        )
        return int(written.lastrowid or 0)

    def lines(self, kind: str, key: str | None = None) -> list[dict[str, Any]]:
        """The journal of one kind, or of one kind and key, oldest first, each line with its `seq`."""
        if key is None:
            rows = self._db.execute("select seq, body from journal where kind = ? order by seq", (kind,))
        else:
            rows = self._db.execute(
                "select seq, body from journal where kind = ? and key = ? order by seq", (kind, key)
            )
        return [{"seq": seq, **json.loads(body)} for seq, body in rows]


@dataclass(frozen=True, slots=True)
class Simulator:
    """What a simulator is given at its start."""

    name: str
    ledger: Ledger
    state: Path  # its own folder
    seed: str
    time_factor: float

    def delay(self, seconds: float) -> float:
        """`seconds` of the real counterpart in seconds here."""
        return seconds / self.time_factor

    def chance(self, *about: object) -> random.Random:
        """Randomness that depends on the seed and on what it is about, never on the order in which requests came."""
        return random.Random(":".join([self.seed, self.name, *map(str, about)]))


def open_simulator(name: str, environ: Mapping[str, str] = os.environ) -> Simulator:
    state = Path(environ["SIM_STATE"])
    return Simulator(
        name=name,
        ledger=Ledger(state / f"{name}.sqlite3"),
        state=state,
        seed=environ.get("SIM_SEED", "0"),
        time_factor=float(environ.get("SIM_TIME_FACTOR", "1")),
    )


def run(name: str, build: Callable[[Simulator], Starlette]) -> None:
    """Serve until SIGTERM. `/livez` is added; background work belongs into the app's lifespan."""
    app = build(open_simulator(name))
    app.add_route("/livez", _livez)
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(os.environ["SIM_PORT"]),
        loop="uvloop",
        http="httptools",
        log_level=os.environ.get("SIM_LOG_LEVEL", "warning"),
        access_log=False,
    )


async def _livez(_: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")
