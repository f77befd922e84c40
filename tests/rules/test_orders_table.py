"""order-core alone, and in it one file, writes the state of an order."""

import pytest

from tests.rules.source import LAB, SERVICES, SHARED, python, sql, without_comments, writes

WRITER = SERVICES["order_core"] / "store.sql"
PARTS = SERVICES["order_core"] / "parts.sql"
# No foreign key holds the rows of payment, payment_claim and timer to their order: their writer does, and its lock.
WRITERS = {
    "orders": WRITER,
    "order_log": WRITER,
    "payment": WRITER,
    "payment_claim": WRITER,
    "timer": PARTS,
}


@pytest.mark.parametrize("table", WRITERS)
def test_one_file_writes_what_an_order_is(table: str) -> None:
    """Of what runs: a migration may carry rows over."""
    files = [*python(SHARED, LAB, *SERVICES.values()), *sql(SHARED, LAB, *SERVICES.values())]
    files = [file for file in files if file.parent.name != "migrations"]
    assert [file for file in files if writes(file.read_text(encoding="utf-8"), table)] == [WRITERS[table]]


def test_one_statement_moves_an_order_and_writes_its_log() -> None:
    statements = without_comments(WRITER.read_text(encoding="utf-8")).split(";")
    moving = [statement for statement in statements if writes(statement, "orders") and "set status" in statement]
    assert len(moving) == 1
    assert writes(moving[0], "order_log")


@pytest.mark.parametrize(
    "planted",
    [
        "UPDATE orders SET status = 'paid'",
        "insert\n into orders (order_no)",
        'delete from "orders"',
        "update only public.orders o",
    ],
)
def test_a_planted_writer_would_be_found(planted: str) -> None:
    assert writes(planted, "orders")


@pytest.mark.parametrize("innocent", ["select from orders for update", "-- update orders", "update orders_seen"])
def test_a_reader_is_none(innocent: str) -> None:
    assert not writes(innocent, "orders")
