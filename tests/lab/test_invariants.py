"""The invariant checker: silent about a proper world, and each planted fault is found by exactly its invariant."""

import asyncio
import json
import secrets
import sqlite3
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import asyncpg
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from rich.console import Console

from orderloop.topics import ORDER_CHANGED, PAYMENT_NOTIFIED
from orderloop_lab import __main__ as command_line
from orderloop_lab import databases as lab_databases
from orderloop_lab.errors import LabError
from orderloop_lab.invariants import Broker, Report, World, check, topics
from orderloop_lab.invariants.books import replay
from orderloop_lab.simulators import alipay_keys, wechat_keys
from orderloop_lab.topics import delete_topics
from tests.support.bank import signed
from tests.support.clean_world import NONSENSE, CleanWorld, Rewrite, Sent, create_small_topics
from tests.support.databases import Databases
from tests.support.orders import paid
from tests.support.payment_callback import CALLBACK, Process
from tests.support.sessions import run
from tests.support.simulator import SimulatorProcess

DATABASES = ("order_core", "settlement", "payment_callback", "logistics")
SHIPPING = "reserved:pending payment_succeeded:paid shipment_accepted:shipping"
NOWHERE = "version 2 led by {} to pending_settlement, replaying the log leads to nothing"
Command = Callable[..., tuple[int, str]]
ALL = ["I1", "I2", "I3", "I4", "I5", "I6", "I7", "I9", "I11", "I13", "I14"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outside-world")


@pytest.fixture(scope="module")
def clean(databases: Databases, kafka_bootstrap: str, folder: Path) -> Iterator[CleanWorld]:
    """Shared by all tests of this module: who plants a fault plants it in a copy, or takes it away again."""
    prefix = f"w{secrets.token_hex(4)}."
    cloned = {name: databases.clone(name) for name in DATABASES}
    wechat_keys.prepare(folder / "wechat")
    service = Process(
        cloned["payment_callback"],
        wechat_keys.open_keys(folder / "wechat"),
        ORDERLOOP_KAFKA_BOOTSTRAP=kafka_bootstrap,
        ORDERLOOP_KAFKA_TOPIC_PREFIX=prefix,
        **alipay_keys.prepare(folder / "alipay"),  # pyright: ignore[reportArgumentType]  # none is called `output`
    )
    notify = {"SIM_NOTIFY_URL": service.url + CALLBACK, "SIM_TIME_FACTOR": "200"}
    notify_slowly = {"SIM_NOTIFY_URL": service.url + "/v1/order/callback/alipay"}  # nothing is told a second time here
    simulators = {
        name: SimulatorProcess(name, folder / name, **environ)
        for name, environ in (("wechat", notify), ("alipay", notify_slowly), ("wms", {}), ("bank", {}))
    }
    with ExitStack() as stack, ThreadPoolExecutor() as threads:
        list(threads.map(stack.enter_context, simulators.values()))  # each takes a second to start
        world = CleanWorld(cloned, kafka_bootstrap, prefix, simulators)
        run(world.build(service))
        yield world
    run(delete_topics(kafka_bootstrap, prefix))
    databases.drop([database.name for database in cloned.values()])


@dataclass(frozen=True, slots=True)
class Copies:
    """Worlds that differ from the clean one in what a test has planted."""

    clean: CleanWorld
    admin_url: str
    names: list[str]

    async def with_sql(self, database: str, script: str, **values: str) -> World:
        """`{completed}` and the like stand for the numbers of the clean world's orders."""
        source, name = self.clean.databases[database].name, f"{self.clean.prefix[:-1]}_{secrets.token_hex(4)}"
        await lab_databases.create_database(self.admin_url, database, name, template=source)
        self.names.append(name)
        url = lab_databases.admin_url_for(self.admin_url, name)
        conn = await asyncpg.connect(url)
        try:
            await conn.execute(script.format(**self.clean.orders, **values))
        finally:
            await conn.close()
        world = self.clean.world
        return replace(world, databases={**world.databases, database: url})

    async def with_records(self, rewrite: Rewrite, *, committed: bool = True) -> World:
        prefix = f"{self.clean.prefix}{secrets.token_hex(4)}."  # goes with the clean world's own topics
        await self.clean.copied_topics(prefix, rewrite, committed=committed)
        return replace(self.clean.world, kafka=Broker(self.clean.bootstrap, prefix))


@pytest.fixture
def copies(clean: CleanWorld, postgres_admin_url: str) -> Iterator[Copies]:
    copies = Copies(clean, postgres_admin_url, [])
    yield copies
    run(lab_databases.drop_databases(postgres_admin_url, copies.names))


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the lab of the command line would be. There is none."""
    monkeypatch.setenv("ORDERLOOP_LAB_STATE", str(tmp_path / "lab"))
    return tmp_path / "lab"


@pytest.fixture
def command(state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line: exit code, and what was printed."""

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["orderloop_lab", *arguments])
        with pytest.raises(SystemExit) as ended:
            command_line.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out + printed.err

    return call


