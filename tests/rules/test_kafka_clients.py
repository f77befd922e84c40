"""One place constructs Kafka clients, and what it constructs loses nothing and doubles nothing."""

import ast

import pytest
from aiokafka.coordinator.assignors.range import RangePartitionAssignor

from orderloop import kafka
from orderloop.settings import KafkaSettings
from tests.rules.source import LAB, SERVICES, SHARED, calls, keyword, python

CLIENTS = ("AIOKafkaConsumer", "AIOKafkaProducer")
SETTINGS = KafkaSettings(bootstrap="127.0.0.1:1")


def _constructs(text: str) -> bool:
    return any(True for _ in calls(text, *CLIENTS))


def _commits_by_itself(text: str) -> bool:
    """A consumer that is not told to leave committing alone, or a commit that does not say which offsets."""
    automatic = [call for call in calls(text, "AIOKafkaConsumer") if not _is_false(keyword(call, "enable_auto_commit"))]
    return bool(automatic) or "enable_auto_commit=True" in text


def _is_false(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def test_only_the_shared_library_constructs_kafka_clients_for_services() -> None:
    found = [path for path in python(SHARED, *SERVICES.values()) if _constructs(path.read_text(encoding="utf-8"))]
    assert found == [SHARED / "kafka.py"]


def test_nothing_commits_offsets_by_itself() -> None:
    found = [
        path for path in python(SHARED, *SERVICES.values(), LAB) if _commits_by_itself(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "planted",
    ["AIOKafkaConsumer('t')", "aiokafka.AIOKafkaConsumer('t', enable_auto_commit=True)"],
    ids=["by default", "on purpose"],
)
def test_a_planted_client_would_be_found(planted: str) -> None:
    assert _constructs(planted)
    assert _commits_by_itself(planted)


async def test_the_producer_is_idempotent_and_waits_for_all_replicas() -> None:
    producer = kafka.producer(SETTINGS, client_id="rules")
    assert producer._sender._acks == -1  # "all" on the wire
    assert producer._txn_manager is not None  # numbers every record, so that a repeat is recognised
    await producer.stop()


async def test_the_consumer_starts_at_the_earliest_record_and_commits_only_when_told() -> None:
    consumer = kafka.consumer(SETTINGS, group="rules", topics=["a"])
    assert consumer._enable_auto_commit is False
    assert consumer._auto_offset_reset == "earliest"
    assert consumer._isolation_level == "read_committed"
    assert consumer._partition_assignment_strategy == (RangePartitionAssignor,)
    await consumer.stop()
