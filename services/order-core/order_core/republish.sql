-- name: changes(since, after_order_no, after_version, most)
-- Reads the log by its key: no index knows when a change was recorded, and this is not done every day. The channel is
-- known from the payment on.
select l.order_no, l.version, l."from", l."to", l.event, l.event_id, l.type, l.actor, l.recorded_at, l.traceparent,
       l.detail::text as detail, o.amount_fen, o.items::text as items, o.receiver::text as receiver,
       case when l.version >= paid.version then o.channel end as channel,
       case when l.version >= paid.version then o.mchid end as mchid
from order_log l
join orders o using (order_no)
left join lateral (
    select min(p.version) as version from order_log p
    where p.order_no = l.order_no and p.event in ('payment_succeeded', 'revived')
) paid on true
where l.recorded_at >= :since and (l.order_no, l.version) > (:after_order_no, :after_version)
order by l.order_no, l.version
limit :most;
