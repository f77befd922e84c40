-- name: claim(order_nos, event_ids)
-- Dedup is this insert, not a question asked before it. What waits or was parked is decided anew.
-- The keys come sorted: two batches that share some cannot deadlock.
insert into inbox (order_no, event_id)
select * from unnest(:order_nos::text[], :event_ids::text[])
on conflict (order_no, event_id) do update set outcome = 'applied' where inbox.outcome <> 'applied'
returning order_no, event_id;
