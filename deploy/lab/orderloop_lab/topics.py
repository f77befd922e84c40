"""The house's topics on a real broker."""

import asyncio
import time

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import InvalidReplicationFactorError, TopicAlreadyExistsError, for_code

from orderloop import topics
from orderloop_lab.errors import LabError

CONTRACT = (*topics.ALL, *topics.DEAD_LETTERS)
READY_SECONDS = 20.0


async def create_topics(
    bootstrap: str, prefix: str = "", names: tuple[str, ...] = CONTRACT, *, partitions: int = topics.PARTITIONS
) -> None:
    """Makes `names`, each with `prefix` in front; those that exist are left as they are."""
    wanted = [NewTopic(prefix + name, partitions, replication_factor=1) for name in names]
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        deadline = time.monotonic() + READY_SECONDS
        while any(code == InvalidReplicationFactorError.errno for code in await _create(admin, wanted)):
            # The broker has just come back and does not count itself yet.
            if time.monotonic() > deadline:
                raise LabError(f"Kafka at {bootstrap} offers no broker for new topics: look at its log.")
            await asyncio.sleep(0.2)
    finally:
        await admin.close()


async def delete_topics(bootstrap: str, prefix: str) -> None:
    """Removes every topic whose name starts with `prefix`."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.delete_topics([name for name in await admin.list_topics() if name.startswith(prefix)])
    finally:
        await admin.close()


async def _create(admin: AIOKafkaAdminClient, wanted: list[NewTopic]) -> list[int]:
    """One error code per topic; raises for those that waiting does not cure."""
    answer = (await admin.create_topics(wanted)).to_object()
    codes: list[int] = [topic["error_code"] for topic in answer["topic_errors"]]
    for code in codes:
        if code not in (0, TopicAlreadyExistsError.errno, InvalidReplicationFactorError.errno):
            raise for_code(code)
    return codes
