"""The fixtures that every other test stands on."""

from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from orderloop import topics
from orderloop_lab.databases import PACKAGES
from tests.support.databases import Database


@pytest.mark.parametrize("service", PACKAGES)
async def test_each_service_gets_a_migrated_database_of_its_own(
    database: Callable[[str], Database], service: str
) -> None:
    first, second = database(service), database(service)
    assert first.name != second.name
    connection = await asyncpg.connect(first.app_url)
    assert await connection.fetchval("SELECT current_user") == f"{service}_app"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute("CREATE TABLE anything (id int)")
    await connection.close()


async def test_a_role_of_another_service_cannot_connect(database: Callable[[str], Database]) -> None:
    order_core, settlement = database("order_core"), database("settlement")
    stranger = settlement.app_url.replace(settlement.name, order_core.name)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(stranger)


async def test_the_topics_of_the_contract_take_records_at_once(
    kafka_bootstrap: str, topic_prefix: str, create_topics: Callable[..., Awaitable[None]]
) -> None:
    await create_topics(topic_prefix)
    async with AIOKafkaProducer(bootstrap_servers=kafka_bootstrap, acks="all", enable_idempotence=True) as producer:
        record = await producer.send_and_wait(topic_prefix + topics.PAYMENT_NOTIFIED, b"{}", key=b"order")
    assert record.offset == 0
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    described = await admin.describe_topics([topic_prefix + topics.PAYMENT_NOTIFIED])
    await admin.close()
    assert len(described[0]["partitions"]) == topics.PARTITIONS
