from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from orderloop_lab.backing import kafka
from orderloop_lab.progress import steps
from orderloop_lab.topics import create_topics
from tests.support.homes import own_home

QUIET = steps(quiet=True)


async def _produce(bootstrap: str, topic: str, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True) as producer:
        await producer.send_and_wait(topic, value, partition=0)


async def _read(bootstrap: str, topic: str, count: int) -> list[bytes | None]:
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        return [(await consumer.getone()).value for _ in range(count)]


async def test_acknowledged_records_outlive_a_kill_and_a_clean_stop(tmp_path: Path) -> None:
    async with own_home(tmp_path / "lab") as (home, supervisor):
        bootstrap = await kafka.start(home, supervisor, QUIET)
        await create_topics(bootstrap, names=("orders",))
        await _produce(bootstrap, "orders", b"first")
        await supervisor.kill(kafka.NAME)
        await supervisor.restart(kafka.NAME)
        await _produce(bootstrap, "orders", b"second")
        await supervisor.stop(kafka.NAME)
        assert await kafka.start(home, supervisor, QUIET) == bootstrap
        assert await _read(bootstrap, "orders", 2) == [b"first", b"second"]


async def test_two_brokers_side_by_side_know_nothing_of_each_other(
    tmp_path: Path, kafka_bootstrap: str, topic_prefix: str
) -> None:
    async with own_home(tmp_path / "lab") as (home, supervisor):
        other = await kafka.start(home, supervisor, QUIET)
        await create_topics(other, names=(f"{topic_prefix}mine",))
        async with AIOKafkaConsumer(bootstrap_servers=kafka_bootstrap) as consumer:
            assert f"{topic_prefix}mine" not in await consumer.topics()


async def test_a_topic_that_nobody_made_is_an_error(kafka_bootstrap: str, topic_prefix: str) -> None:
    async with AIOKafkaProducer(bootstrap_servers=kafka_bootstrap, request_timeout_ms=1000) as producer:
        with pytest.raises(KafkaError):
            await producer.send_and_wait(f"{topic_prefix}misspelt", b"lost")
