-- name: order_by_number(order_no)^
select order_no, status, version, amount_fen, currency, channel, mchid, source, external_order_id,
       items::text as items, receiver::text as receiver, created_at,
       (select recorded_at from order_log l where (l.order_no, l.version) = (o.order_no, o.version)) as updated_at,
       completed_at
from orders o where order_no = :order_no;

-- name: page(status, source, after, most, looked_at)
-- No index knows the status or the source: both would cost every order's every step. A page looks at so many orders
-- behind `after`, newest first, and may be short; where it stopped looking is where the next one goes on.
select order_no, status, version, amount_fen, currency, channel, mchid, source, external_order_id,
       created_at,
       (select recorded_at from order_log l where (l.order_no, l.version) = (newest.order_no, newest.version)) as updated_at,
       completed_at
from (
    select * from orders
    where :after::text is null or order_no < :after
    order by order_no desc
    limit :looked_at
) newest
where (:status::text is null or status = :status) and (:source::text is null or source = :source)
order by order_no desc
limit :most;

-- name: further(after, looked_at)$
-- Where a short page stopped looking; null if it has seen the oldest order.
select order_no from orders
where :after::text is null or order_no < :after
order by order_no desc
offset :looked_at - 1
limit 1;

-- name: log_of(order_no)
select version, "from", "to", event, event_id, type, actor, occurred_at, recorded_at, traceparent, detail::text as detail
from order_log where order_no = :order_no order by version;

-- name: anomalies_of(order_no)
select id, event_id, type, kind, money_fen, seen, raised_at, resolved_at, resolved_by, resolution
from anomaly where order_no = :order_no order by raised_at;

-- name: waiting_of(order_no)
select event_id, type, since from waiting where order_no = :order_no order by since, event_id;

-- name: shipment_of(order_no)^
select shipment_id, warehouse, express_code, created_at from shipment where order_no = :order_no;
