-- name: claim(order_nos, event_ids, body_hashes)
-- The shared claim of orderloop/inbox.sql, and what tells the bodies of foreign events apart. Dedup is this insert. The
-- other way round: returned is what had been applied before, which mostly is nothing.
with claimed as (
    insert into inbox (order_no, event_id, body_hash)
    select * from rows from (json_array_elements_text(:order_nos), json_array_elements_text(:event_ids),
                             unnest(:body_hashes::bytea[]))
    on conflict (order_no, event_id) do update set outcome = 'applied' where inbox.outcome <> 'applied'
    returning order_no, event_id
)
select order_no, event_id
from rows from (json_array_elements_text(:order_nos), json_array_elements_text(:event_ids)) as asked (order_no, event_id)
where (select count(*) from claimed) < json_array_length(:order_nos)
  and (order_no, event_id) not in (select order_no, event_id from claimed);

-- name: body_hashes(order_nos, event_ids)
select order_no, event_id, body_hash
from inbox
where (order_no, event_id) in (select * from unnest(:order_nos::text[], :event_ids::text[]))
  and body_hash is not null;

-- name: lock_orders(order_nos)
-- Sorted, so that two batches which share orders cannot deadlock.
select order_no, status, version, amount_fen, currency, channel, mchid, before_refund
from orders
where order_no = any(array(select json_array_elements_text(:order_nos)))
order by order_no
for update;

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
-- Which order a channel transaction has paid, or goes back from. Two racing workers are told apart by the primary key.
select channel, transaction_id, order_no
from payment_claim
where (channel, transaction_id) in (
    select * from rows from (json_array_elements_text(:channels), json_array_elements_text(:transaction_ids)));

-- name: record(changes, now)!
-- Order, money and log move together. An order that changed several times in the batch ends at its last version. An
-- event that stood at the desk and has now been applied closes its own anomaly, and those that it makes pointless. An
-- applied payment is claimed: a transaction that another order holds violates the key, the batch is decided anew and
-- sees it. A payment that stood at the desk may have become the applied one; if a refund of it came to nothing, its
-- order holds it already, and a revival alone has to look.
with change as (
    select * from unnest(:changes::order_move[])
), moved as (
    update orders o
    set status = c.after, version = c.version, channel = c.channel, mchid = c.mchid, before_refund = c.before_refund,
        completed_at = case when c.after = 'completed' and o.completed_at is null then :now else o.completed_at end
    from change c
    where o.order_no = c.order_no and c.is_last
), mended as (
    update anomaly a set resolved_at = :now, resolution = 'the event was applied', resolved_by = c.actor
    from change c
    where a.order_no = c.order_no and a.resolved_at is null
      and (a.event_id = c.event_id
           or a.kind = c.ends
              -- a settlement's have neither
              and (a.evidence->>'channel', a.evidence->>'transaction_id')
                  is not distinct from (c.detail::json->>'channel', c.detail::json->>'transaction_id')
              and (c.event <> 'part_refund_succeeded'
                   or a.evidence->>'out_refund_no' = c.detail::json->>'out_refund_no'))
), claimed as (
    insert into payment_claim (channel, transaction_id, order_no)
    select c.channel, c.transaction_id, c.order_no
    from change c
    where c.transaction_id is not null
      and (c.event <> 'revived'
           or not exists (select from payment_claim held
                          where (held.channel, held.transaction_id, held.order_no)
                              = (c.channel, c.transaction_id, c.order_no)))
    order by 1, 2
), noted as (
    insert into payment (order_no, channel, transaction_id, mchid, amount_fen, currency, paid_at, applied)
    select order_no, channel, transaction_id, mchid, paid_fen, currency, to_timestamp(paid_at), true
    from change
    where transaction_id is not null
    on conflict (order_no, channel, transaction_id) do update
    set applied = true, amount_fen = excluded.amount_fen, currency = excluded.currency
)
insert into order_log (order_no, version, "from", "to", event, event_id, type, actor, occurred_at, recorded_at,
                       traceparent, detail)
select order_no, version, before, after, event, event_id, type, actor, to_timestamp(occurred_at), :now, traceparent,
       detail::json
from change;

-- name: note_payments(payments)!
-- Those that stand at the desk. What is known of them already stays.
insert into payment (order_no, channel, transaction_id, mchid, amount_fen, currency, paid_at, applied)
select * from unnest(:payments::payment_note[])
on conflict (order_no, channel, transaction_id) do nothing;

-- name: keep_refunds(order_nos, out_refund_nos, channels, transaction_ids, amounts, states, wholes, reasons, refund_ids, now)!
-- Money that is asked to go back is claimed like money that pays: the key that keeps a transaction from paying two orders
-- keeps it from paying one and going back from another.
with kept as (
    select * from unnest(:order_nos::text[], :out_refund_nos::text[], :channels::text[], :transaction_ids::text[],
                         :amounts::bigint[], :states::text[], :wholes::boolean[], :reasons::text[], :refund_ids::text[])
        as r (order_no, out_refund_no, channel, transaction_id, amount_fen, state, whole, reason, refund_id)
), claimed as (
    insert into payment_claim (channel, transaction_id, order_no)
    select distinct channel, transaction_id, order_no
    from kept k
    where state in ('held', 'asked')
      and not exists (select from payment_claim held
                      where (held.channel, held.transaction_id, held.order_no)
                          = (k.channel, k.transaction_id, k.order_no))
    order by channel, transaction_id
)
insert into refund (order_no, out_refund_no, channel, transaction_id, amount_fen, state, whole, reason, refund_id,
                    asked_at, changed_at)
select kept.*, :now, :now from kept
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

-- name: remember(order_nos, event_ids, outcomes)!
update inbox i set outcome = r.outcome
from unnest(:order_nos::text[], :event_ids::text[], :outcomes::text[]) as r (order_no, event_id, outcome)
where (i.order_no, i.event_id) = (r.order_no, r.event_id);

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
                    created_at)
values (:order_no, 'pending', 1, :amount_fen, :currency, :source, :external_order_id, :items::text::json,
        :receiver::text::json, :now);

-- name: log_reservation(order_no, event_id, actor, now, traceparent)!
insert into order_log (order_no, version, "from", "to", event, event_id, type, actor, occurred_at, recorded_at, traceparent)
values (:order_no, 1, null, 'pending', 'reserved', :event_id, 'reserve', :actor, :now, :now, :traceparent);

-- name: ensure_partitions(first_month, last_month)!
select ensure_partitions(:first_month, :last_month);
