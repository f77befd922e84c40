"""Are the books of an order_core database whole? Every fault is a sentence; none means that figures count."""

import asyncpg

from order_core.states import TRANSITIONS, Event, Move, MoveBack, Record, Status

# Each query counts what must not be. The numbers are those of the invariants in docs.
_FAULTS = {
    "I1: applied in the inbox, and not in the log": """
        select count(*) from inbox i where outcome = 'applied'
        and not exists (select from order_log l where (l.order_no, l.event_id) = (i.order_no, i.event_id))""",
    "I1: in the log, and not applied in the inbox": """
        select count(*) from order_log l where not exists
        (select from inbox i where (i.order_no, i.event_id, i.outcome) = (l.order_no, l.event_id, 'applied'))""",
    "I2: versions with a gap": """
        select count(*) from (
            select version - row_number() over (partition by order_no order by version) as gap from order_log) l
        where gap <> 0""",
    "I2: changes that do not start where the one before ended": """
        select count(*) from (
            select "from", lag("to") over (partition by order_no order by version) as before from order_log) l
        where "from" is distinct from before""",
    "I2: changes that the table of transitions does not know": """
        select count(*) from order_log l where version > 1 and not exists (
            select from unnest($1::text[], $2::text[], $3::text[]) as t ("from", event, "to")
            where (t."from", t.event, t."to") = (l."from", l.event, l."to"))""",
    "I3: orders that are not what their log says": """
        select count(*) from orders o left join (
            select distinct on (order_no) order_no, "to", version from order_log order by order_no, version desc) l
        using (order_no)
        where (o.status, o.version) is distinct from (l."to", l.version)""",
    "I4: orders on their way without an applied payment of the right amount": """
        select count(*) from orders o where status not in ('pending', 'closed') and not exists (
            select from payment p where p.order_no = o.order_no and p.applied
            and (p.amount_fen, p.currency) = (o.amount_fen, o.currency))""",
    "I14: applied payments that no claim backs": """
        select count(*) from payment p where applied and not exists (
            select from payment_claim c
            where (c.channel, c.transaction_id, c.order_no) = (p.channel, p.transaction_id, p.order_no))""",
}


async def faults(conn: asyncpg.Connection) -> list[str]:
    found: list[str] = []
    for name, query in _FAULTS.items():
        count = await conn.fetchval(query, *(_transitions() if "$1" in query else ()))
        if count:
            found.append(f"{name}: {count}")
    return found


def _transitions() -> tuple[list[str], list[str], list[str]]:
    """Every (from, event, to) that may stand in the log."""
    allowed: list[tuple[Status, Event, Status]] = []
    for status, row in TRANSITIONS.items():
        for event, verdict in row.items():
            match verdict:
                case Move(to):
                    allowed.append((status, event, to))
                case Record():
                    allowed.append((status, event, status))
                case MoveBack():
                    allowed += [(status, event, back) for back in Status]
                case _:
                    pass
    froms, events, tos = zip(*allowed, strict=True)
    return list(froms), list(events), list(tos)
