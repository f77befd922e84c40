"""Tells OrderLoop that a label was printed. `python produce.py localhost:9092 ORDER_NO WAYBILL_NO`"""

import asyncio
import json
import os
import sys
from datetime import UTC, datetime

from aiokafka import AIOKafkaProducer

TYPE = "orderloop.waybill-created.v1"


async def main(bootstrap: str, order_no: str, waybill_no: str) -> None:
    body = {
        "order_no": order_no,
        "shipment_id": f"{order_no}_S1",
        "express_code": "zto",
        "waybill_no": waybill_no,
        "warehouse": "suzhou",
        "parcel_no": 1,
        "parcel_count": 1,
        "created_at": datetime.now(UTC).isoformat(),
    }
    # The id names the fact: sent again after a doubt, it counts once.
    headers = {"ce_specversion": "1.0", "ce_type": TYPE, "ce_source": "/my-wms", "ce_id": f"label:{waybill_no}"}
    headers["content-type"] = "application/json"
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True) as producer:
        await producer.send_and_wait(
            os.environ.get("PREFIX", "") + TYPE,
            key=order_no.encode(),  # keeps an order's events together, and in their order
            value=json.dumps(body).encode(),
            headers=[(name, value.encode()) for name, value in headers.items()],
        )


asyncio.run(main(*sys.argv[1:]))
