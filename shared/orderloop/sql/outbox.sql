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
