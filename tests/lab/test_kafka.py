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


async def test_acknowledged_records_outlive_a_kill_and_a_clean_stop_beside_a_broker_that_knows_nothing_of_them(
    tmp_path: Path, kafka_bootstrap: str, topic_prefix: str
) -> None:
    topic = f"{topic_prefix}orders"
    async with own_home(tmp_path / "lab") as (home, supervisor):
        bootstrap = await kafka.start(home, supervisor, QUIET)
        await create_topics(bootstrap, names=(topic,))
        await _produce(bootstrap, topic, b"first")
        await supervisor.kill(kafka.NAME)
        await supervisor.restart(kafka.NAME)
        await _produce(bootstrap, topic, b"second")
        await supervisor.stop(kafka.NAME)
        assert await kafka.start(home, supervisor, QUIET) == bootstrap
        assert await _read(bootstrap, topic, 2) == [b"first", b"second"]
        async with AIOKafkaConsumer(bootstrap_servers=kafka_bootstrap) as beside:
            assert topic not in await beside.topics()


async def test_a_topic_that_nobody_made_is_an_error(kafka_bootstrap: str, topic_prefix: str) -> None:
    async with AIOKafkaProducer(bootstrap_servers=kafka_bootstrap, request_timeout_ms=1000) as producer:
        with pytest.raises(KafkaError):
            await producer.send_and_wait(f"{topic_prefix}misspelt", b"lost")
