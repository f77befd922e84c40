-- Refunds, closings, timers, and what the desk needs to act.

-- One per out_refund_no, which is the key under which a channel gives money back once.
create table refund (
    order_no text collate "C" not null,
    out_refund_no text not null,
    channel text not null,
    transaction_id text not null,
    amount_fen bigint not null constraint refund_is_positive check (amount_fen > 0),
    state text not null constraint refund_state_is_known check (state in (
        'held', 'asked', 'success', 'abnormal', 'closed')),
    whole boolean not null,
    reason text not null,
    refund_id text,  -- the channel's, as soon as it has said something
    asked_at timestamptz not null,
    changed_at timestamptz not null,
    constraint a_refund_is_asked_once primary key (order_no, out_refund_no),
    constraint a_refund_gives_back_a_payment foreign key (order_no, channel, transaction_id) references payment
);

-- The sums of its refunds stand at the payment, so that the database itself refuses to give back more than came.
alter table payment
    add column refunding_fen bigint not null default 0,  -- held, asked or abnormal
    add column refunded_fen bigint not null default 0,
    add constraint no_more_goes_back_than_came check (
        refunding_fen >= 0 and refunded_fen >= 0 and refunding_fen + refunded_fen <= amount_fen);

-- What settlement was asked for, and its last word as far as it was heard here.
create table instruction (
    order_no text collate "C" not null references orders,
    instruction_id text not null,
    amount_fen bigint not null constraint something_settles check (amount_fen > 0),
    asked int not null constraint an_instruction_was_asked_for check (asked >= 1),
    state text not null constraint instruction_state_is_known check (state in (
        'sent', 'processing', 'success', 'failed')),
    constraint an_instruction_is_one_row primary key (order_no, instruction_id)
);

-- The channels are, or were, asked to close an unpaid order. `asked` numbers the requests.
create table closing (
    order_no text collate "C" not null references orders,
    asked int not null constraint a_closing_was_asked_for check (asked >= 1),
    open boolean not null,  -- no last word yet
    constraint an_order_is_closed_once primary key (order_no)
);

-- What time alone will do. A timer is never stopped: when it is due and the order has gone on, it does nothing.
create table timer (
    order_no text collate "C" not null references orders,
    kind text not null constraint timer_kind_is_known check (kind in ('expire', 'ask_again', 'confirm')),
    due_at timestamptz not null,
    constraint an_order_has_one_timer_of_a_kind primary key (order_no, kind)
);
create index timer_by_due_at on timer (due_at);

-- Of events from outside the house: what else came under the same id is told apart by it. 8 bytes of a SHA-256.
alter table inbox
    add column body_hash bytea constraint body_hash_is_narrow check (octet_length(body_hash) = 8);

-- An anomaly knows enough of its event to decide it anew, and who put it away.
alter table anomaly
    add column id bigint generated always as identity constraint an_anomaly_has_one_number unique,
    add column type text not null default 'orderloop.anomaly-raised.v1',
    add column actor text not null default '/order-core',
    add column occurred_at timestamptz not null default now(),
    add column traceparent text,
    add column resolved_by text;
alter table anomaly
    alter column type drop default,
    alter column actor drop default,
    alter column occurred_at drop default;
create index open_anomaly on anomaly (id) where resolved_at is null;

-- Records that a consumer of any service could not use, with their own bytes. Named by where they lay; they may belong
-- to no order at all.
create table dead_letter (
    origin text not null,  -- topic-partition-offset
    topic text not null,  -- where it was read, and where a repair sends it again; without the prefix
    consumer_group text not null,  -- two groups may fail at the same record
    record_key bytea,
    headers json not null,  -- [[name, base64], …]
    body bytea not null,
    reason text not null,
    attempts int not null,
    failed_at timestamptz not null,
    sent_before int not null constraint sent_before_is_a_count check (sent_before >= 0),  -- by this desk
    resolved_at timestamptz,
    resolved_by text,
    resolution text,
    id bigint generated always as identity constraint a_dead_letter_has_one_number unique,
    constraint a_record_dies_once_per_group primary key (origin, consumer_group)
);

grant select, insert on refund, instruction, closing, timer, dead_letter to order_core_app;
grant update (state, whole, refund_id, changed_at) on refund to order_core_app;
grant update (asked, state) on instruction to order_core_app;
grant update (asked, open) on closing to order_core_app;
grant update (due_at), delete on timer to order_core_app;
grant update (resolved_at, resolved_by, resolution) on dead_letter to order_core_app;
