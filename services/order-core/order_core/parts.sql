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

-- name: parcels(order_nos)
select order_no, express_code, waybill_no, shipment_id, parcel_no, parcel_count, status, at
from parcel
where order_no = any(array(select json_array_elements_text(:order_nos)));

-- name: waiting(order_nos)
select order_no, event_id, type, actor, occurred_at, traceparent, body
from waiting
where order_no = any(array(select json_array_elements_text(:order_nos)))
order by order_no, since, event_id;

-- name: keep_parcels(parcels)!
insert into parcel (order_no, express_code, waybill_no, shipment_id, parcel_no, parcel_count, status, at)
select order_no, express_code, waybill_no, shipment_id, parcel_no, parcel_count, status, to_timestamp(at)
from unnest(:parcels::parcel_move[])
on conflict (order_no, express_code, waybill_no) do update set status = excluded.status, at = excluded.at;

-- name: wait(order_nos, event_ids, types, actors, occurred_ats, traceparents, bodies)!
insert into waiting (order_no, event_id, type, actor, occurred_at, traceparent, body)
select * from unnest(:order_nos::text[], :event_ids::text[], :types::text[], :actors::text[],
                     :occurred_ats::timestamptz[], :traceparents::text[], :bodies::bytea[])
on conflict (order_no, event_id) do nothing;

-- name: no_longer_waiting(order_nos, event_ids)!
delete from waiting w
using unnest(:order_nos::text[], :event_ids::text[]) as r (order_no, event_id)
where (w.order_no, w.event_id) = (r.order_no, r.event_id);

-- name: overdue(longest, most)
-- Waited too long: no predecessor is coming. Skips what a batch is deciding at this moment.
select order_no, event_id, type, actor, occurred_at, traceparent, body
from waiting
where since < now() - :longest::interval
order by order_no, event_id
limit :most
for update skip locked;
