-- name: cited()
-- Orders with an open anomaly that payment-callback brought: its callbacks are the evidence. The first one says why.
select distinct on (order_no) order_no, id, kind
from anomaly
where resolved_at is null and actor = '/payment-callback'
order by order_no, id;
