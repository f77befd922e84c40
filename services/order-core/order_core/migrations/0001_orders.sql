-- The rules of the house, held by the database too: a bug above may fail, it may not corrupt.
-- Every order_no compares bytewise: it starts with its time, and ranges of it are months.

create table orders (
    order_no text collate "C" primary key,
    status text not null constraint status_is_known check (status in (
        'pending', 'paid', 'shipping', 'shipped', 'delivered', 'pending_settlement', 'completed',
        'closed', 'refunding', 'refunded')),
    version int not null constraint version_counts_from_one check (version >= 1),
    amount_fen bigint not null constraint amount_is_positive check (amount_fen > 0),
    currency text not null,
    channel text,
    mchid text,
    before_refund text,
    source text not null,
    external_order_id text not null,
    items json not null,
    receiver json not null,  -- personal data: leaves this table only towards the warehouse
    created_at timestamptz not null,
    updated_at timestamptz not null,
    completed_at timestamptz,
    constraint completed_says_when check ((status = 'completed') <= (completed_at is not null)),
    constraint paid_says_by_whom check (status in ('pending', 'closed', 'refunding', 'refunded') or channel is not null)
) with (fillfactor = 80);  -- room for HOT updates: what changes with the status is in no index

-- A shop's retry gets the same order_no. Not keyed by order_no on purpose: it is what finds the order_no.
create table reservation (
    source text not null,
    external_order_id text not null,
    order_no text collate "C" not null,
    body_hash bytea not null,
    constraint a_shop_order_is_reserved_once primary key (source, external_order_id)
);

-- One channel transaction pays one order, ever. Not keyed by order_no for the same kind of reason.
create table payment_claim (
    channel text not null,
    transaction_id text not null,
    order_no text collate "C" not null references orders,
    constraint a_transaction_pays_one_order primary key (channel, transaction_id)
);

create table payment (
    order_no text collate "C" not null references orders,
    channel text not null,
    transaction_id text not null,
    mchid text not null,
    amount_fen bigint not null constraint paid_is_positive check (amount_fen > 0),
    currency text not null,
    paid_at timestamptz not null,
    applied boolean not null,
    constraint a_transaction_is_noted_once primary key (order_no, channel, transaction_id)
);
-- the second payment of an order is the desk's business and never applied beside the first
create unique index one_applied_payment_per_order on payment (order_no) where applied;

create table shipment (
    order_no text collate "C" not null references orders,
    shipment_id text not null,
    warehouse text not null,
    express_code text not null,
    created_at timestamptz not null,
    constraint an_order_is_shipped_once primary key (order_no)  -- the truth behind lock:ship:{order_no}
);

create table parcel (
    order_no text collate "C" not null references orders,
    express_code text not null,
    waybill_no text not null,
    shipment_id text not null,
    parcel_no int not null,
    parcel_count int not null,
    status text not null,
    at timestamptz not null,
    constraint a_label_is_one_parcel primary key (order_no, express_code, waybill_no)
);

-- Which events have been taken in. Only `applied` makes a repeat a duplicate.
create table inbox (
    order_no text collate "C" not null,
    event_id text not null,
    outcome text not null default 'applied'
        constraint outcome_is_known check (outcome in ('applied', 'waiting', 'parked')),
    received_at timestamptz not null default now(),
    constraint an_event_counts_once primary key (order_no, event_id)
) partition by range (order_no);

create table order_log (
    order_no text collate "C" not null,
    version int not null,
    "from" text,  -- null for version 1: the order was reserved
    "to" text not null,
    event text not null,
    event_id text not null,
    type text not null,
    actor text not null,
    occurred_at timestamptz not null,
    recorded_at timestamptz not null default now(),
    traceparent text,
    detail json,
    constraint history_has_no_branches primary key (order_no, version),
    constraint an_event_moves_an_order_once unique (order_no, event_id),
    constraint only_the_first_comes_from_nowhere check ((version = 1) = ("from" is null))
) partition by range (order_no);

-- Events that came before their predecessor, until it comes or 15 minutes are over.
create table waiting (
    order_no text collate "C" not null references orders,
    event_id text not null,
    type text not null,
    actor text not null,
    occurred_at timestamptz not null,
    traceparent text,
    body bytea not null,
    since timestamptz not null default now(),
    constraint an_event_waits_once primary key (order_no, event_id)
);

-- The desk: what a person should see. No foreign key: that the order is unknown is one of the kinds.
create table anomaly (
    order_no text collate "C" not null,
    event_id text not null,
    kind text not null,
    money_fen bigint not null,
    evidence json not null,
    seen int not null default 1,
    raised_at timestamptz not null default now(),
    resolved_at timestamptz,
    resolution text,
    constraint an_event_is_parked_once primary key (order_no, event_id)
);

-- The final answer to a command, kept in the transaction of its effect.
create table idempotency (
    caller text not null,
    route text not null,
    key text not null,
    body_hash bytea not null,
    status int not null,
    answer bytea not null,
    created_at timestamptz not null default now(),
    constraint a_key_has_one_answer primary key (caller, route, key)
);

-- Every attempt at a state-changing request, for the patrol (SHIP-2).
create table access_log (
    order_no text collate "C" not null,
    request_id text not null,
    route text not null,
    caller text not null,
    status int not null,
    at timestamptz not null default now(),
    primary key (order_no, request_id)
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

-- A partition of the inbox and of the log per month of order_no (yymm...). There is no default partition: it would
-- have to be scanned and locked for every new month. Owner's rights, so that the service may run it daily.
create function ensure_partitions(first_month date, last_month date) returns void
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    month date := date_trunc('month', first_month);
    parent text;
    partition text;
begin
    while month <= last_month loop
        foreach parent in array array['inbox', 'order_log'] loop
            partition := format('%s_%s', parent, to_char(month, 'YYMM'));
            if to_regclass(partition) is null then  -- even "if not exists" would lock the parent
                execute format('create table %I partition of %I for values from (%L) to (%L)', partition, parent,
                               to_char(month, 'YYMM'), to_char(month + interval '1 month', 'YYMM'));
            end if;
        end loop;
        month := month + interval '1 month';
    end loop;
end $$;

select ensure_partitions((now() - interval '1 month')::date, (now() + interval '3 months')::date);

-- The service may add history and never rewrite it.
grant usage on schema public to order_core_app;
grant select, insert on orders, reservation, payment_claim, payment, shipment, parcel, inbox, order_log, waiting,
    anomaly, idempotency, access_log, outbox, outbox_parked to order_core_app;
grant update on orders, payment, parcel, anomaly to order_core_app;
grant update (status, answer) on idempotency to order_core_app;
grant update (since) on waiting to order_core_app;  -- which "for update" asks for; nothing rewrites it
grant update (outcome) on inbox to order_core_app;
grant delete on waiting, outbox to order_core_app;
grant usage on all sequences in schema public to order_core_app;
revoke execute on function ensure_partitions from public;
grant execute on function ensure_partitions to order_core_app;