def found(report: Report) -> set[str]:
    assert list(report.checked) == ALL
    return set(report.counts)


async def test_a_proper_world_is_clean(clean: CleanWorld) -> None:
    report = await check(clean.world)

    assert report.violations == []
    assert list(report.checked) == ALL
    assert report.objections(*ALL) == []
    assert report.summary == "invariants: 11 checked, 0 violations"


def test_a_world_that_moves_is_clean_whenever_it_is_looked_at(clean: CleanWorld) -> None:
    assert clean.watched
    assert [report.violations for report in clean.watched if not report.clean] == []


async def test_a_bare_order_core_database_is_held_against_its_own_invariants(clean: CleanWorld) -> None:
    report = await check(World({"order_core": clean.databases["order_core"].app_url}))

    assert list(report.checked) == ["I1", "I2", "I3", "I4", "I14"]
    assert report.clean
    assert report.passed
    assert report.objections("I1", "I9") == ["I9 was not checked: for want of kafka"]
    assert report.without == {"I4": "settlement, wms", "I14": "payment_callback"}


async def test_the_services_own_rights_suffice_to_check(clean: CleanWorld) -> None:
    urls = {name: database.app_url for name, database in clean.databases.items()}

    assert found(await check(replace(clean.world, databases=urls))) == set()


