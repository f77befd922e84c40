-- What we have to ask the payment channels, and what they said.

-- A wish of order-core, or an authentic notice that says too little: kept until its outcome is known.
create table errand (
    kind text not null
        constraint kind_is_known check (kind in ('close', 'refund', 'refund_look')),
    key text not null,  -- names the wish, so that a repeat is a repeat: the request's event id, channel:out_refund_no
    order_no text collate "C" not null,
    request json not null,
    requested_at timestamptz not null,
    traceparent text,
    outcome text,  -- null: open
    finished_at timestamptz,
    constraint finished_with_an_outcome check ((outcome is null) = (finished_at is null)),
    primary key (kind, key)
);
create index errand_order on errand (order_no);

-- Exists while the errand is open. Due times change all the time, so they have a table of their own.
create table errand_timer (
    kind text not null,
    key text not null,
    due_at timestamptz not null,
    attempts int not null default 0,
    primary key (kind, key),
    foreign key (kind, key) references errand (kind, key)
);
create index errand_timer_due on errand_timer (due_at);

-- Orders that are pending, by what order-core tells the world; gone when they are no longer, or when we know more.
create table awaited_payment (
    order_no text collate "C" primary key,
    channel text,  -- null: nobody knows where the customer will pay, so all are asked
    mchid text,
    amount_fen bigint not null,
    pending_since timestamptz not null,
    traceparent text,
    looks int not null default 0,  -- how often the channel has been asked
    due_at timestamptz not null
);
create index awaited_payment_due on awaited_payment (due_at);

-- Paid at the channel, and no notice of it had come by then: a failed callback for ever, whatever comes later.
create table callback_missing (
    channel text not null,
    transaction_id text not null,
    order_no text collate "C" not null,
    amount_fen bigint not null,
    paid_at timestamptz not null,
    found_at timestamptz not null default now(),
    policy text not null
        constraint policy_is_known check (policy in ('report', 'apply')),
    evidence json not null,  -- the channel's answer without the payer
    primary key (channel, transaction_id)
);
create index callback_missing_order on callback_missing (order_no);

grant select, insert, update (outcome, finished_at) on errand to payment_callback_app;
grant select, insert, update, delete on errand_timer, awaited_payment to payment_callback_app;
grant select, insert on callback_missing to payment_callback_app;
