-- What the payment channels told us. The log may be forgotten after days, the memory of what was seen may not.

-- Every attempt to tell us something, refused ones too (those within a budget). Partitioned by day, so that bodies
-- leave by dropping a table; there is no DEFAULT partition, which every drop would have to scan.
create sequence callback_log_id;  -- identity columns of partitioned tables need PostgreSQL 17

create table callback_log (
    received_at timestamptz not null default now(),
    id bigint not null default nextval('callback_log_id'),
    channel text not null,
    verdict text not null
        constraint verdict_is_known check (verdict in ('accepted', 'duplicate', 'noted', 'refused')),
    reason text,  -- why it was refused, or why it became nothing
    detail text,
    status smallint not null,  -- the answer's
    source_address text,
    headers jsonb not null,
    body bytea,  -- null: too large, so never read
    shape text,
    order_nos text[] not null,  -- a combined notice speaks of many
    transaction_ids text[] not null,
    event_ids text[] not null,  -- what it became
    trace_id text,
    constraint a_refusal_has_its_reason check (verdict <> 'refused' or reason is not null),
    primary key (received_at, id)
) partition by range (received_at);

-- Nearly every notice speaks of one order: the cheap index serves those, the dear one the combined few.
create index callback_log_order on callback_log ((order_nos[1]));
create index callback_log_orders on callback_log using gin (order_nos) where cardinality(order_nos) > 1;
create index callback_log_transaction on callback_log ((transaction_ids[1]));
create index callback_log_transactions on callback_log using gin (transaction_ids)
    where cardinality(transaction_ids) > 1;

-- Runs with the owner's rights, for the service may insert into partitions and not create them.
create function ensure_callback_log_days(days int) returns int
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    first_day date := (now() at time zone 'UTC')::date - 1;  -- yesterday: a transaction may straddle midnight
    day date;
    made int := 0;
begin
    for day in select first_day + n from generate_series(0, days + 1) as n loop
        if to_regclass(format('public.callback_log_%s', to_char(day, 'YYYYMMDD'))) is null then
            execute format('create table if not exists public.callback_log_%s partition of public.callback_log '
                           'for values from (%L) to (%L)',
                           to_char(day, 'YYYYMMDD'), day || ' 00:00:00+00', (day + 1) || ' 00:00:00+00');
            made := made + 1;
        end if;
    end loop;
    return made;
end $$;

select ensure_callback_log_days(7);

-- What was seen, by the name of the fact. The primary key is the deduplication, so no partitions here; kept for at
-- least 30 days, far longer than any channel repeats itself, and published again from here after a restore.
create table callback_memory (
    event_id text primary key,
    order_no text collate "C" not null,
    topic text not null,
    occurred_at timestamptz not null,
    traceparent text,
    body bytea not null,
    received_at timestamptz not null default now()
);

-- Rows come in the order of time, so a few bytes per page suffice for "since" and for forgetting.
create index callback_memory_received on callback_memory using brin (received_at);

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

-- The service adds; it can neither change nor remove what it has logged or remembered.
revoke all on function ensure_callback_log_days(int) from public;
grant execute on function ensure_callback_log_days(int) to payment_callback_app;
grant select, insert on callback_log, callback_memory to payment_callback_app;
grant usage on sequence callback_log_id to payment_callback_app;
grant select, insert, delete on outbox to payment_callback_app;
grant select, insert on outbox_parked to payment_callback_app;
