-- Which events have been taken in. Only `applied` makes a repeat a duplicate.
create table inbox (
    order_no text collate "C" not null,
    event_id text not null,
    outcome text not null default 'applied'
        constraint outcome_is_known check (outcome in ('applied', 'waiting', 'parked')),
    received_at timestamptz not null default now(),
    constraint an_event_counts_once primary key (order_no, event_id)
);
