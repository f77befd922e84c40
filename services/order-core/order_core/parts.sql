-- name: instructions(order_nos)
select order_no, instruction_id, amount_fen, asked, state
from instruction
where order_no = any(:order_nos::text[])
order by order_no, instruction_id;

-- name: closings(order_nos)
select order_no, asked, open from closing where order_no = any(:order_nos::text[]);

-- name: timers(order_nos)
select order_no, kind, due_at from timer where order_no = any(:order_nos::text[]) order by order_no, due_at;

-- name: keep_shipment(order_no, shipment_id, warehouse, express_code, now)!
insert into shipment (order_no, shipment_id, warehouse, express_code, created_at)
values (:order_no, :shipment_id, :warehouse, :express_code, :now);

-- name: keep_instructions(order_nos, instruction_ids, amounts, asked, states)!
insert into instruction (order_no, instruction_id, amount_fen, asked, state)
select * from unnest(:order_nos::text[], :instruction_ids::text[], :amounts::bigint[], :asked::int[], :states::text[])
on conflict (order_no, instruction_id) do update set asked = excluded.asked, state = excluded.state;

-- name: keep_closings(order_nos, asked, opens)!
insert into closing (order_no, asked, open)
select * from unnest(:order_nos::text[], :asked::int[], :opens::boolean[])
on conflict (order_no) do update set asked = excluded.asked, open = excluded.open;

-- name: set_timers(order_nos, kinds, due_ats)!
insert into timer (order_no, kind, due_at)
select * from unnest(:order_nos::text[], :kinds::text[], :due_ats::timestamptz[])
on conflict (order_no, kind) do update set due_at = excluded.due_at;

-- name: due_orders(now, most)
-- Only looks: the orders are locked first, as everywhere, so that a timer and an event never wait for each other.
select distinct order_no from (select order_no from timer where due_at <= :now order by due_at limit :most) due;

-- name: take_timers(order_nos, now)
delete from timer where order_no = any(:order_nos::text[]) and due_at <= :now returning order_no, kind, due_at;
