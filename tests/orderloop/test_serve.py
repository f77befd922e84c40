import asyncio
import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

from orderloop import metrics
from orderloop.serve import periodic, run

PROGRAM = """
import asyncio, os, sys
from orderloop import command, health, http, serve
from orderloop.settings import HttpSettings

how = sys.argv[1]

async def idle(stop):
    await stop.wait()
    print("drained", flush=True)

async def fail(stop):
    raise RuntimeError("worn out")

async def leave(stop):
    return

async def stuck(stop):
    await asyncio.sleep(3600)

async def main():
    app = http.create_app("order-core", title="t", description="d", health=health.Health())

    @app.get("/slow")
    async def slow():
        print("entered", flush=True)
        await asyncio.sleep(0.5)
        return "done"

    task = {"serve": idle, "fail": fail, "leave": leave, "stuck": stuck}[how]
    if how == "stuck":
        serve._DRAIN_SECONDS = 0.2
    await serve.serve(app, HttpSettings(), tasks={"idle": idle, "task": task})

command.main("order-core", main)
"""


def start(how: str, port: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, how],
        env=os.environ | {"ORDERLOOP_HTTP_PORT": str(port)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def answering(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            assert httpx.get(f"http://127.0.0.1:{port}/livez", trust_env=False).status_code == 200
            return
        except httpx.TransportError:
            time.sleep(0.05)  # between two looks
    raise TimeoutError


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_what_was_begun(port: int, number: signal.Signals) -> None:
    process = start("serve", port)
    answering(port)
    fetch = f"import httpx; print(httpx.get('http://127.0.0.1:{port}/slow', trust_env=False).text)"
    asked = subprocess.Popen([sys.executable, "-c", fetch], stdout=subprocess.PIPE)
    assert process.stdout is not None
    while "entered" not in process.stdout.readline():
        pass
    process.send_signal(number)
    answer, _ = asked.communicate(timeout=30)
    out, _ = process.communicate(timeout=30)

    assert b"done" in answer
    assert "drained" in out
    assert process.returncode == 0


@pytest.mark.parametrize(("how", "said"), [("fail", "worn out"), ("leave", "task ended although nobody asked for it")])
def test_half_a_service_is_no_service(port: int, how: str, said: str) -> None:
    process = start(how, port)
    out, _ = process.communicate(timeout=30)

    assert process.returncode == 1
    assert said in out
    assert "drained" in out


def test_a_task_that_does_not_drain_is_cancelled(port: int) -> None:
    process = start("stuck", port)
    answering(port)
    process.terminate()
    out, _ = process.communicate(timeout=30)

    assert "task did not drain in time" in out
    assert process.returncode == 0


def test_a_port_in_use_is_said_in_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start("serve", port)
        out, _ = process.communicate(timeout=30)

    assert process.returncode == 2
    assert f"order-core: [Errno 98] cannot listen on 127.0.0.1:{port}: Address already in use" in out
    assert "drained" not in out


async def test_the_failure_of_a_task_comes_out_after_the_others_have_drained() -> None:
    drained: list[str] = []

    async def good(stop: asyncio.Event) -> None:
        await stop.wait()
        drained.append("good")

    async def bad(_stop: asyncio.Event) -> None:
        raise ValueError("worn out")

    with pytest.raises(ValueError, match="worn out"):
        await run({"good": good, "bad": bad})
    assert drained == ["good"]


async def test_a_periodic_job_outlives_its_failures_and_counts_them() -> None:
    stop, runs = asyncio.Event(), 0
    before = metrics.TASK_ERRORS.labels("sweep")._value.get()

    async def job() -> None:
        nonlocal runs
        runs += 1
        if runs == 5:
            stop.set()
        if runs % 2:
            raise OSError("away")

    await asyncio.wait_for(periodic("sweep", job, seconds=0.001)(stop), 10)

    assert runs == 5
    assert metrics.TASK_ERRORS.labels("sweep")._value.get() - before == 3
