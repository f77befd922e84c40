"""Mutants: faults that order services have really had, and the tests that must fail when they are put back.

`python -m tests.mutants` puts each into a copy of the tree and runs its test there: `make mutants`. docs/mutants.md is
written from this table.
"""

from dataclasses import dataclass

_CONSUME = "shared/orderloop/consume.py"
_OUTBOX = "shared/orderloop/outbox.py"
_CORE = "services/order-core/order_core"
_SETTLEMENT = "services/settlement/settlement"
_SESSIONS = "tests/orderloop/test_postgres.py::test_an_owner_that_froze_loses_its_locks"
_CRASH = "tests/order_core/test_crashes.py::test_every_order_comes_to_the_end_of_its_life_and_the_books_are_right"
_APPLY = "tests/order_core/test_apply.py::test"
_REFUNDS = "tests/order_core/test_refunds.py::test"


@dataclass(frozen=True, slots=True)
class Edit:
    """`old` stands in the file exactly once."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    name: str
    test: str  # pytest's id of the one that must fail
    edits: tuple[Edit, ...]


def _mutant(name: str, test: str, file: str, old: str, new: str) -> Mutant:
    return Mutant(name, test, (Edit(file, old, new),))


MUTANTS = (
    _mutant(
        "offsets are acknowledged before the batch is committed",
        f"{_CRASH}[3: order-core.before_commit@1]",
        _CONSUME,
        "                if await self._settle(polled, stop, lane=lane):\n",
        "                await self._commit(consumer, polled, stop, lane=lane)\n"
        "                if await self._settle(polled, stop, lane=lane):\n",
    ),
    _mutant(
        "a batch that outlived two rebalances takes acknowledgements back",
        "tests/orderloop/test_consume.py::test_a_batch_that_outlives_two_rebalances_takes_no_acknowledgement_back",
        _CONSUME,
        "{partition: await consumer.position(partition) for partition in settled}",
        "{partition: records[-1].offset + 1 for partition, records in settled.items()}",
    ),
    _mutant(
        "an exception of the infrastructure is acknowledged",
        "tests/orderloop/test_consume.py::test_the_infrastructures_trouble_parks_nothing_and_acknowledges_nothing",
        _CONSUME,
        "                        return False\n",
        "                        return True\n",
    ),
    _mutant(
        "the infrastructure's trouble is taken for the data's",
        "tests/orderloop/test_consume.py::test_the_infrastructures_trouble_parks_nothing_and_acknowledges_nothing",
        _CONSUME,
        "            if is_transient(error):\n                raise\n            if len(received) > 1:\n",
        "            if len(received) > 1:\n",
    ),
    _mutant(
        "one bad event costs its whole batch",
        "tests/orderloop/test_consume.py::test_one_poison_in_two_hundred_is_parked_and_the_rest_applied",
        _CONSUME,
        "                middle = len(received) // 2\n",
        "                middle = 0\n"
        "                for one in received:\n"
        "                    await self._park(one.record, one.topic, error, attempts=attempt)\n"
        "                return\n",
    ),
    _mutant(
        "a new group begins at the latest record",
        "tests/rules/test_kafka_clients.py::test_the_consumer_starts_at_the_earliest_record_and_commits_only_when_told",
        "shared/orderloop/kafka.py",
        'auto_offset_reset="earliest"',
        'auto_offset_reset="latest"',
    ),
    _mutant(
        "the dedup row is committed apart from the effect",
        f"{_CRASH}[1: order-core.after_claim@1]",
        f"{_CORE}/consumers.py",
        "            async with conn.transaction():\n                await apply(",
        "            if conn:\n                await apply(",
    ),
    _mutant(
        "repeats inside one batch count twice",
        f"{_APPLY}_the_same_payment_twice_in_a_batch_and_again_later_moves_the_order_once",
        f"{_CORE}/apply.py",
        "        if key not in self._unapplied:\n            return None\n",
        "",
    ),
    _mutant(
        "a parked event that comes again is taken for a repeat",
        f"{_APPLY}_a_parked_payment_is_decided_anew_when_it_comes_again",
        f"{_CORE}/store.sql",
        "on conflict (order_no, event_id) do update set outcome = 'applied' where inbox.outcome <> 'applied'",
        "on conflict (order_no, event_id) do nothing",
    ),
    _mutant(
        "money that was asked to go back is claimed by nobody",
        "tests/order_core/test_desk.py::test_money_that_was_asked_to_go_back_pays_no_other_order",
        f"{_CORE}/store.sql",
        "    where state in ('held', 'asked')\n",
        "    where false\n",
    ),
    _mutant(
        "one channel's notice puts away the other's missing one",
        f"{_APPLY}_evidence_of_a_missing_notice_is_put_away_by_that_payment_alone",
        f"{_CORE}/store.sql",
        "                  is not distinct from (c.detail::json->>'channel', c.detail::json->>'transaction_id')\n",
        "                  is not null\n",
    ),
    _mutant(
        "what an applied event leaves for a person is put away with its own anomaly",
        "tests/order_core/test_timeouts.py::test_what_an_event_leaves_for_a_person_stays_though_its_own_anomaly_ends",
        f"{_CORE}/orders.py",
        'event_id = f"{self.cause.event_id}#{self.anomaly}"',
        "event_id = self.cause.event_id",
    ),
    _mutant(
        "batches claim their events in whatever order",
        f"{_APPLY}_claims_that_overlap_in_any_order_never_deadlock",
        f"{_CORE}/store.py",
        "ordered = sorted(keys)",
        "ordered = [*keys]",
    ),
    _mutant(
        "orders are read without being locked",
        "tests/order_core/test_http.py::test_twenty_simultaneous_refunds_give_back_no_more_than_came",
        f"{_CORE}/store.sql",
        "order by order_no\nfor update;",
        "order by order_no;",
    ),
    _mutant(
        "a frozen transaction keeps its locks",
        f"{_SESSIONS}[between statements]",
        "shared/orderloop/postgres.py",
        '"idle_in_transaction_session_timeout": "10s"',
        '"idle_in_transaction_session_timeout": "0"',
    ),
    _mutant(
        "a transaction frozen within a statement keeps its locks",
        f"{_SESSIONS}[within a statement]",
        "shared/orderloop/postgres.py",
        '"transaction_timeout": "30s"',
        '"transaction_timeout": "0"',
    ),
    _mutant(
        "the outbox is read by a cursor over its ids",
        "tests/orderloop/test_backlog.py::test_an_id_that_was_drawn_earlier_and_is_committed_later_is_still_read",
        "shared/orderloop/backlog.py",
        "        if self._writers and await _sql.any_of(conn, writers=self._writers):\n            return\n",
        "",
    ),
    _mutant(
        "the outbox is emptied before Kafka has acknowledged",
        f"{_CRASH}[7: relay.after_produce@1]",
        _OUTBOX,
        '            failpoint("relay.after_read")\n',
        '            failpoint("relay.after_read")\n'
        '            await _sql.published(conn, ids=[row["id"] for row in rows])\n',
    ),
    _mutant(
        "two relays publish at the same time",
        "tests/orderloop/test_outbox.py::test_of_two_relays_one_leads_and_the_other_takes_over_when_it_is_killed",
        "shared/orderloop/outbox.sql",
        "select pg_try_advisory_lock(7233002);",
        "select true;",
    ),
    _mutant(
        "nobody compares the amount",
        f"{_APPLY}_a_payment_that_does_not_fit_is_parked_and_hurts_nobody_else",
        f"{_CORE}/decide.py",
        '    elif body.amount_fen != order.amount_fen:\n        kind = "amount_mismatch"\n',
        "",
    ),
    _mutant(
        "one transaction pays two orders",
        f"{_APPLY}_one_transaction_pays_one_order_ever",
        f"{_CORE}/decide.py",
        "    if owner not in {None, order.order_no} or (owner and order.status is Status.PENDING):\n",
        "    if not order.order_no:\n",
    ),
    _mutant(
        "a second channel's success is an error for ever",
        f"{_APPLY}_a_second_payment_is_superfluous_and_never_moves_a_good_order",
        f"{_CORE}/decide.py",
        '        kind = "paid_after_close" if order.status is Status.CLOSED else "paid_twice"\n',
        '        kind = {Status.CLOSED: "paid_after_close"}[order.status]\n',
    ),
    _mutant(
        "a success after the close is an error for ever",
        f"{_REFUNDS}_a_payment_after_the_closing_goes_back",
        f"{_CORE}/decide.py",
        '        kind = "paid_after_close" if order.status is Status.CLOSED else "paid_twice"\n',
        '        kind = {Status.PAID: "paid_twice"}[order.status]\n',
    ),
    _mutant(
        "an order is closed without asking the channel",
        "tests/order_core/test_closing.py::test_an_order_closes_only_after_the_channels_were_asked",
        f"{_CORE}/states.py",
        "        Event.CLOSE_REQUESTED: _RECORD,  #",
        "        Event.CLOSE_REQUESTED: Move(Status.CLOSED),  #",
    ),
    _mutant(
        "a repeated callback moves a shipped order back to paid",
        "tests/order_core/test_states.py::test_a_repeated_payment_never_moves_an_order_that_is_further_on",
        f"{_CORE}/states.py",
        "        **_LATE_SCANS,  # a second parcel's label, a scan on the way\n",
        "        **_LATE_SCANS,\n        Event.PAYMENT_SUCCEEDED: Move(Status.PAID),\n",
    ),
    _mutant(
        "a label counts as delivery",
        f"{_APPLY}_an_order_goes_its_whole_way",
        f"{_CORE}/parcels.py",
        "        ParcelStatus.LABEL_PRINTED,\n",
        "        ParcelStatus.DELIVERED,\n",
    ),
    _mutant(
        "the bank's word that it is working completes an order",
        "tests/order_core/test_life.py::TestLife::runTest",
        f"{_CORE}/settling.py",
        "event, state = states.Event.SETTLEMENT_PROCESSING, InstructionState.PROCESSING",
        "event, state = states.Event.SETTLEMENT_SUCCEEDED, InstructionState.PROCESSING",
    ),
    _mutant(
        "an attempt under way takes a payout's success back",
        f"{_APPLY}_money_in_the_bank_stays_there_whatever_attempt_is_still_under_way",
        f"{_CORE}/settling.py",
        "return failed or instruction.state is InstructionState.SUCCESS\n",
        "return failed or (instruction.state is InstructionState.SUCCESS and attempt <= instruction.asked)\n",
    ),
    _mutant(
        "money on its way back may be given back once more",
        "tests/order_core/test_http.py::test_part_of_the_money_goes_back_once_per_key",
        f"{_CORE}/money.py",
        "r.transaction == payment.transaction and r.state is not RefundState.CLOSED\n",
        "r.transaction == payment.transaction and r.state is RefundState.SUCCESS\n",
    ),
    _mutant(
        "a refund goes out while the bank pays",
        f"{_REFUNDS}_a_refund_waits_while_the_bank_has_the_instruction_and_goes_out_with_its_success",
        f"{_CORE}/refunds.py",
        "    if payment.applied and any(instruction.at_the_bank for instruction in order.instructions):\n",
        "    if not payment.applied and any(instruction.at_the_bank for instruction in order.instructions):\n",
    ),
    Mutant(
        "only the lock in Redis keeps an order from being shipped twice",
        "tests/order_core/test_http.py::test_a_hundred_simultaneous_ship_requests_ship_once",
        (
            Edit(
                f"{_CORE}/states.py",
                "    Status.SHIPPING: {\n",
                "    Status.SHIPPING: {\n        Event.SHIPMENT_ACCEPTED: _RECORD,\n",
            ),
            Edit(f"{_CORE}/ship.py", 'shipment_id=f"{request.order_no}_S1"', "shipment_id=uuid4().hex"),
            Edit(
                f"{_CORE}/migrations/0001_orders.sql",
                "constraint an_order_is_shipped_once primary key (order_no)",
                "constraint an_order_is_shipped_once primary key (order_no, shipment_id)",
            ),
        ),
    ),
    _mutant(
        "a payout that timed out is paid under a new number",
        "tests/settlement/test_instruct.py::test_a_deed_whose_answer_cannot_be_believed_is_asked_about_and_not_done_again[lost]",
        f"{_SETTLEMENT}/store.py",
        'reference=call.instruction_id if call.attempt == 1 else f"{call.instruction_id}_A{call.attempt}"',
        'reference=f"{call.instruction_id}_A{call.id}"',
    ),
    _mutant(
        "an unknown outcome of a refused payout counts as the refusal",
        "tests/settlement/test_attempts.py::test_while_the_bank_does_not_repeat_its_refusal_nothing_is_sent[lost]",
        f"{_SETTLEMENT}/states.py",
        "Heard.UNKNOWN: Status.RETRYING",
        "Heard.UNKNOWN: Status.REQUESTED",
    ),
)
