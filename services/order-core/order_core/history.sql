-- name: order_by_number(order_no)^
select order_no, status, version, amount_fen, currency, channel, mchid, source, external_order_id,
       items::text as items, receiver::text as receiver, created_at, updated_at, completed_at
from orders where order_no = :order_no;

-- name: log_of(order_no)
select version, "from", "to", event, event_id, type, actor, occurred_at, recorded_at, traceparent, detail::text as detail
from order_log where order_no = :order_no order by version;

-- name: anomalies_of(order_no)
select event_id, kind, money_fen, seen, raised_at, resolved_at, resolution
from anomaly where order_no = :order_no order by raised_at;

-- name: shipment_of(order_no)^
select shipment_id, warehouse, express_code, created_at from shipment where order_no = :order_no;
