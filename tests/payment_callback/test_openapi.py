"""Whatever is sent to the documented operations, notify URLs included, nothing answers 500."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from orderloop_lab.simulators.wechat_keys import Keys
from tests.support.databases import Database
from tests.support.payment_callback import Process


async def test_generated_requests_find_no_server_error(
    database: Callable[[str], Database], keys: Keys, tmp_path: Path
) -> None:
    async with Process(database("payment_callback"), keys, ORDERLOOP_LOG_LEVEL="ERROR") as service:
        schema = (await service.http.get("/openapi.json")).json()
        assert {"/v1/order/callback/wechat", "/v1/callbacks"} <= schema["paths"].keys()
        found = await asyncio.create_subprocess_exec(
            *(Path(sys.executable).with_name("schemathesis"), "run", f"{service.url}/openapi.json"),
            *("--checks", "not_a_server_error", "--max-examples", "30", "--seed", "1", "--no-color"),
            *("--header", "Authorization: Bearer operator", "--phases", "examples,coverage,fuzzing"),
            *("--exclude-path-regex", "readyz|livez|metrics"),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        said, _ = await found.communicate()

    assert found.returncode == 0, said.decode()
