-- What the invariants ask the databases. Every query runs in one snapshot per database and only reads.

-- name: snapshot()$
-- The first statement of a repeatable-read transaction fixes what all later ones see.
select pg_current_snapshot()::text;

-- name: scope()
-- How many claims, changes, orders, orders that have left, and applied payments there are to be checked.
select (select count(*) from inbox where outcome = 'applied') as i1,
       (select count(*) from order_log) as i2,
       (select count(*) from orders) as i3,
       (select count(distinct order_no) from order_log
        where "to" in ('shipping', 'shipped', 'delivered', 'pending_settlement', 'completed')) as i4,
       (select count(*) from order_log) as i5,
       (select count(*) from payment where applied) as i14;

-- name: claims_unlike_the_log()
select order_no, event_id, coalesce(i.n, 0) as claimed, coalesce(l.n, 0) as logged
from (select order_no, event_id, count(*) as n from inbox where outcome = 'applied' group by order_no, event_id) i
full join (select order_no, event_id, count(*) as n from order_log group by order_no, event_id) l
    using (order_no, event_id)
where i.n is distinct from 1 or l.n is distinct from 1
order by order_no, event_id;

-- name: broken_steps(befores, events, afters)
-- The arrays are the transition table, one legal step each; '' stands for the nothing before version 1.
with step as (
    select order_no, version, "from" as before, "to" as after, event,
           row_number() over history as nth, lag("to") over history as previous
    from order_log
    window history as (partition by order_no order by version)
), judged as (
    select *, version <> nth as gap, before is distinct from previous as torn,
           (coalesce(before, ''), event, after)
               not in (select * from unnest(:befores::text[], :events::text[], :afters::text[])) as illegal
    from step
)
select order_no, version, before, event, after, nth, previous, gap, torn, illegal
from judged
where gap or torn or illegal
order by order_no, version;

-- name: histories()
select order_no, o.status, o.version, l.status as last_status, l.version as last_version, l.events, l.statuses
from orders o
full join (
    select order_no, max(version) as version, (array_agg("to" order by version desc))[1] as status,
           array_agg(event order by version) as events, array_agg("to" order by version) as statuses
    from order_log
    group by order_no
) l using (order_no)
-- the history of whole months is removed when they are old (docs/runbooks/retention.md)
where l.order_no is not null
   or exists (select from pg_inherits where not inhdetachpending and inhrelid = to_regclass('order_log_' || left(o.order_no, 4)));

-- name: unpaid_orders(statuses)
-- Orders that have ever been in one of these statuses without the applied payment that allows it.
select l.order_no, l.status, o.amount_fen, o.currency, p.amount_fen as paid_fen, p.currency as paid_currency
from (select order_no, min("to") as status from order_log where "to" = any(:statuses::text[]) group by order_no) l
left join orders o using (order_no)
left join payment p on p.order_no = l.order_no and p.applied
where p.order_no is null or (p.amount_fen, p.currency) is distinct from (o.amount_fen, o.currency)
order by l.order_no;

-- name: properly_paid(order_nos)
select o.order_no
from orders o
join payment p on p.order_no = o.order_no and p.applied and (p.amount_fen, p.currency) = (o.amount_fen, o.currency)
where o.order_no = any(:order_nos::text[]);

-- name: completions()
-- How each order became completed; a failed refund only brings it back there.
select order_no, version, event, type, event_id, detail->>'status' as status,
       detail->>'instruction_id' as instruction_id, (detail->>'amount_fen')::bigint as amount_fen
from order_log
where "to" = 'completed' and "from" not in ('completed', 'refunding')
order by order_no, version;

-- name: transactions_applied_twice()
select channel, transaction_id, array_agg(order_no order by order_no) as order_nos
from payment
where applied
group by channel, transaction_id
having count(*) > 1
order by channel, transaction_id;

-- name: claims_unlike_payments()
-- What pays an order, and what was asked to go back from it, is claimed by it; nothing else is. A refund that came to
-- nothing leaves its claim, and was none before there were such claims.
select channel, transaction_id, order_no, p.used is not null as used, c.claimed is not null as claimed
from (
    select channel, transaction_id, order_no, true as used from payment where applied
    union
    select channel, transaction_id, order_no, true from refund where state <> 'closed'
) p
full join (select channel, transaction_id, order_no, true as claimed from payment_claim) c
    using (channel, transaction_id, order_no)
where c.claimed is null
   or p.used is null and (channel, transaction_id, order_no) not in (select channel, transaction_id, order_no from refund)
order by order_no, transaction_id;

-- name: refunds()
-- In payment-callback's database: what the channels have paid back, per order and transaction.
with said as (
    select convert_from(body, 'UTF8')::json as refund
    from callback_memory where topic = 'orderloop.refund-notified.v1'
)
select refund->>'order_no' as order_no, refund->>'channel' as channel, refund->>'transaction_id' as transaction_id,
       sum((refund->>'refund_fen')::bigint)::bigint as refunded_fen
from said
where refund->>'refund_status' = 'SUCCESS'
group by 1, 2, 3
order by 1, 2, 3;

-- name: applied_amounts(order_nos, channels, transaction_ids)
select order_no, channel, transaction_id, amount_fen
from payment
where applied and (order_no, channel, transaction_id) in (
    select * from unnest(:order_nos::text[], :channels::text[], :transaction_ids::text[]));

-- name: changes()
select order_no, version, "from" as before, "to" as after, event_id from order_log;

