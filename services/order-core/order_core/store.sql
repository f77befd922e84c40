-- name: claim(order_nos, event_ids, body_hashes)
-- The shared claim of orderloop/inbox.sql, and what tells the bodies of foreign events apart. Dedup is this insert.
insert into inbox (order_no, event_id, body_hash)
select * from unnest(:order_nos::text[], :event_ids::text[], :body_hashes::bytea[])
on conflict (order_no, event_id) do update set outcome = 'applied' where inbox.outcome <> 'applied'
returning order_no, event_id;

-- name: body_hashes(order_nos, event_ids)
select order_no, event_id, body_hash
from inbox
where (order_no, event_id) in (select * from unnest(:order_nos::text[], :event_ids::text[]))
  and body_hash is not null;

-- name: lock_orders(order_nos)
-- Sorted, so that two batches which share orders cannot deadlock.
select order_no, status, version, amount_fen, currency, channel, mchid, before_refund
from orders
where order_no = any(:order_nos::text[])
order by order_no
for update;

-- name: parcels(order_nos)
select order_no, express_code, waybill_no, shipment_id, parcel_no, parcel_count, status, at
from parcel
where order_no = any(:order_nos::text[]);

-- name: payments(order_nos)
select order_no, channel, transaction_id, mchid, amount_fen, currency, paid_at, applied
from payment
where order_no = any(:order_nos::text[]);

-- name: refunds(order_nos)
select order_no, out_refund_no, channel, transaction_id, amount_fen, state, whole, reason, refund_id
from refund
where order_no = any(:order_nos::text[])
order by order_no, out_refund_no;

-- name: taken(channels, transaction_ids)
-- Which order a channel transaction has already paid. Two racing workers are told apart by the primary key.
select channel, transaction_id, order_no
from payment_claim
where (channel, transaction_id) in (select * from unnest(:channels::text[], :transaction_ids::text[]));

-- name: waiting(order_nos)
select order_no, event_id, type, actor, occurred_at, traceparent, body
from waiting
where order_no = any(:order_nos::text[])
order by order_no, since, event_id;

-- name: record(order_nos, versions, befores, afters, channels, mchids, before_refunds, events, event_ids, types, actors, occurred_ats, traceparents, details, now)!
-- Order and log move together. An order that changed twice in the batch ends at its highest version.
with change as (
    select * from unnest(:order_nos::text[], :versions::int[], :befores::text[], :afters::text[], :channels::text[],
                         :mchids::text[], :before_refunds::text[], :events::text[], :event_ids::text[], :types::text[],
                         :actors::text[], :occurred_ats::timestamptz[], :traceparents::text[], :details::text[])
        as c (order_no, version, before, after, channel, mchid, before_refund, event, event_id, type, actor,
              occurred_at, traceparent, detail)
), moved as (
    update orders o
    set status = c.after, version = c.version, channel = c.channel, mchid = c.mchid, before_refund = c.before_refund,
        updated_at = :now,
        completed_at = case when c.after = 'completed' and o.completed_at is null then :now else o.completed_at end
    from (select distinct on (order_no) * from change order by order_no, version desc) c
    where o.order_no = c.order_no
)
insert into order_log (order_no, version, "from", "to", event, event_id, type, actor, occurred_at, recorded_at,
                       traceparent, detail)
select order_no, version, before, after, event, event_id, type, actor, occurred_at, :now, traceparent, detail::json
from change;

-- name: note_payments(order_nos, channels, transaction_ids, mchids, amounts, currencies, paid_ats, applied)!
-- One that stood at the desk may have become the applied one.
insert into payment (order_no, channel, transaction_id, mchid, amount_fen, currency, paid_at, applied)
select * from unnest(:order_nos::text[], :channels::text[], :transaction_ids::text[], :mchids::text[],
                     :amounts::bigint[], :currencies::text[], :paid_ats::timestamptz[], :applied::boolean[])
