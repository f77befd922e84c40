-- name: stage(order_nos, topics, event_ids, occurred_ats, traceparents, bodies, records)!
-- The ids follow the order of the arrays, which is the order in which things happened. unnest fills the shorter arrays
-- up with nulls; the time that is missing is the first one. One notification per transaction, however many rows.
with staged as (
    insert into outbox (order_no, topic, event_id, occurred_at, traceparent, body, record)
    select order_no, topic, event_id, coalesce(occurred_at, (:occurred_ats::timestamptz[])[1]), traceparent, body,
           record::json
    from unnest(:order_nos::text[], :topics::text[], :event_ids::text[], :occurred_ats::timestamptz[],
                :traceparents::text[], :bodies::bytea[], :records::text[])
        with ordinality as m (order_no, topic, event_id, occurred_at, traceparent, body, record, n)
    order by n
)
select pg_notify('outbox', '');

-- name: lead()$
-- 7233002 names the relay's lock; it is held by the session, so a dead leader loses it with its connection.
select pg_try_advisory_lock(7233002);

-- name: pending(mark, held, most)
-- No cursor: ids are drawn before they are committed, so "id > the last one seen" loses rows. Nothing can come at or
-- below the mark.
select id, order_no, topic, event_id, occurred_at, traceparent, body, record
from outbox o
where id > :mark
  and topic <> all(:held::text[])
  and not exists (select from outbox_parked p where p.order_no = o.order_no)
order by id
limit :most;

-- name: published(ids)!
delete from outbox where id = any(:ids::bigint[]);

-- name: park(order_no, outbox_id, reason)!
insert into outbox_parked (order_no, outbox_id, reason) values (:order_no, :outbox_id, :reason)
on conflict (order_no) do nothing;
