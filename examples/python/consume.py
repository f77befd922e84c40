"""Prints every change of every order. `pip install aiokafka`; `python consume.py localhost:9092`"""

import asyncio
import json
import os
import sys

from aiokafka import AIOKafkaConsumer

PREFIX = os.environ.get("PREFIX", "")  # on a broker that several systems share


async def main(bootstrap: str) -> None:
    async with AIOKafkaConsumer(
        PREFIX + "orderloop.order-changed.v1",
        bootstrap_servers=bootstrap,
        group_id=PREFIX + "my-erp",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    ) as consumer:
        async for record in consumer:
            change = json.loads(record.value)
            # At least once: (order_no, version) makes a repeat a repeat. Store it with what you do about it.
            print(change["order_no"], change["version"], change["from"], "->", change["to"], flush=True)
            await consumer.commit()


asyncio.run(main(sys.argv[1]))