on conflict (order_no, channel, transaction_id) do update
set applied = payment.applied or excluded.applied,
    amount_fen = case when excluded.applied then excluded.amount_fen else payment.amount_fen end,
    currency = case when excluded.applied then excluded.currency else payment.currency end;

-- name: keep_refunds(order_nos, out_refund_nos, channels, transaction_ids, amounts, states, wholes, reasons, refund_ids, now)!
insert into refund (order_no, out_refund_no, channel, transaction_id, amount_fen, state, whole, reason, refund_id,
                    asked_at, changed_at)
select r.*, :now, :now
from unnest(:order_nos::text[], :out_refund_nos::text[], :channels::text[], :transaction_ids::text[],
            :amounts::bigint[], :states::text[], :wholes::boolean[], :reasons::text[], :refund_ids::text[]) as r
on conflict (order_no, out_refund_no) do update
set state = excluded.state, whole = excluded.whole, refund_id = excluded.refund_id, changed_at = excluded.changed_at;

-- name: sum_refunds(order_nos)!
-- The constraint at the payment judges the sums: no more goes back than came.
update payment p set refunding_fen = r.refunding, refunded_fen = r.refunded
from (
    select order_no, channel, transaction_id,
           coalesce(sum(amount_fen) filter (where state in ('held', 'asked', 'abnormal')), 0)::bigint as refunding,
           coalesce(sum(amount_fen) filter (where state = 'success'), 0)::bigint as refunded
    from refund
    where order_no = any(:order_nos::text[])
    group by order_no, channel, transaction_id
) r
where (p.order_no, p.channel, p.transaction_id) = (r.order_no, r.channel, r.transaction_id);

-- name: claim_payments(channels, transaction_ids, order_nos)!
-- A transaction that another order holds violates the key: the batch is decided anew and sees it.
insert into payment_claim (channel, transaction_id, order_no)
select * from unnest(:channels::text[], :transaction_ids::text[], :order_nos::text[]) as p (channel, transaction_id, order_no)
order by channel, transaction_id;

-- name: keep_parcels(order_nos, express_codes, waybill_nos, shipment_ids, parcel_nos, parcel_counts, statuses, ats)!
insert into parcel (order_no, express_code, waybill_no, shipment_id, parcel_no, parcel_count, status, at)
select * from unnest(:order_nos::text[], :express_codes::text[], :waybill_nos::text[], :shipment_ids::text[],
                     :parcel_nos::int[], :parcel_counts::int[], :statuses::text[], :ats::timestamptz[])
on conflict (order_no, express_code, waybill_no) do update set status = excluded.status, at = excluded.at;

-- name: remember(order_nos, event_ids, outcomes)!
update inbox i set outcome = r.outcome
from unnest(:order_nos::text[], :event_ids::text[], :outcomes::text[]) as r (order_no, event_id, outcome)
where (i.order_no, i.event_id) = (r.order_no, r.event_id);

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

-- name: reserve(source, external_order_id, order_no, body_hash)^
insert into reservation (source, external_order_id, order_no, body_hash)
values (:source, :external_order_id, :order_no, :body_hash)
on conflict (source, external_order_id) do nothing
returning order_no;

-- name: reserved(source, external_order_id)^
select order_no, body_hash from reservation
where source = :source and external_order_id = :external_order_id;

-- name: create_order(order_no, amount_fen, currency, source, external_order_id, items, receiver, now)!
insert into orders (order_no, status, version, amount_fen, currency, source, external_order_id, items, receiver,
                    created_at, updated_at)
values (:order_no, 'pending', 1, :amount_fen, :currency, :source, :external_order_id, :items::text::json,
        :receiver::text::json, :now, :now);

-- name: log_reservation(order_no, event_id, actor, now, traceparent)!
insert into order_log (order_no, version, "from", "to", event, event_id, type, actor, occurred_at, recorded_at, traceparent)
values (:order_no, 1, null, 'pending', 'reserved', :event_id, 'reserve', :actor, :now, :now, :traceparent);

-- name: ensure_partitions(first_month, last_month)!
select ensure_partitions(:first_month, :last_month);
