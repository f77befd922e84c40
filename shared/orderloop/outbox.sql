-- name: stage(order_nos, topics, event_ids, occurred_ats, traceparents, bodies, records)!
-- The ids follow the order of the arrays, which is the order in which things happened. Shorter ones are filled up with
-- nulls; the time that is missing is the first one. One notification per transaction, however many rows.
with staged as (
    insert into outbox (order_no, topic, event_id, occurred_at, traceparent, body, record)
    select order_no, topic, event_id, coalesce(occurred_at, (:occurred_ats::timestamptz[])[1]), traceparent, body,
           record::json
    from rows from (json_array_elements_text(:order_nos), json_array_elements_text(:topics),
                    json_array_elements_text(:event_ids), unnest(:occurred_ats::timestamptz[]),
                    json_array_elements_text(:traceparents), unnest(:bodies::bytea[]), unnest(:records::text[]))
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
