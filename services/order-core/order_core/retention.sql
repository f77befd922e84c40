-- Run by the owner: the service itself may delete nothing of this. A table is walked once, a piece of it at a time, by
-- where its rows lie: no index is needed for it, and no statement holds many rows for long.

-- name: lead()$
select pg_try_advisory_lock(7233003);

-- name: pages(relation)$
select pg_relation_size(:relation::text::regclass) / current_setting('block_size')::int;

-- name: forget_keys(first, last, before)$
with gone as (
    delete from idempotency where ctid >= :first::tid and ctid < :last::tid and created_at < :before returning 1
) select count(*) from gone;

-- name: old_keys(before)$
select count(*) from idempotency where created_at < :before;

-- name: forget_attempts(first, last, before)$
with gone as (
    delete from access_log where ctid >= :first::tid and ctid < :last::tid and at < :before returning 1
) select count(*) from gone;

-- name: old_attempts(before)$
select count(*) from access_log where at < :before;

-- name: forget_letters(first, last, before)$
with gone as (
    delete from dead_letter where ctid >= :first::tid and ctid < :last::tid and resolved_at < :before returning 1
) select count(*) from gone;

-- name: old_letters(before)$
select count(*) from dead_letter where resolved_at < :before;

-- name: forget_evidence(first, last, before)$
-- That there was an anomaly, and who put it away and why, is no evidence: it stays.
with gone as (
    update anomaly set evidence = '{}'
    where ctid >= :first::tid and ctid < :last::tid and resolved_at < :before and evidence::text <> '{}'
    returning 1
) select count(*) from gone;

-- name: old_evidence(before)$
select count(*) from anomaly where resolved_at < :before and evidence::text <> '{}';

-- name: months()
-- The pieces of the inbox and of the log that there are, one that has been cut off and not yet removed among them.
select c.relname as partition, p.relname as parent, right(c.relname, 4) as month,
       i.inhrelid is not null as attached, coalesce(i.inhdetachpending, false) as pending
from pg_class p
join pg_class c on c.relname ~ ('^' || p.relname || '_[0-9]{4}$') and c.relkind = 'r' and c.relnamespace = p.relnamespace
left join pg_inherits i on i.inhrelid = c.oid
where p.relname in ('inbox', 'order_log') and p.relkind = 'p' and p.relnamespace = 'public'::regnamespace
order by month, parent desc;

-- name: why_kept(month, next_month, finished, untouched_since)$
-- Why the orders of a month may not lose their history yet; null if they may.
select case
    when exists (select from orders where order_no >= :month and order_no < :next_month
                 and status <> all(:finished::text[])) then 'orders are not finished'
    when exists (select from order_log where order_no >= :month and order_no < :next_month
                 and recorded_at >= :untouched_since) then 'orders may still be refunded'
    when exists (select from refund where order_no >= :month and order_no < :next_month
                 and state in ('held', 'asked', 'abnormal')) then 'refunds are not finished'
    when exists (select from anomaly where order_no >= :month and order_no < :next_month
                 and resolved_at is null) then 'anomalies are open'
    when exists (select from outbox where order_no >= :month and order_no < :next_month)
        then 'events are not published'
end;
