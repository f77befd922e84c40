-- A change and the payment that brought it go to the database in one row. A later release drops order_change and
-- event_claim, which the former one still sends.
create type order_step as (
    order_no text collate "C", version int, is_last boolean, before text, after text, channel text, mchid text,
    before_refund text, event text, event_id text, type text, actor text, occurred_at timestamptz, traceparent text,
    detail text, ends text, payment payment_note);
