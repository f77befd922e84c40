-- name: add(kinds, keys, order_nos, requests, requested_ats, traceparents)
-- Dedup is this insert; the keys come sorted. What was there before is not returned.
insert into errand (kind, key, order_no, request, requested_at, traceparent)
select kind, key, order_no, request::json, requested_at, traceparent
from unnest(:kinds::text[], :keys::text[], :order_nos::text[], :requests::text[], :requested_ats::timestamptz[],
            :traceparents::text[]) as e (kind, key, order_no, request, requested_at, traceparent)
on conflict (kind, key) do nothing
returning kind, key;

-- name: start_timers(kinds, keys)!
insert into errand_timer (kind, key, due_at) select kind, key, now()
from unnest(:kinds::text[], :keys::text[]) as t (kind, key);

-- name: claim(most, lease)
with due as (
    select kind, key from errand_timer where due_at <= now() order by due_at limit :most for update skip locked
), leased as (
    update errand_timer t set due_at = now() + :lease::interval, attempts = attempts + 1
    from due where (t.kind, t.key) = (due.kind, due.key)
    returning t.kind, t.key, t.attempts
)
select e.kind, e.key, e.order_no, e.request, e.requested_at, e.traceparent, leased.attempts
from leased join errand e using (kind, key)
order by e.requested_at;

-- name: finish(kind, key, outcome)$
-- Nothing is returned when somebody else has finished it.
with over as (delete from errand_timer where kind = :kind and key = :key)
update errand set outcome = :outcome, finished_at = now()
where kind = :kind and key = :key and outcome is null
returning true;

-- name: postpone(kind, key, wait)!
update errand_timer set due_at = now() + :wait::interval where kind = :kind and key = :key;

-- name: open_errands()
select e.kind, count(*) as errands, extract(epoch from now() - min(e.requested_at))::float8 as oldest_seconds
from errand_timer t join errand e using (kind, key)
group by e.kind;

-- name: await_payments(order_nos, channels, mchids, amounts, sinces, traceparents, due_ats)!
insert into awaited_payment (order_no, channel, mchid, amount_fen, pending_since, traceparent, due_at)
select * from unnest(:order_nos::text[], :channels::text[], :mchids::text[], :amounts::bigint[],
                     :sinces::timestamptz[], :traceparents::text[], :due_ats::timestamptz[])
on conflict (order_no) do nothing;

-- name: await_no_more(order_nos)!
delete from awaited_payment where order_no = any(:order_nos::text[]);

-- name: claim_looks(most, lease)
with due as (
    select order_no from awaited_payment where due_at <= now() order by due_at limit :most for update skip locked
)
update awaited_payment a set due_at = now() + :lease::interval, looks = looks + 1
from due where a.order_no = due.order_no
returning a.order_no, a.channel, a.mchid, a.amount_fen, a.pending_since, a.traceparent, a.looks;

-- name: look_again(order_no, due_at)!
update awaited_payment set due_at = :due_at where order_no = :order_no;

-- name: is_remembered(event_id)$
select true from callback_memory where event_id = :event_id;

-- name: add_missing(channel, transaction_id, order_no, amount_fen, paid_at, policy, evidence)$
insert into callback_missing (channel, transaction_id, order_no, amount_fen, paid_at, policy, evidence)
values (:channel, :transaction_id, :order_no, :amount_fen, :paid_at, :policy, :evidence::text::json)
on conflict (channel, transaction_id) do nothing
returning true;

-- name: count_missing()
select channel, policy, count(*) as callbacks from callback_missing group by channel, policy;

-- name: forget(keep, most)$
select forget_errands(:keep::interval, :most::int);