-- name: requests()
-- What a change asked of other services, by the id that it was published under (order_core/republish.py knows them too).
select order_no,
       case
           when event = 'shipment_accepted' then (detail->>'shipment_id') || ':requested'
           when event in ('receipt_confirmed', 'settlement_retried') then
               (detail->>'instruction_id') || ':requested' || coalesce(':' || nullif(detail->>'asked', '1'), '')
           when event = 'close_requested' then order_no || ':close:' || (detail->>'asked')
           when event in ('refund_requested', 'part_refund_requested') then (detail->>'out_refund_no') || ':requested'
           when event = 'tracking_requested' then
               concat_ws(':', detail->>'express_code', detail->>'waybill_no', 'tracking-requested', version)
       end as event_id
from order_log
where event in ('shipment_accepted', 'receipt_confirmed', 'settlement_retried', 'close_requested', 'refund_requested',
                'part_refund_requested', 'tracking_requested');

-- name: staged()
-- What the relay has not published yet.
select order_no, topic, event_id, body from outbox order by id;

-- name: staged_dead_letters()
-- Named by the topic-partition-offset of the record that could not be used.
select event_id from outbox where record is not null;

-- name: remembered()
select order_no, topic, event_id from callback_memory;

-- name: results()
-- What settlement must have told: where it stands, and that every attempt which another one followed, or is to follow,
-- was refused. What came before the present word of an attempt is not kept.
select order_no, instruction_id || ':' || attempt || ':' || upper(status) as event_id
from settlement where status in ('success', 'failed', 'processing')
union all
select order_no, instruction_id || ':' || refused || ':FAILED'
from settlement, generate_series(1, attempt - (status <> 'retrying')::int) as refused;

-- name: followed()
-- What logistics-poller must have told: labels, refusals, and of each parcel its pickup, where it is, and what was found.
-- The places it has left are not kept, nor is the time of the scan that brought it where it is.
select order_no, shipment_id || ':waybill:' || waybill_no as event_id
from shipment s join parcel p using (order_no, shipment_id)
where s.status = 'accepted'
union all
select order_no, shipment_id || ':shipment_refused' from shipment where status = 'refused'
union all
select order_no, express_code || ':' || waybill_no || ':' || fact
from parcel, unnest(array[
    case when picked_up_at is not null then 'picked_up' end,
    case when silent_at is not null then 'silent' end,
    case when silent_at is not null then 'parcel_silent' end,
    case when status not in ('label_printed', 'picked_up', 'silent') then status end,
    case when status in ('returned', 'exhausted') then 'parcel_' || status end
]) as fact
where fact is not null;

-- name: outcomes()
select order_no, event_id from inbox;

-- name: outcomes_without_their_row()
-- An event that waits stands in `waiting` and nowhere else; one that is parked stands at the desk.
select order_no, event_id, i.outcome, w.order_no is not null as waits, a.order_no is not null as at_the_desk
from inbox i
full join waiting w using (order_no, event_id)
left join anomaly a using (order_no, event_id)
where (coalesce(i.outcome, '') = 'waiting') <> (w.order_no is not null)
   or (i.outcome = 'parked' and a.order_no is null)
order by order_no, event_id;

-- name: taken_from_topics(topics)
-- Commands are claimed in the inbox too, under types that are no topics; so is evidence that a person has applied.
select order_no, event_id from order_log where type = any(:topics::text[])
union
select order_no, event_id
from inbox
left join anomaly a using (order_no, event_id)
where outcome in ('waiting', 'parked') and (a.type is null or a.type = any(:topics::text[]));

-- name: known_facts(event_ids)
select event_id from callback_memory where event_id = any(:event_ids::text[]);

-- name: logged_notices(order_nos, transaction_ids, shapes)
-- Notices that became no event, by what they were about.
select order_nos, transaction_ids, shape
from callback_log
where verdict <> 'refused'
  and (order_nos && :order_nos::text[] or transaction_ids && :transaction_ids::text[] or shape = any(:shapes::text[]));

-- name: facts_of(order_nos)
-- What only a notice can have told: payment-callback learns of refunds, and of lost callbacks, by its own questions too.
with told as (
    select order_no, event_id, topic, body, 'callback_memory' as place from callback_memory
    where order_no = any(:order_nos::text[])
    union all
    select order_no, event_id, topic, body, 'outbox' from outbox where order_no = any(:order_nos::text[])
)
select order_no, event_id, place
from told
where case topic
          when 'orderloop.payment-notified.v1' then convert_from(body, 'UTF8')::json ->> 'source' = 'callback'
          when 'orderloop.refund-notified.v1' then
              not exists (select from errand e where e.order_no = told.order_no and e.kind in ('refund', 'refund_look'))
          else false
      end
order by 1, 2, 3;

-- name: evidenced(order_nos)
-- What the channel itself said when it was asked: a repair, by a person or by policy, may have made it a payment.
select channel || ':' || transaction_id || ':paid' as event_id from callback_missing
where order_no = any(:order_nos::text[]);

-- name: payments_of(order_nos)
select order_no, channel || ':' || transaction_id || ':paid' as event_id, 'payment' as place
from payment
where order_no = any(:order_nos::text[])
order by 1, 2;

-- name: settlements()
select order_no, instruction_id, attempt, amount_fen, status from settlement;

-- name: payouts()
-- An attempt after the first goes to the bank under a reference of its own.
select order_no, instruction_id, receiver, amount_fen, status,
       case when attempt = 1 then instruction_id else instruction_id || '_A' || attempt end as reference
from payout;
