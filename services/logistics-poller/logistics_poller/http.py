"""Look-ups for customer service. They never cost a courier's answer."""

from typing import Annotated, Literal

import asyncpg
from fastapi import FastAPI, Path

from orderloop.problem import Problem

from . import store
from .snapshots import Snapshot, Snapshots, from_database

Code = Annotated[str, Path(pattern=r"^[0-9a-z_-]{1,32}$", description="courier, such as sf or zto")]
Number = Annotated[str, Path(pattern=r"^[0-9A-Za-z-]{4,40}$", description="waybill number")]


class Shown(Snapshot):
    told_by: Literal["snapshot", "database"]


def routes(app: FastAPI, pool: asyncpg.Pool, snapshots: Snapshots) -> None:
    @app.get("/v1/logistics/{express_code}/{waybill_no}", summary="What is known of a parcel", tags=["logistics"])
    async def parcel(express_code: Code, waybill_no: Number) -> Shown:
        if kept := await snapshots.find(express_code, waybill_no):
            return Shown(**dict(kept), told_by="snapshot")
        async with pool.acquire() as conn:
            known = await store.known_parcel(conn, express_code, waybill_no)
        if known is None:
            raise Problem(404, "unknown-parcel", "No order of this house has a parcel with this number.")
        return Shown(**dict(from_database(known)), told_by="database")
