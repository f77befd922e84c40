-- name: request_shipments(order_nos, shipment_ids, warehouses, express_codes, requests, traceparents, requested_ats)
-- What conflicts is a repeat, or a second shipment for its order: the caller tells them apart.
with requested as (
    insert into shipment (order_no, shipment_id, warehouse, express_code, request, traceparent, requested_at)
    select order_no, shipment_id, warehouse, express_code, request::jsonb, traceparent, requested_at
    from unnest(:order_nos::text[], :shipment_ids::text[], :warehouses::text[], :express_codes::text[],
                :requests::text[], :traceparents::text[], :requested_ats::timestamptz[])
        as r (order_no, shipment_id, warehouse, express_code, request, traceparent, requested_at)
    order by order_no, shipment_id
    on conflict do nothing
    returning order_no, shipment_id, requested_at
), timed as (
    insert into shipment_timer (shipment_id, order_no, due_at)
    select shipment_id, order_no, requested_at from requested
)
select shipment_id from requested;

-- name: known_shipments(order_nos, shipment_ids)
select s.shipment_id
from unnest(:order_nos::text[], :shipment_ids::text[]) as r (order_no, shipment_id)
join shipment s using (order_no, shipment_id);

-- name: claim_shipments(now, lease_until, most)
-- A worker that dies with its claim costs the lease: then the call is repeated with the same key.
with due as (
    select shipment_id from shipment_timer
    where due_at <= :now::timestamptz
    order by due_at
    limit :most
    for update skip locked
), claimed as (
    update shipment_timer t set due_at = :lease_until::timestamptz, attempts = attempts + 1
    from due where t.shipment_id = due.shipment_id
    returning t.order_no, t.shipment_id, t.attempts
)
select s.order_no, s.shipment_id, s.warehouse, s.express_code, s.request::text as request, s.traceparent, c.attempts
from claimed c join shipment s using (order_no, shipment_id)
where s.status = 'requested';

-- name: postpone_shipment(shipment_id, due_at)!
update shipment_timer set due_at = :due_at::timestamptz where shipment_id = :shipment_id;

-- name: finish_shipment(order_no, shipment_id, status, shipment_no, refusal, finished_at)
-- Nothing comes back when another worker, whose lease had run out meanwhile, was first.
with finished as (
    update shipment
    set status = :status, shipment_no = :shipment_no, refusal = :refusal, finished_at = :finished_at::timestamptz,
        request = null
    where order_no = :order_no and shipment_id = :shipment_id and status = 'requested'
    returning shipment_id
), untimed as (
    delete from shipment_timer t using finished f where t.shipment_id = f.shipment_id
)
select shipment_id from finished;

-- name: follow(order_nos, express_codes, waybill_nos, shipment_ids, warehouses, label_ats, phone_tails, traceparents, due_ats)
-- A parcel is followed once, whoever tells of it and however often.
with told as (
    select distinct on (order_no, express_code, waybill_no) *
    from unnest(:order_nos::text[], :express_codes::text[], :waybill_nos::text[], :shipment_ids::text[],
                :warehouses::text[], :label_ats::timestamptz[], :phone_tails::text[], :traceparents::text[],
                :due_ats::timestamptz[])
        as p (order_no, express_code, waybill_no, shipment_id, warehouse, label_at, phone_tail, traceparent, due_at)
    order by order_no, express_code, waybill_no
), followed as (
    insert into parcel (order_no, express_code, waybill_no, shipment_id, warehouse, label_at, phone_tail, traceparent)
    select order_no, express_code, waybill_no, shipment_id, warehouse, label_at, phone_tail, traceparent from told
    on conflict (order_no, express_code, waybill_no) do nothing
    returning order_no, express_code, waybill_no
), timed as (
    insert into waybill_timer (express_code, waybill_no, due_at)
    select express_code, waybill_no, min(due_at)
    from followed join told using (order_no, express_code, waybill_no)
    group by express_code, waybill_no
    order by express_code, waybill_no
    on conflict (express_code, waybill_no) do nothing
)
select order_no, express_code, waybill_no from followed;

-- name: follow_again(order_no, express_code, waybill_no, now, due_at)!
-- Given up is no fact about the parcel: its status comes back with the courier's next answer, which tells its whole way.
with again as (
    update parcel
    set followed_since = :now::timestamptz, finished_at = null,
        status = case status when 'exhausted' then 'label_printed' else status end
    where order_no = :order_no and express_code = :express_code and waybill_no = :waybill_no
      and status not in ('delivered', 'returned')
    returning express_code, waybill_no
)
insert into waybill_timer as t (express_code, waybill_no, due_at)
select express_code, waybill_no, :due_at::timestamptz from again
on conflict (express_code, waybill_no) do update set due_at = least(t.due_at, excluded.due_at), failures = 0;

-- name: claim_waybills(now, lease_until, most)
with due as (
    select express_code, waybill_no, due_at from waybill_timer
    where due_at <= :now::timestamptz
    order by due_at
    limit :most
    for update skip locked
), claimed as (
    update waybill_timer t set due_at = :lease_until::timestamptz
    from due where (t.express_code, t.waybill_no) = (due.express_code, due.waybill_no)
    returning t.express_code, t.waybill_no, t.failures, due.due_at as was_due_at
)
select c.failures, c.was_due_at, p.*
from claimed c join parcel p using (express_code, waybill_no)
order by c.was_due_at, p.order_no;

-- name: lock_parcels(express_code, waybill_no)
select * from parcel
where express_code = :express_code and waybill_no = :waybill_no and finished_at is null
order by order_no
for update;

-- name: record_parcel(order_no, express_code, waybill_no, status, status_at, picked_up_at, silent_at, finished_at, answered_at, answered_by, recognised_as)!
update parcel
set status = :status, status_at = :status_at::timestamptz, picked_up_at = :picked_up_at::timestamptz,
    silent_at = coalesce(silent_at, :silent_at::timestamptz), finished_at = :finished_at::timestamptz,
    answered_at = coalesce(:answered_at::timestamptz, answered_at), answered_by = coalesce(:answered_by, answered_by),
    recognised_as = :recognised_as
where order_no = :order_no and express_code = :express_code and waybill_no = :waybill_no;

-- name: record_scans(order_no, express_code, waybill_no, ats, codes, statuses, places, texts, courier, told_at)!
insert into parcel_scan (order_no, express_code, waybill_no, at, code, status, place, text, courier, told_at)
select :order_no, :express_code, :waybill_no, at, code, status, place, text, :courier, :told_at::timestamptz
from unnest(:ats::timestamptz[], :codes::text[], :statuses::text[], :places::text[], :texts::text[])
    as s (at, code, status, place, text)
on conflict do nothing;

-- name: postpone_waybill(express_code, waybill_no, due_at, failures)!
update waybill_timer set due_at = :due_at::timestamptz, failures = :failures
where express_code = :express_code and waybill_no = :waybill_no;

-- name: stop_following(express_code, waybill_no)!
delete from waybill_timer where express_code = :express_code and waybill_no = :waybill_no;

-- name: parcel_of_waybill(express_code, waybill_no)^
-- The newest, should the courier have used the number again.
select * from parcel
where express_code = :express_code and waybill_no = :waybill_no
order by label_at desc
limit 1;

-- name: scans_of_parcel(order_no, express_code, waybill_no)
select at, status, place, text from parcel_scan
where order_no = :order_no and express_code = :express_code and waybill_no = :waybill_no
order by at;