# A step of the log that asks another service for something, whose change is staged, and whose request is not.
WISH = """
    insert into inbox (order_no, event_id) values ('{{fresh}}', 'wish');
    insert into order_log (order_no, version, "from", "to", event, event_id, type, actor, occurred_at, detail)
    values ('{{fresh}}', 2, 'pending', 'pending', '{}', 'wish', 'x', '/x', now(), '{}');
    update orders set version = 2 where order_no = '{{fresh}}';
    insert into outbox (order_no, topic, event_id, occurred_at, body)
    select order_no, topic, order_no || ':2', now(), convert_to(replace(
        (convert_from(body, 'UTF8')::jsonb || '{{{{"version": 2, "from": "pending"}}}}')::text,
        convert_from(body, 'UTF8')::json->'cause'->>'event_id', 'wish'), 'UTF8')
    from outbox where order_no = '{{fresh}}'
"""
# A settlement of whose first attempt settlement has told nothing.
SETTLING = """
    insert into settlement
        (order_no, instruction_id, channel, transaction_ids, amount_fen, status, requested_at, sent_at)
    values ('{{outside}}', '{{outside}}_P1', 'wechat', '{{{{}}}}', 9900, '{}', now(), now())
"""
# What is planted: by its invariant and story, the database and the script that plants it.
PLANTED: dict[str, tuple[str, str]] = {
    "I1 an event is applied and not logged": (
        "order_core",
        "insert into inbox (order_no, event_id) values ('{completed}', 'ship-again')",
    ),
    "I1 a log row is missing": (
        "order_core",
        """delete from order_log where order_no = '{paid}' and version = 3;
           update orders set status = 'paid', version = 2 where order_no = '{paid}';
           delete from outbox where order_no = '{paid}'""",
    ),
    "I1 an applied event is forgotten by the inbox": (
        "order_core",
        "delete from inbox where order_no = '{paid}' and event_id = '{paid}_S1:accepted'",
    ),
    "I2 a version is missing": (
        "order_core",
        """update order_log set version = 4 where order_no = '{paid}' and version = 3;
           update orders set version = 4 where order_no = '{paid}';
           update outbox
           set body = convert_to(replace(convert_from(body, 'UTF8'), '"version":3', '"version":4'), 'UTF8')
           where order_no = '{paid}'""",
    ),
    "I2 a step that the table does not know": (
        "order_core",
        "update order_log set event = 'revived' where order_no = '{paid}' and version = 3",
    ),
    "I2 a step that begins elsewhere": (
        "order_core",
        """update order_log set "from" = 'pending', event = 'payment_succeeded', "to" = 'paid'
           where order_no = '{paid}' and version = 3;
           update orders set status = 'paid' where order_no = '{paid}';
           update outbox set body = convert_to(replace(replace(convert_from(body, 'UTF8'),
               '"to":"shipping"', '"to":"paid"'), '"from":"paid"', '"from":"pending"'), 'UTF8')
           where order_no = '{paid}'""",
    ),
    "I3 a status was changed by hand": (
        "order_core",
        "update orders set status = 'paid' where order_no = '{paid}'",
    ),
    "I3 a version was changed by hand": (
        "order_core",
        "update orders set version = 90 where order_no = '{completed}'",
    ),
    "I3 a failed refund moved the order back to where it had not been": (
        "order_core",
        """insert into inbox (order_no, event_id) select '{paid}', 'back-' || n from generate_series(4, 6) n;
           insert into order_log (order_no, version, "from", "to", event, event_id, type, actor, occurred_at, detail)
           values
               ('{paid}', 4, 'shipping', 'refunding', 'refund_requested', 'back-4', 'x', '/x', now(),
                '{{"out_refund_no": "{paid}_R1"}}'),
               ('{paid}', 5, 'refunding', 'paid', 'refund_failed', 'back-5', 'x', '/x', now(), null),
               ('{paid}', 6, 'paid', 'shipping', 'shipment_accepted', 'back-6', 'x', '/x', now(),
                '{{"shipment_id": "{paid}_S1"}}');
           update orders set version = 6 where order_no = '{paid}';
           insert into outbox (order_no, topic, event_id, occurred_at, body)
           values ('{paid}', 'orderloop.refund-requested.v1', '{paid}_R1:requested', now(), '');
           insert into outbox (order_no, topic, event_id, occurred_at, body)
           select order_no, 'orderloop.order-changed.v1', order_no || ':' || version, now(),
                  convert_to(json_build_object('order_no', order_no, 'version', version, 'from', "from", 'to', "to",
                                               'cause', json_build_object('event_id', event_id))::text, 'UTF8')
           from order_log where order_no = '{paid}' and version > 3""",
    ),
    "I4 a completed order's settlement is still open": (
        "settlement",
        """update settlement set status = 'processing', success_at = null where order_no = '{completed}';
           insert into outbox (order_no, topic, event_id, occurred_at, body)
           values ('{completed}', 'orderloop.settlement-result.v1', '{completed}_P1:2:PROCESSING', now(), '')""",
    ),
    "I4 completed by something that was no success": (
        "order_core",
        """update order_log set detail = replace(detail::text, 'SUCCESS', 'PROCESSING')::json
           where order_no = '{completed}' and "to" = 'completed'""",
    ),
    "I4 shipped for another amount": (
        "order_core",
        "update payment set amount_fen = amount_fen + 1 where order_no = '{outside}'",
    ),
    "I4 shipped for another currency": (
        "order_core",
        "update payment set currency = 'JPY' where order_no = '{outside}'",
    ),
    "I4 shipped without a payment": (
        "order_core",
        """update payment set applied = false where order_no = '{outside}';
           delete from payment_claim where order_no = '{outside}'""",
    ),
    "I5 a staged change vanishes": (
        "order_core",
        "delete from outbox where order_no = '{fresh}'",
    ),
    "I5 a staged ship request vanishes": (
        "order_core",
        "delete from outbox where order_no = '{paid}' and topic = 'orderloop.shipment-requested.v1'",
    ),
    "I5 a request to close vanishes": ("order_core", WISH.format("close_requested", '{{"asked": 1}}')),
    "I5 a second request to close vanishes": ("order_core", WISH.format("close_requested", '{{"asked": 2}}')),
    "I5 a request to refund a part vanishes": (
        "order_core",
        WISH.format("part_refund_requested", '{{"out_refund_no": "{fresh}_R1"}}'),
    ),
    "I5 a settlement that a person asked for again is not asked for": (
        "order_core",
        """update order_log set detail = jsonb_set(detail::jsonb, '{{asked}}', '3')::json
           where order_no = '{completed}' and event = 'settlement_retried'""",
    ),
    "I5 a refused attempt is never told": (
        "settlement",
        "update settlement set attempt = 3, asked = 3 where order_no = '{completed}'",
    ),
    "I5 a refusal that is to be tried again is never told": ("settlement", SETTLING.format("retrying")),
    "I5 a refusal is never told": ("settlement", SETTLING.format("failed")),
    "I5 a settlement under way is never told": ("settlement", SETTLING.format("processing")),
    "I5 a label is never told": ("logistics", "update parcel set waybill_no = '7'"),
    "I5 a refused shipment is never told": (
        "logistics",
        """insert into shipment (order_no, shipment_id, warehouse, express_code, status, requested_at)
           values ('{early}', '{early}_S1', 'suzhou', 'zto', 'refused', now())""",
    ),
    "I5 a pickup is never told": ("logistics", "update parcel set picked_up_at = now()"),
    "I5 a return is never told": ("logistics", "update parcel set status = 'returned'"),
    "I5 a silent parcel is never told": ("logistics", "update parcel set silent_at = now()"),
    "I5 a staged change says something else": (
        "order_core",
        """update outbox set body = convert_to(replace(convert_from(body, 'UTF8'), '"shipping"', '"shipped"'), 'UTF8')
           where order_no = '{paid}'""",
    ),
    "I5 a change is staged that never happened": (
        "order_core",
        """insert into outbox (order_no, topic, event_id, occurred_at, body)
           select order_no, topic, order_no || ':7', occurred_at,
                  convert_to(replace(convert_from(body, 'UTF8'), '"version":1', '"version":7'), 'UTF8')
           from outbox where order_no = '{fresh}'""",
    ),
    "I5 a stored callback is never told": (
        "payment_callback",
        """insert into callback_memory (event_id, order_no, topic, occurred_at, body)
           values ('wechat:42:paid', '{fresh}', 'orderloop.payment-notified.v1', now(), '{{}}')""",
    ),
    "I6 an acknowledged callback is not stored": (
        "payment_callback",
        "delete from callback_memory where order_no = '{completed}'",
    ),
    "I6 a callback that was answered success is not stored": (
        "payment_callback",
        "delete from callback_memory where order_no = '{alipay}'",
    ),
    "I6 a forged form became an event": (
        "payment_callback",
        """insert into callback_memory (event_id, order_no, topic, occurred_at, body)
           values ('alipay:42:paid', '{pending}', 'orderloop.payment-notified.v1', now(), '{{"source": "callback"}}');
           insert into outbox (event_id, order_no, topic, occurred_at, body)
           select event_id, order_no, topic, occurred_at, body from callback_memory
           where event_id = 'alipay:42:paid'""",
    ),
    "I6 a forged form became a payment": (
        "order_core",
        """insert into payment (order_no, channel, transaction_id, mchid, amount_fen, currency, paid_at, applied)
           values ('{pending}', 'alipay', '42', '1', 9900, 'CNY', now(), false)""",
    ),
    "I6 an acknowledged callback without an event is not in the log": (
        "payment_callback",
        "delete from callback_log where shape = 'echo'",
    ),
    "I6 a forged callback became an event": (
        "payment_callback",
        """insert into callback_memory (event_id, order_no, topic, occurred_at, body)
           values ('wechat:42:paid', '{pending}', 'orderloop.payment-notified.v1', now(), '{{"source": "callback"}}');
           insert into outbox (event_id, order_no, topic, occurred_at, body)
           select event_id, order_no, topic, occurred_at, body from callback_memory
           where event_id = 'wechat:42:paid'""",
    ),
    "I6 a forged callback became a payment": (
        "order_core",
        """insert into payment (order_no, channel, transaction_id, mchid, amount_fen, currency, paid_at, applied)
           values ('{pending}', 'wechat', '42', '1', 9900, 'CNY', now(), false)""",
    ),
    "I7 an event that waited is gone": (
        "order_core",
        """delete from waiting where order_no = '{early}';
           delete from inbox where order_no = '{early}' and outcome = 'waiting'""",
    ),
    "I7 an event that was parked is gone": (
        "order_core",
        "delete from inbox where order_no = '{underpaid}' and outcome = 'parked'",
    ),
    "I7 an event is both applied and waiting": (
        "order_core",
        """insert into waiting (order_no, event_id, type, actor, occurred_at, body)
           select order_no, event_id, type, actor, occurred_at, '' from order_log
           where order_no = '{outside}' and "to" = 'shipped'""",
    ),
    "I7 a parked event does not stand at the desk": (
        "order_core",
        "delete from anomaly where order_no = '{underpaid}'",
    ),
    "I7 an event waits that nobody sent": (
        "order_core",
        """insert into inbox (order_no, event_id, outcome) values ('{outside}', '/wms-of-a-friend#2', 'waiting');
           insert into waiting (order_no, event_id, type, actor, occurred_at, body)
           values ('{outside}', '/wms-of-a-friend#2', 'x', '/wms-of-a-friend', now(), '')""",
    ),
    "I11 a payout differs from the bank's": (
        "settlement",
        """update payout set amount_fen = amount_fen + 1 where order_no = '{completed}' and receiver = 'platform';
           update payout set amount_fen = amount_fen - 1 where order_no = '{completed}' and receiver = 'merchant'""",
    ),
    "I11 a payout failed that the bank has made": (
        "settlement",
        """update payout set status = 'failed', arrived_at = null
           where order_no = '{completed}' and receiver = 'platform';
           update settlement set amount_fen = 9841 where order_no = '{completed}'""",
    ),
    "I11 completed by more than was paid out": (
        "order_core",
        """update order_log set detail = jsonb_set(detail::jsonb, '{{amount_fen}}', '9901')::json
           where order_no = '{completed}' and "to" = 'completed'""",
    ),
    "I14 a transaction is applied twice": (
        "order_core",
        """insert into payment (order_no, channel, transaction_id, mchid, amount_fen, currency, paid_at, applied)
           select '{early}', channel, transaction_id, mchid, amount_fen, currency, paid_at, true
           from payment where order_no = '{completed}'""",
    ),
    "I14 an applied transaction is not claimed": (
        "order_core",
        "delete from payment_claim where order_no = '{completed}'",
    ),
    "I14 money goes back that its order has not claimed": (
        "order_core",
        """insert into payment (order_no, channel, transaction_id, mchid, amount_fen, currency, paid_at, applied)
           select order_no, 'card', 'twice', mchid, amount_fen, currency, paid_at, false
           from payment where order_no = '{completed}';
           insert into refund (order_no, out_refund_no, channel, transaction_id, amount_fen, state, whole, reason,
                               asked_at, changed_at)
           select order_no, order_no || '_R1', channel, transaction_id, amount_fen, 'asked', false, '', now(), now()
           from payment where transaction_id = 'twice'""",
    ),
    "I14 more is refunded than was applied": (
        "payment_callback",
        """insert into callback_memory (event_id, order_no, topic, occurred_at, body)
           select 'wechat:5030:refunded', order_no, 'orderloop.refund-notified.v1', now(),
                  convert_to((convert_from(body, 'UTF8')::jsonb
                              || '{{"refund_status": "SUCCESS", "refund_fen": 9901}}'::jsonb)::text, 'UTF8')
           from callback_memory where order_no = '{outside}';
           insert into outbox (event_id, order_no, topic, occurred_at, body)
           select event_id, order_no, topic, occurred_at, body from callback_memory
           where event_id = 'wechat:5030:refunded'""",
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
async def test_what_is_planted_in_a_database_is_found_by_exactly_its_invariant(planted: str, copies: Copies) -> None:
    report = await check(await copies.with_sql(*PLANTED[planted]))

    assert found(report) == {planted.split(maxsplit=1)[0]}, report.violations


async def test_a_payment_that_a_repair_applied_is_none_of_the_refused_callbacks_doing(copies: Copies) -> None:
    """The channel had said so itself when it was asked; whatever else came for the order was refused."""
    _, payment = PLANTED["I6 a forged callback became a payment"]
    applied = await copies.with_sql("order_core", payment)
    asked = await copies.with_sql(
        "payment_callback",
        """insert into callback_missing (channel, transaction_id, order_no, amount_fen, paid_at, policy, evidence)
           values ('wechat', '42', '{pending}', 9900, now(), 'report', '{{}}')""",
    )

    report = await check(replace(asked, databases={**asked.databases, "order_core": applied.databases["order_core"]}))

    assert found(report) == set(), report.violations


def first_of(records: list[Sent], order_no: str) -> int:
    return next(at for at, one in enumerate(records) if one.topic == ORDER_CHANGED and one.key == order_no.encode())


async def test_a_redelivered_change_is_no_violation(copies: Copies) -> None:
    def twice(records: list[Sent]) -> list[Sent]:
        return [*records, *(one for one in records if one.key != NONSENSE)]

    assert found(await check(await copies.with_records(twice))) == set()


async def test_a_change_published_under_a_second_id_is_found_by_i5(copies: Copies) -> None:
    def doubled(records: list[Sent]) -> list[Sent]:
        one = records[first_of(records, copies.clean.orders["completed"])]
        headers = [(name, b"another" if name == "ce_id" else value) for name, value in one.headers]
        return [*records, replace(one, headers=headers)]

    assert found(await check(await copies.with_records(doubled))) == {"I5"}


async def test_a_change_that_says_something_else_the_second_time_is_found_by_i5(copies: Copies) -> None:
    def changed(records: list[Sent]) -> list[Sent]:
        one = records[first_of(records, copies.clean.orders["completed"])]
        return [*records, replace(one, value=one.value.replace(b'"pending"', b'"closed"'))]

    assert found(await check(await copies.with_records(changed))) == {"I5"}


async def test_a_change_that_was_never_published_is_found_by_i5(copies: Copies) -> None:
    def without(records: list[Sent]) -> list[Sent]:
        at = first_of(records, copies.clean.orders["completed"])
        return records[:at] + records[at + 1 :]

    report = await check(await copies.with_records(without))

    assert found(report) == {"I5"}
    assert copies.clean.orders["completed"] in report.violations[0].sentence


async def test_changes_published_out_of_order_are_found_by_i9(copies: Copies) -> None:
    def swapped(records: list[Sent]) -> list[Sent]:
        at = first_of(records, copies.clean.orders["completed"])
        return [*records[:at], *records[at + 1 :], records[at]]

    assert found(await check(await copies.with_records(swapped))) == {"I9"}


async def test_a_change_that_overtook_a_staged_one_is_found_by_i9(copies: Copies) -> None:
    taken: list[Sent] = []

    def without(records: list[Sent]) -> list[Sent]:
        at = first_of(records, copies.clean.orders["completed"])
        taken.append(records[at])
        return records[:at] + records[at + 1 :]

    topics = await copies.with_records(without)
    staged = await copies.with_sql(
        "order_core",
        """insert into outbox (order_no, topic, event_id, occurred_at, body)
           values ('{completed}', 'orderloop.order-changed.v1', '{completed}:1', now(), '\\x{body}')""",
        body=taken[0].value.hex(),
    )

    assert found(await check(replace(staged, kafka=topics.kafka))) == {"I9"}


@pytest.mark.parametrize(
    ("key", "body"),
    [(NONSENSE, b"{"), (None, paid("261122093015ABCDEFGH1234").body.encode())],  # type: ignore[union-attr]
)
async def test_a_record_that_was_skipped_because_it_cannot_be_decoded_is_found_by_i7(
    copies: Copies, key: bytes | None, body: bytes
) -> None:
    def poisoned(records: list[Sent]) -> list[Sent]:
        return [*records, Sent(PAYMENT_NOTIFIED, 0, key, body, ())]

    assert found(await check(await copies.with_records(poisoned))) == {"I7"}


async def test_an_event_that_was_taken_in_and_dropped_is_found_by_i7_and_one_not_yet_taken_in_is_none(
    copies: Copies,
) -> None:
    def more(records: list[Sent]) -> list[Sent]:
        one = next(one for one in records if one.topic == PAYMENT_NOTIFIED)
        return [*records, replace(one, headers=[(n, b"new" if n == "ce_id" else v) for n, v in one.headers])]

    assert found(await check(await copies.with_records(more))) == {"I7"}
    assert found(await check(await copies.with_records(more, committed=False))) == set()


async def test_an_event_that_is_applied_and_dead_lettered_is_found_by_i7(copies: Copies) -> None:
    letters: list[str] = []

    def find(records: list[Sent]) -> list[Sent]:
        key = copies.clean.orders["completed"].encode()
        for partition in (0, 1):
            inbound = [one for one in records if (one.topic, one.partition) == (PAYMENT_NOTIFIED, partition)]
            letters.extend(f"{PAYMENT_NOTIFIED}-{partition}-{at}" for at, one in enumerate(inbound) if one.key == key)
        return records

    topics = await copies.with_records(find)
    assert topics.kafka is not None
    assert len(letters) == 1
    dead = await copies.with_sql(
        "order_core",
        """insert into outbox (order_no, topic, event_id, occurred_at, body, record)
           values ('x', 'orderloop.payment-notified.v1.order-core.dlq', '{origin}', now(), '', '[]')""",
        origin=topics.kafka.prefix + letters[0],
    )

    assert found(await check(replace(dead, kafka=topics.kafka))) == {"I7"}


async def test_a_second_payout_at_the_bank_is_found_by_i11(clean: CleanWorld, folder: Path) -> None:
    order_no, payout = clean.orders["completed"], {"receiver": "merchant", "account": "6222-merchant", "amount_fen": 1}
    again = {"instruction_id": f"{order_no}_P2", "order_no": order_no, "currency": "CNY", "total_fen": 1}
    body = json.dumps(again | {"payouts": [payout]}).encode()
    headers = signed("POST", "/v1/instructions", body) | {"Idempotency-Key": f"{order_no}_P2"}
    clean.simulators["bank"].http.post("/v1/instructions", content=body, headers=headers).raise_for_status()

    report = await check(clean.world)
    with closing(sqlite3.connect(folder / "bank" / "bank.sqlite3")) as ledger, ledger:
        ledger.execute("delete from document where kind = 'instruction' and key = ?", (f"{order_no}_P2",))

    assert found(report) == {"I11"}
    assert f"order {order_no}: the bank paid merchant 2 times, 9842 fen in all" in {
        violation.sentence for violation in report.violations
    }


# An active shipment that should not be there: whose, under whose id, and who finds it.
@pytest.mark.parametrize(
    ("of", "under", "finder"),
    [("completed", "fresh", "I13"), ("paid", "completed", "I13"), ("pending", "pending", "I4")],
)
async def test_a_shipment_that_should_not_be_is_found(clean: CleanWorld, of: str, under: str, finder: str) -> None:
    wms = clean.simulators["wms"]
    wms.tell("/sim/plant", order_no=clean.orders[of], shipment_id=f"{clean.orders[under]}_S1")

    report = await check(clean.world)
    planted = sum("planted" in shipment for shipment in wms.read("/sim/ledger/shipments"))
    wms.tell(f"/outbound/planted:{planted}/cancel")

    assert found(report) == {finder}


async def test_what_is_wrong_many_times_is_counted_and_the_first_are_named(copies: Copies) -> None:
    world = await copies.with_sql(
        "order_core",
        "insert into inbox (order_no, event_id) select '{completed}', 'ship-' || n from generate_series(1, 50) n",
    )

    report = await check(world)
    printed = StringIO()
    report.show(Console(file=printed, width=200))

    assert len(report.violations) == 20
    assert report.counts["I1"] == 50
    assert "I1: and 30 more" in printed.getvalue()
    assert printed.getvalue().endswith("invariants: 11 checked, 50 violations\n")
    assert json.dumps(report.as_json())


async def test_topics_without_a_record_are_read_to_their_end(kafka_bootstrap: str) -> None:
    broker = Broker(kafka_bootstrap, f"e{secrets.token_hex(4)}.")
    await create_small_topics(broker.bootstrap, broker.prefix)

    there = await topics.look(broker)

    assert await topics.read(broker, there, there, set()) == topics.Testimony()
    await delete_topics(broker.bootstrap, broker.prefix)


async def test_a_simulator_that_is_away_is_named(clean: CleanWorld) -> None:
    world = replace(clean.world, simulators={"bank": "http://127.0.0.1:1"})
    with pytest.raises(LabError, match="simulator bank"):
        await check(world)


async def test_a_topic_that_has_lost_its_first_record_is_not_passed_over_in_silence(copies: Copies) -> None:
    def swapped(records: list[Sent]) -> list[Sent]:
        at = first_of(records, copies.clean.orders["completed"])
        return [*records[:at], *records[at + 1 :], records[at]]

    world = await copies.with_records(swapped)
    assert world.kafka is not None
    lost = TopicPartition(world.kafka.prefix + ORDER_CHANGED, 0)
    await forget_first_record(world.kafka.bootstrap, lost)

    report = await check(world)
    printed = StringIO()
    report.show(Console(file=printed, width=300))

    why = f"{lost.topic}-0 begins at 1"
    assert list(report.checked) == [one for one in ALL if one not in {"I5", "I7", "I9"}]
    assert report.unchecked == report.as_json()["unchecked"] == dict.fromkeys(("I5", "I7", "I9"), why)
    assert report.clean
    assert not report.passed
    assert f"not checked: {why}" in printed.getvalue()
    assert "down --remove" in printed.getvalue()
    assert report.summary == "invariants: 8 checked, 0 violations, 3 not checked"


async def forget_first_record(bootstrap: str, partition: TopicPartition) -> None:
    """As retention does."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.delete_records({partition: RecordsToDelete(before_offset=1)})
    await admin.close()


def test_databases_are_checked_where_they_are_without_any_lab(clean: CleanWorld, command: Command, state: Path) -> None:
    url = clean.databases["order_core"].app_url

    code, told = command("verify", "--json", "--database", f"order_core={url}")

    assert code == 0
    assert list(json.loads(told)["checked"]) == ["I1", "I2", "I3", "I4", "I14"]
    assert json.loads(told)["unchecked"]["I5"] == "for want of kafka"
    assert not state.exists()


def test_databases_and_topics_are_checked_together(clean: CleanWorld, command: Command) -> None:
    named = [f"--database={name}={database.app_url}" for name, database in clean.databases.items()]

    code, told = command("verify", "--json", *named, "--kafka", clean.bootstrap, "--topic-prefix", clean.prefix)

    assert code == 0
    assert set(json.loads(told)["unchecked"]) == {"I6", "I11", "I13"}


async def test_a_named_database_that_is_not_in_order_ends_with_exit_code_1(copies: Copies, command: Command) -> None:
    world = await copies.with_sql(*PLANTED["I3 a version was changed by hand"])

    code, told = await asyncio.to_thread(command, "verify", f"--database=order_core={world.databases['order_core']}")

    assert code == 1
    assert "I3: order" in told


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "make up"),
        (["--kafka=127.0.0.1:1"], "name a database too"),
        (["--database=orders=postgresql://x"], "none of order_core"),
        (["--database=order_core=postgresql://127.0.0.1:1/x"], "Not everything can be read"),
    ],
)
def test_verify_says_in_a_sentence_what_it_lacks_and_makes_nothing(
    command: Command, state: Path, options: list[str], sentence: str
) -> None:
    code, told = command("verify", *options)

    assert code == 2
    assert sentence in told
    assert "Traceback" not in told
    assert not state.exists()


@pytest.mark.parametrize(
    ("history", "difference"),
    [
        ("reserved:pending", None),
        ("reserved:pending payment_succeeded:paid waybill_created:shipped parcel_tracked:shipped", None),
        (f"{SHIPPING} refund_requested:refunding parcel_tracked:refunding refund_failed:shipping", None),
        (
            f"{SHIPPING} refund_requested:refunding refund_failed:paid shipment_accepted:shipping",
            "version 5 led by refund_failed to paid, replaying the log leads to shipping",
        ),
        ("payment_succeeded:paid", "version 1 led by payment_succeeded to paid, replaying the log leads to nothing"),
        ("reserved:pending receipt_confirmed:pending_settlement", NOWHERE.format("receipt_confirmed")),
        ("reserved:pending abducted:pending_settlement", NOWHERE.format("abducted")),
    ],
)
def test_replaying_a_log_names_the_first_step_that_leaves_the_table(history: str, difference: str | None) -> None:
    events, statuses = zip(*(step.split(":") for step in history.split()), strict=True)

    assert replay(events, statuses) == difference
