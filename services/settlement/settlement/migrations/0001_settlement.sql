-- The inbox and the outbox as orderloop ships them; what follows is settlement's own.

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

-- One instruction to the bank: so much money of one order, to be split among its receivers.
-- order_no leads every key, so that a later partitioning by it keeps every rule.
create table settlement (
    order_no text collate "C" not null,
    instruction_id text collate "C" not null,
    channel text not null,
    transaction_ids text[] not null,
    amount_fen bigint not null constraint amount_is_positive check (amount_fen > 0),
    status text not null default 'requested'
        constraint status_is_known check (status in ('requested', 'sending', 'processing', 'success', 'failed')),
    attempt int not null default 1 constraint attempts_count_from_one check (attempt >= 1),
    bank_code text,
    reason text,
    requested_at timestamptz not null,
    sent_at timestamptz,  -- the first call of this attempt
    taken_at timestamptz,  -- when the bank first said that it has the instruction
    success_at timestamptz,  -- when the last payout arrived, by the bank's clock
    traceparent text,  -- of the request: calls and results belong under it
    constraint one_row_per_instruction primary key (order_no, instruction_id),
    -- which makes an instruction's id unique across orders too, as the bank needs its key to be
    constraint an_instruction_names_its_order check (starts_with(instruction_id, order_no || '_')),
    constraint an_instruction_fits_the_bank check (length(instruction_id) <= 56),
    constraint nothing_is_heard_before_it_is_sent check (status = 'requested' or sent_at is not null),
    constraint success_has_its_time check ((status = 'success') = (success_at is not null))
) with (fillfactor = 80);  -- room for HOT updates: status changes, no index does

-- What each receiver gets by one attempt.
create table payout (
    order_no text collate "C" not null,
    instruction_id text collate "C" not null,
    attempt int not null,
    receiver text not null,
    account text not null,
    amount_fen bigint not null constraint payout_is_positive check (amount_fen > 0),
    status text not null default 'pending'
        constraint payout_status_is_known check (status in ('pending', 'processing', 'success', 'failed')),
    arrived_at timestamptz,
    reason text,
    constraint one_payout_per_receiver_and_attempt primary key (order_no, instruction_id, attempt, receiver),
    constraint a_payout_belongs_to_an_instruction
        foreign key (order_no, instruction_id) references settlement (order_no, instruction_id),
    constraint arrival_means_success check ((status = 'success') = (arrived_at is not null))
) with (fillfactor = 80);

-- Nobody is paid twice for an order, and nobody is instructed anew while an earlier payout may still arrive: only a
-- payout that the bank has refused for good makes room for another one.
create unique index a_receiver_is_paid_once_per_order on payout (order_no, receiver) where status <> 'failed';

-- Every call, written before it is made. A line without an answer is a call whose caller died.
create table bank_call (
    id bigint generated always as identity,
    order_no text collate "C" not null,
    instruction_id text collate "C" not null,
    attempt int not null,
    step text not null constraint step_is_known check (step in ('send', 'ask')),
    started_at timestamptz not null default now(),
    answered_at timestamptz,
    heard text,  -- the answer in a word
    reason text,
    constraint one_row_per_call primary key (order_no, id)
);

-- When an open settlement is to be sent or asked about; gone when it is final. Apart from the settlement, so that no
-- index there changes with the time.
create table settlement_timer (
    order_no text collate "C" not null,
    instruction_id text collate "C" not null,
    step text not null constraint timer_step_is_known check (step in ('send', 'ask')),
    due_at timestamptz not null,
    asked int not null default 0 constraint asked_counts_up check (asked >= 0),
    constraint one_timer_per_instruction primary key (order_no, instruction_id),
    constraint a_timer_belongs_to_an_instruction
        foreign key (order_no, instruction_id) references settlement (order_no, instruction_id)
);
create index settlement_timer_due on settlement_timer (due_at);

-- The service's own role: amounts, accounts and ids are written once; nothing about money is ever deleted.
grant select, insert on inbox, outbox, outbox_parked, settlement, payout, bank_call, settlement_timer to settlement_app;
grant update (outcome) on inbox to settlement_app;
grant update, delete on settlement_timer to settlement_app;
grant delete on outbox to settlement_app;
grant update (status, bank_code, reason, sent_at, taken_at, success_at) on settlement to settlement_app;
grant update (status, arrived_at, reason) on payout to settlement_app;
grant update (answered_at, heard, reason) on bank_call to settlement_app;

-- What finance sees: this view, by its owner's rights, and nothing else of this or any other database.
create schema finance;
create view finance.settlement with (security_barrier) as
select order_no, instruction_id, attempt, amount_fen, status, bank_code, success_at as arrived_at, reason, requested_at
from settlement;
grant usage on schema finance to finance_ro;
grant select on finance.settlement to finance_ro;
