-- name: remember(event_ids, order_nos, topics, occurred_ats, traceparents, bodies)
-- Deduplication is this insert, not a question asked before it: it holds for copies in one batch, in two batches and
-- in two processes. The keys come sorted, so two batches that share some cannot deadlock.
insert into callback_memory (event_id, order_no, topic, occurred_at, traceparent, body)
select * from unnest(:event_ids::text[], :order_nos::text[], :topics::text[], :occurred_ats::timestamptz[],
                     :traceparents::text[], :bodies::bytea[])
on conflict (event_id) do nothing
returning event_id;

-- name: log(channels, verdicts, reasons, details, statuses, source_addresses, headers, bodies, shapes, order_nos, transaction_ids, event_ids, trace_ids)!
-- Arrays of arrays must be rectangular in SQL; lists travel as text, split at U+001F, which no identifier holds.
insert into callback_log (channel, verdict, reason, detail, status, source_address, headers, body, shape,
                          order_nos, transaction_ids, event_ids, trace_id)
select channel, verdict, reason, detail, status, source_address, headers::jsonb, body, shape,
       string_to_array(order_nos, E'\x1f'), string_to_array(transaction_ids, E'\x1f'),
       string_to_array(event_ids, E'\x1f'), trace_id
from unnest(:channels::text[], :verdicts::text[], :reasons::text[], :details::text[], :statuses::smallint[],
            :source_addresses::text[], :headers::text[], :bodies::bytea[], :shapes::text[], :order_nos::text[],
            :transaction_ids::text[], :event_ids::text[], :trace_ids::text[])
    with ordinality as l (channel, verdict, reason, detail, status, source_address, headers, body, shape,
                          order_nos, transaction_ids, event_ids, trace_id, n)
order by n;

-- name: search(order_no, transaction_id, channel, verdict, since, until, before_at, before_id, most)
-- Newest first. The body itself stays here: the caller gets its length.
select received_at, id, channel, verdict, reason, detail, status, source_address, headers, octet_length(body) as bytes,
       shape, order_nos, transaction_ids, event_ids, trace_id
from callback_log
where (:order_no::text is null or order_nos[1] = :order_no
       or (cardinality(order_nos) > 1 and order_nos @> array[:order_no]))
  and (:transaction_id::text is null or transaction_ids[1] = :transaction_id
       or (cardinality(transaction_ids) > 1 and transaction_ids @> array[:transaction_id]))
  and (:channel::text is null or channel = :channel)
  and (:verdict::text is null or verdict = :verdict)
  and received_at >= :since::timestamptz
  and received_at < :until::timestamptz
  and (:before_at::timestamptz is null or (received_at, id) < (:before_at, :before_id::bigint))
order by received_at desc, id desc
limit :most;

-- name: ensure_days(days)$
select ensure_callback_log_days(:days::int);

-- name: drop_day(keep)$
-- The oldest day beyond `keep`, or null: see the function.
select drop_callback_log_day(:keep::interval);

-- name: forget(keep, most)$
select forget_callbacks(:keep::interval, :most::int);

-- name: hold(order_no, reason)!
insert into callback_hold (order_no, reason) values (:order_no, :reason) on conflict (order_no) do nothing;

-- name: release(order_no)!
delete from callback_hold where order_no = :order_no;

-- name: holds()
select order_no, reason, placed_at from callback_hold order by order_no;

-- name: remembered(since, until, after_at, after_id, most)
-- Oldest first, page by page.
select event_id, order_no, topic, occurred_at, traceparent, body, received_at
from callback_memory
where received_at >= :since::timestamptz
  and received_at < :until::timestamptz
  and (:after_at::timestamptz is null or (received_at, event_id) > (:after_at, :after_id::text))
order by received_at, event_id
limit :most;

-- name: one(received_at, id)^
select received_at, id, channel, verdict, reason, detail, status, source_address, headers, octet_length(body) as bytes,
       body, shape, order_nos, transaction_ids, event_ids, trace_id
from callback_log
where received_at = :received_at and id = :id;

-- name: keep_certificates(serials, pems)!
insert into platform_certificate (serial, pem) select * from unnest(:serials::text[], :pems::text[])
on conflict (serial) do update set confirmed_at = now();

-- name: certificates()
-- What the channel has no longer listed for a day it has withdrawn; a day, because its machines need not agree at once.
select pem, max(confirmed_at) over () as downloaded_at
from platform_certificate
where confirmed_at > (select max(confirmed_at) from platform_certificate) - interval '1 day'
order by serial;
