-- name: claim(order_nos, event_ids)
-- Dedup is this insert, not a question asked before it. What waits or was parked is decided anew.
-- The keys come sorted: two batches that share some cannot deadlock.
insert into inbox (order_no, event_id)
select * from rows from (json_array_elements_text(:order_nos), json_array_elements_text(:event_ids))
on conflict (order_no, event_id) do update set outcome = 'applied' where inbox.outcome <> 'applied'
returning order_no, event_id;
