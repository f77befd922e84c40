"""Invariants between the databases and the topics."""

from collections.abc import AsyncIterator

from orderloop.topics import ORDER_CHANGED

from .evidence import Evidence
from .registry import invariant
from .topics import INBOUND, change_of, said


@invariant(
    "I5",
    "every change is published or staged, once; no request, callback, result or scan is lost",
    "order_core",
    "kafka",
    uses=("payment_callback", "settlement", "logistics"),
)
async def changes_are_told_once(evidence: Evidence) -> AsyncIterator[str]:
    for sentence in evidence.topics.odd:
        yield sentence
    staged: dict[str, str] = {}
    async for row in evidence.rows("order_core", "staged"):
        if row["topic"] == ORDER_CHANGED:
            change, what = change_of(row["body"])
            if staged.setdefault(change, what) != what:
                yield f"order {row['order_no']}: {change} is staged as “{staged[change]}” and as “{what}”"
    # A change of the snapshot was in the outbox then, or had left it for the topic before.
    logged: set[str] = set()
    async for row in evidence.rows("order_core", "changes"):
        change = f"{row['order_no']}:{row['version']}"
        logged.add(change)
        truth = said(row["before"], row["after"], row["event_id"])
        told = [story[change] for story in (evidence.topics.changes, staged) if change in story]
        if not told:
            yield f"order {row['order_no']}: {change} ({truth}) is neither on the topic nor in the outbox"
        for what in set(told) - {truth}:
            yield f"order {row['order_no']}: {change} says “{what}”, the log “{truth}”"
    # What is on the topic may be newer than the snapshot, unless it was there before it.
    for change in sorted((evidence.topics.settled | staged.keys()) - logged):
        yield f"order {change.partition(':')[0]}: {change} is published or staged, and not in the log"
    async for key in _lost(evidence):
        order_no, event_id = key.split(" ", 1)
        yield f"order {order_no}: {event_id} was staged, and is neither on its topic nor in the outbox"


async def _lost(evidence: Evidence) -> AsyncIterator[str]:
    """Keys of events that a database has caused and nobody will hear of.

    Only what the books still tell: not the anomalies that settlement raises, nor what a settlement's attempt or a
    parcel was before it became what it is (`results` and `followed` in books.sql).
    """
    inbound, told = evidence.topics.inbound, {"logistics"} & evidence.snapshots.keys()
    for database, promises, heard, named in (
        ("order_core", "requests", evidence.topics.requested, str),
        ("payment_callback", "remembered", inbound, str),
        ("settlement", "results", inbound, str),
        ("logistics", "followed", {_fact(key) for key in inbound if told}, _fact),
    ):
        rows = evidence.rows(database, "staged")
        staged = {named(f"{row['order_no']} {row['event_id']}") async for row in rows}
        async for row in evidence.rows(database, promises):
            key = f"{row['order_no']} {row['event_id']}"
            if key not in heard and key not in staged:
                yield key


def _fact(key: str) -> str:
    """A parcel's event without its time, which the database has in another zone, or of a later scan."""
    return ":".join(key.split(":")[:3])


@invariant(
    "I7",
    "every event that was taken in is applied, waiting, parked or dead-lettered: one of them",
    "order_core",
    "kafka",
)
async def nothing_is_dropped(evidence: Evidence) -> AsyncIterator[str]:
    # Whatever lies below the committed offsets was settled in the database before they were committed.
    known = {f"{row['order_no']} {row['event_id']}" async for row in evidence.rows("order_core", "outcomes")}
    for origin in evidence.topics.undecodable:
        yield f"the record {origin} cannot be decoded, was taken in, and is no dead letter"
    for key, copies in evidence.topics.inbound.items():
        order_no, event_id = key.split(" ", 1)
        if key not in known and copies.taken:
            yield (
                f"order {order_no}: event {event_id} was taken in, "
                "and is neither applied, waiting, parked nor dead-lettered"
            )
        if key in known and not copies.alive:
            yield f"order {order_no}: event {event_id} is a dead letter, and in the inbox"
    # An outcome of the snapshot was on a topic before it.
    async for row in evidence.rows("order_core", "taken_from_topics", topics=INBOUND):
        if f"{row['order_no']} {row['event_id']}" not in evidence.topics.inbound:
            yield f"order {row['order_no']}: event {row['event_id']} was taken in, and no topic has it"
    async for row in evidence.rows("order_core", "outcomes_without_their_row"):
        places = " and ".join(
            place
            for place, there in (
                (f"{row['outcome']} in the inbox", row["outcome"]),
                ("among the waiting", row["waits"]),
                ("at the desk", row["at_the_desk"]),
            )
            if there
        )
        yield f"order {row['order_no']}: event {row['event_id']} is {places}"


@invariant("I9", "an order's changes are first published in the order of their versions", "order_core", "kafka")
async def changes_are_told_in_order(evidence: Evidence) -> AsyncIterator[str]:
    for sentence in evidence.topics.disorder:
        yield sentence
    # What was staged at the snapshot and has not come since may not be overtaken.
    async for row in evidence.rows("order_core", "staged"):
        if row["topic"] == ORDER_CHANGED:
            change, _ = change_of(row["body"])
            version = int(change.rpartition(":")[2])
            _, latest = evidence.topics.latest.get(row["order_no"], (0, 0))
            if change not in evidence.topics.changes and latest > version:
                yield f"order {row['order_no']}: version {latest} is published, version {version} still staged"
