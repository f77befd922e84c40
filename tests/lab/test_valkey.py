from pathlib import Path

from redis.asyncio import Redis

from orderloop_lab.backing import valkey
from orderloop_lab.progress import steps
from tests.support.homes import own_home

QUIET = steps(quiet=True)


async def test_after_a_kill_it_is_back_at_the_same_url_and_empty(tmp_path: Path) -> None:
    async with own_home(tmp_path / "lab") as (home, supervisor):
        url = await valkey.start(home, supervisor, QUIET)
        async with Redis.from_url(url) as client:
            await client.set("logistics:zhongtong:1", "track")
        await supervisor.kill(valkey.NAME)
        await supervisor.restart(valkey.NAME)
        assert await valkey.start(home, supervisor, QUIET) == url
        async with Redis.from_url(url) as client:
            assert await client.get("logistics:zhongtong:1") is None
