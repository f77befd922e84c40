"""A campaign's plan is a function of its seed, and its judge names whatever is wrong."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import pytest

from orderloop_lab.campaigns import CAMPAIGNS, crash_plan, main
from orderloop_lab.campaigns.crash_lives import KINDS
from orderloop_lab.campaigns.payments_books import Books, Order
from orderloop_lab.campaigns.payments_plan import FAILPOINTS, Plan, plan
from orderloop_lab.campaigns.refunds import Money
from orderloop_lab.campaigns.refunds_plan import plan as refunds_plan
from orderloop_lab.errors import LabError
from orderloop_lab.home import default_folder
from orderloop_lab.simulators.wechat_notices import Faults

N = 1000


def test_the_same_seed_plans_the_same_campaign_and_another_seed_another_one() -> None:
    assert plan(N, seed=1) == plan(N, seed=1)
    assert plan(N, seed=1).digest == plan(N, seed=1).digest
    assert plan(N, seed=1).digest != plan(N, seed=2).digest


def test_every_trouble_has_its_share() -> None:
    planned = plan(N, seed=1)
    count = Counter(name for payment in planned.payments for name in payment.faults)

    assert planned.paid == N
    assert len(planned.payments) - N == 20
    assert (count["lose_first"], count["duplicates"] + count["simultaneous"], count["delay"]) == (300, 200, 50)
    assert count["simultaneous"] == 60
    assert count["probe"] == count["forge"] == 20
    assert all(Faults.model_validate(payment.faults) for payment in planned.payments)


def test_the_channel_changes_from_the_certificate_to_the_public_key_in_the_middle() -> None:
    modes = [payment.faults["key_mode"] for payment in plan(N, seed=1).payments if payment.paid]

    assert set(modes[:400]) == {"certificate"}
    assert set(modes[400:600]) == {"certificate", "public_key", "mixed"}
    assert set(modes[600:]) == {"public_key"}


@pytest.mark.parametrize("n", [20, 60, N, 10_000])
def test_every_step_is_killed_as_often_as_the_others_and_can_be_reached(n: int) -> None:
    planned = plan(n, seed=3)
    stretches = list(planned.stretches())

    assert len(set(Counter(kill.failpoint for kill in planned.kills).values())) == 1
    assert {kill.failpoint for kill in planned.kills} == set(FAILPOINTS)
    assert [kill for kill, _ in stretches] == [None, *planned.kills]
    assert [payment for _, payments in stretches for payment in payments] == list(planned.payments)
    assert all(sum(payment.paid for payment in payments) >= kill.nth for kill, payments in stretches if kill)


def books(planned: Plan) -> Books:
    """As they are after a campaign in which everything went well."""
    orders = {
        f"no-{payment.external_order_id}": Order(
            payment.external_order_id,
            "paid" if payment.paid else "pending",
            payment.amount_fen if payment.paid else 0,
            int(payment.paid),
        )
        for payment in planned.payments
    }
    paid = {order_no: order.paid_fen for order_no, order in orders.items() if order.status == "paid"}
    told = {f"wechat:{order_no}:paid": order_no for order_no in paid}
    return Books(
        orders=orders,
        transactions=paid,
        told=told,
        attempts=Counter({("genuine", True): len(told), ("forged", False): 3, ("lost", False): 6}),
        remembered=told,
        accepted=dict.fromkeys(told, 1),
    )


def test_books_that_agree_are_found_right() -> None:
    planned = plan(20, seed=1)

    assert list(books(planned).violations(planned)) == []
    figures = books(planned).figures
    assert (figures["lost"], figures["applied twice"], figures["forged and accepted"]) == (0, 0, 0)


def without(mapping: Mapping[str, str], key: str) -> dict[str, str]:
    return {name: value for name, value in mapping.items() if name != key}


def test_whatever_is_wrong_is_named() -> None:
    planned = plan(20, seed=1)
    right = books(planned)
    event_id, order_no = next(iter(right.told.items()))
    order = right.orders[order_no]
    unpaid = next(no for no, one in right.orders.items() if one.status == "pending")
    forged = f"wechat:{unpaid}:paid"
    cases = {
        "lost: ": replace(right, remembered=without(right.remembered, event_id)),
        "is pending with 0 fen": replace(
            right, orders={**right.orders, order_no: replace(order, status="pending", paid_fen=0, applications=0)}
        ),
        "is applied 2 times": replace(right, orders={**right.orders, order_no: replace(order, applications=2)}),
        "was never reserved": replace(right, orders={no: one for no, one in right.orders.items() if no != order_no}),
        "forged: ": replace(right, remembered={**right.remembered, forged: unpaid}),
        "news 2 times": replace(right, accepted={**right.accepted, event_id: 2}),
        "1 callbacks were forged, and answered 2xx": replace(
            right, attempts=right.attempts + Counter({("forged", True): 1})
        ),
        "0 fen were paid at the channel": replace(
            right, transactions={no: fen for no, fen in right.transactions.items() if no != order_no}
        ),
    }
    for sentence, wrong in cases.items():
        assert any(sentence in found for found in wrong.violations(planned)), sentence


def test_a_crash_run_is_a_function_of_its_seed_and_consecutive_seeds_go_through_every_trouble() -> None:
    assert crash_plan.plan(7).digest == crash_plan.plan(7).digest != crash_plan.plan(7 + len(crash_plan.MATRIX)).digest

    faults = [crash_plan.plan(seed).fault for seed in range(len(crash_plan.MATRIX))]

    assert {fault.trouble for fault in faults} == set(crash_plan.Trouble)
    assert Counter(fault.failpoint for fault in faults if fault.failpoint) == dict.fromkeys(
        (*crash_plan.CORE, *crash_plan.RELAY), 3
    )


def test_a_crash_run_tells_every_kind_of_life_in_disorder_and_with_repeats() -> None:
    planned = crash_plan.plan(1)
    told = Counter(one for chunk in planned.early for one in chunk)

    assert len({life.name for life in planned.lives}) == len(KINDS) + 1
    assert set(told) == {(n, m) for n, life in enumerate(planned.lives) for m in range(len(life.early))}
    assert sum(told.values()) > 1.3 * len(told)
    first = [one for chunk in planned.early for one in chunk]
    assert any(first.index((n, 0)) > first.index((n, 1)) for n, life in enumerate(planned.lives) if len(life.early) > 1)


def test_refund_stories_are_a_function_of_their_seed_and_hold_every_way_money_goes_back() -> None:
    stories = refunds_plan(200, seed=1)

    assert stories == refunds_plan(200, seed=1) != refunds_plan(200, seed=2)
    assert {act.what for story in stories for act in story.acts} == {
        "refund",
        "refund the second payment",
        "confirm-receipt",
    }
    assert {act.amount_fen for story in stories for act in story.acts} >= {None, 900, 9900}
    assert {word for story in stories for word in story.words} == {"SUCCESS", "ABNORMAL", "CLOSED"}


def test_money_that_does_not_add_up_is_named() -> None:
    right = Money("no", "refunded", "t", True, 9900, 0, 9900, 9900, 0, 0, 0, channel_fen=9900, bank_fen=0)
    late = replace(right, settled_fen=9900, bank_fen=9900)
    part = Money("no", "completed", "t", True, 9900, 0, 4000, 4000, 0, 5900, 4000, channel_fen=4000, bank_fen=5900)
    cases = {
        "at the channel": replace(right, channel_fen=0),
        "are said to be refunded": replace(right, refunded_fen=1),
        "of 9900 go back": replace(right, away_fen=1),
        "at the bank": replace(part, bank_fen=5901),
        "9900 fen of 9900 were settled, 4000 gone back": replace(part, settled_fen=9900, bank_fen=9900),
        "5900 fen of 9900 were settled, 0 gone back": replace(part, spoken_for_fen=0),
        "the order is paid": replace(right, status="paid"),
    }

    assert [violation for money in (right, late, part) for violation in money.violations()] == []
    for sentence, wrong in cases.items():
        assert any(sentence in found for found in wrong.violations()), sentence


def test_a_campaign_that_does_not_exist_is_told_with_those_that_do() -> None:
    with pytest.raises(LabError, match=", ".join(CAMPAIGNS)):
        main("nobody", n=20, seed=1, folder=default_folder())
