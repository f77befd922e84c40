-- The write path at its limit: fewer bytes and fewer look-ups per event (docs/adr/0008-the-write-path-at-its-limit.md).

-- A batch goes to the database as one array of rows, not as one array per column.
create type event_claim as (order_no text collate "C", event_id text, body_hash bytea);
create type order_change as (
    order_no text collate "C", version int, is_last boolean, before text, after text, channel text, mchid text,
    before_refund text, event text, event_id text, type text, actor text, occurred_at timestamptz, traceparent text,
    detail text, ends text);
create type payment_note as (
    order_no text collate "C", channel text, transaction_id text, mchid text, amount_fen bigint, currency text,
    paid_at timestamptz, applied boolean);
create type parcel_state as (
    order_no text collate "C", express_code text, waybill_no text, shipment_id text, parcel_no int, parcel_count int,
    status text, at timestamptz);

-- These rows are written in the transaction that holds their order's lock, and nobody may delete an order.
alter table payment drop constraint payment_order_no_fkey;
alter table payment_claim drop constraint payment_claim_order_no_fkey;
alter table parcel drop constraint parcel_order_no_fkey;
alter table timer drop constraint timer_order_no_fkey;

-- When an order changed last stands in its log. Written here as well, it spread every update's log record over the whole
-- row: what lies between the first and the last byte that differ is logged. A later release drops the column.
alter table orders alter column updated_at drop not null;

-- Half a page is left for the life of its orders: every change of theirs stays on the page, and touches no index.
alter table orders set (fillfactor = 50);
alter table parcel set (fillfactor = 50);
