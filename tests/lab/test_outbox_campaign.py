"""The campaign of the outbox in small, its plan, and its judge, who names whatever is wrong."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from aiokafka import ConsumerRecord

from orderloop.topics import ORDER_CHANGED
from orderloop_lab.campaigns.outbox import Scene, run
from orderloop_lab.campaigns.outbox_judge import Judge
from orderloop_lab.campaigns.outbox_plan import LANES, Plan, order_no
from orderloop_lab.campaigns.outbox_writers import NEVER
from orderloop_lab.home import Home
from orderloop_lab.processes import Supervisor
from orderloop_lab.progress import steps
from tests.support.databases import Database

ONE, OTHER = order_no(1, 1), order_no(1, 2)


async def test_rows_committed_out_of_order_under_an_old_snapshot_and_a_killed_leader_are_published_in_order(
    database: Callable[[str], Database],
    kafka_bootstrap: str,
    topic_prefix: str,
    create_topics: Callable[..., Awaitable[None]],
    tmp_path: Path,
) -> None:
    await create_topics(topic_prefix, (ORDER_CHANGED,))
    made = database("order_core")
    home = Home(tmp_path)
    scene = Scene(home, Supervisor(home), made.admin_url, made.app_url, kafka_bootstrap, topic_prefix)

    verdict = await run(scene, Plan(6000, seed=1), progress=steps(quiet=True), writers=1)

    assert verdict.violations == []
    assert verdict.figures["rows staged"] == 6000
    assert verdict.figures["leaders killed"] == 1


def test_the_same_seed_plans_the_same_rows_and_kills_and_another_seed_others() -> None:
    assert Plan(5000, seed=1).digest == Plan(5000, seed=1).digest
    assert Plan(5000, seed=1).digest != Plan(5000, seed=2).digest
    assert Plan(5000, seed=1).finals.total() == 5000
    assert len(Plan(1_000_000, seed=1).kills) == 8


def test_transactions_differ_in_size_and_duration_share_orders_and_are_rolled_back() -> None:
    planned = [[*Plan(20_000, seed=1).lane(lane)] for lane in range(LANES)]
    sizes = [len(one.order_nos) for lane in planned for one in lane]
    orders = [{order for one in lane for order in one.order_nos} for lane in planned]

    assert min(sizes) == 1
    assert max(sizes) > 100
    assert any(one.pause > 0.1 for lane in planned for one in lane)
    assert any(one.rolled_back for lane in planned for one in lane)
    assert orders[0] & orders[1]


def judged(*published: tuple[str, int] | tuple[str, int, int, bytes]) -> Judge:
    judge = Judge()
    for offset, (order, version, *rest) in enumerate(published):
        partition, body = rest or (0, b"{}")
        headers: Sequence[tuple[str, bytes]] = [("ce_id", f"{order}:{version}".encode())]
        judge.follow(ConsumerRecord("t", partition, offset, 0, 0, None, body, None, 0, 0, headers))  # type: ignore[arg-type]
    return judge


def test_versions_in_order_are_found_right_and_repeats_counted() -> None:
    judge = judged((ONE, 1), (OTHER, 1), (ONE, 2), (ONE, 1), (ONE, 2), (ONE, 3))
    assert [*judge.violations({ONE: 3, OTHER: 1}, most_repeats=2)] == []
    assert judge.repeats == 2


@pytest.mark.parametrize(
    ("sentence", "judge"),
    [
        (f"lost: {ONE}:2", judged((ONE, 1), (ONE, 3))),
        (f"lost: {ONE}:3", judged((ONE, 1), (ONE, 2))),
        (f"inverted: {ONE}:2 was published after {ONE}:3", judged((ONE, 1), (ONE, 3), (ONE, 2))),
        (f"{ONE}:4 was published and never staged", judged((ONE, 1), (ONE, 2), (ONE, 3), (ONE, 4))),
        ("1 records were published again", judged((ONE, 1), (ONE, 1), (ONE, 2), (ONE, 3))),
        ("lies in more than one partition", judged((ONE, 1), (ONE, 2, 5, b"{}"), (ONE, 3))),
        ("its transaction was rolled back", judged((ONE, 1), (ONE, 2, 0, NEVER.encode()), (ONE, 3))),
    ],
)
def test_whatever_is_wrong_is_named(sentence: str, judge: Judge) -> None:
    found = [*judge.violations({ONE: 3}, most_repeats=0)]
    assert len(found) == 1
    assert sentence in found[0]
