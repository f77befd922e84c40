-- logistics-poller's database: shipments that were asked for, parcels that are followed.

-- Which events have been taken in. Only `applied` makes a repeat a duplicate.
create table inbox (
    order_no text collate "C" not null,
    event_id text not null,
    outcome text not null default 'applied'
        constraint outcome_is_known check (outcome in ('applied', 'waiting', 'parked')),
    received_at timestamptz not null default now(),
    constraint an_event_counts_once primary key (order_no, event_id)
);

-- What is to be published, staged in the transaction that made it true. The relay reads it in id order and deletes
-- what Kafka has acknowledged; per order, ids follow the order of the changes because the order's row was locked.
create table outbox (
    id bigint generated always as identity primary key,
    order_no text collate "C" not null,
    topic text not null,
    event_id text not null,
    occurred_at timestamptz not null,
    traceparent text,
    body bytea not null,
    -- only for a dead letter: the original key and headers, base64 (their bytes may be no text at all)
    record json
);

-- An order whose next event the broker refuses for good (too large): it waits for a person, the queue does not.
create table outbox_parked (
    order_no text collate "C" primary key,
    outbox_id bigint not null,
    reason text not null,
    parked_at timestamptz not null default now()
);

-- A shipment that order-core asked for. order-core moves it in, the warehouse's answer moves it on.
create table shipment (
    order_no text collate "C" not null,
    shipment_id text collate "C" not null,
    warehouse text not null,
    express_code text not null,
    status text not null default 'requested'
        constraint shipment_status_is_known check (status in ('requested', 'accepted', 'refused')),
    -- items and receiver, for the call that is repeated until it is answered; gone with the answer (personal data)
    request jsonb,
    shipment_no text,
    refusal text,
    traceparent text,
    requested_at timestamptz not null,
    finished_at timestamptz,
    primary key (order_no, shipment_id),
    constraint a_request_is_kept_until_it_is_answered check ((status = 'requested') = (request is not null))
);

-- One order, one shipment under way or made: the rule behind every lock and every idempotency key.
create unique index one_active_shipment_per_order on shipment (order_no) where status <> 'refused';

-- When a shipment is due for a call. A small table of its own: rows leave it with the answer.
create table shipment_timer (
    shipment_id text collate "C" primary key,
    order_no text collate "C" not null,
    due_at timestamptz not null,
    attempts int not null default 0
);
create index shipment_due on shipment_timer (due_at);

-- A parcel with a printed label. No index on what changes with its status.
create table parcel (
    order_no text collate "C" not null,
    express_code text collate "C" not null,
    waybill_no text collate "C" not null,
    shipment_id text not null,
    warehouse text not null,
    label_at timestamptz not null,
    status text not null default 'label_printed'
        constraint parcel_status_is_known check (status in ('label_printed', 'picked_up', 'in_transit', 'delivering',
            'delivered', 'exception', 'returned', 'silent', 'exhausted')),
    status_at timestamptz,
    picked_up_at timestamptz,
    silent_at timestamptz,
    finished_at timestamptz, -- not followed any more: delivered, returned or exhausted
    answered_at timestamptz, -- the last ask that was answered at all, be it with "nothing yet"
    answered_by text,
    recognised_as text,
    phone_tail text constraint phone_tail_is_four_digits check (phone_tail ~ '^[0-9]{4}$'),
    traceparent text,
    primary key (order_no, express_code, waybill_no)
) with (fillfactor = 80);
-- Look-ups and answers name the waybill; orders packed together share it.
create index parcel_by_waybill on parcel (express_code, waybill_no);

create table parcel_scan (
    order_no text collate "C" not null,
    express_code text collate "C" not null,
    waybill_no text collate "C" not null,
    at timestamptz not null,
    code text not null,
    status text,
    place text,
    text text not null,
    courier text not null, -- who told it
    told_at timestamptz not null,
    primary key (order_no, express_code, waybill_no, at, code),
    foreign key (order_no, express_code, waybill_no) references parcel
);

-- When a waybill is due to be asked for; one row however many orders share it, because its courier counts asks by
-- waybill. A claim moves due_at ahead by a lease, so a poller that dies costs the lease and no extra ask.
create table waybill_timer (
    express_code text collate "C" not null,
    waybill_no text collate "C" not null,
    due_at timestamptz not null,
    failures int not null default 0, -- asks in a row that nobody answered
    primary key (express_code, waybill_no)
);
create index waybill_due on waybill_timer (due_at);

grant usage on schema public to logistics_app;
grant select, insert on inbox to logistics_app;
grant update (outcome) on inbox to logistics_app;
grant select, insert, delete on outbox to logistics_app;
grant select, insert on outbox_parked to logistics_app;
grant select, insert, update on shipment, parcel to logistics_app;
grant select, insert on parcel_scan to logistics_app;
grant select, insert, update, delete on shipment_timer, waybill_timer to logistics_app;
