-- Rows of a batch, whose times travel as seconds since 1970: a datetime costs the driver as much as seven of the other
-- fields. What an applied payment shares with its order comes once. A later release drops order_step and parcel_state,
-- which the former one still sends.
create type order_move as (
    order_no text collate "C", version int, is_last boolean, before text, after text, channel text, mchid text,
    before_refund text, event text, event_id text, type text, actor text, occurred_at float8, traceparent text,
    detail text, ends text, transaction_id text, paid_fen bigint, currency text, paid_at float8);
create type parcel_move as (
    order_no text collate "C", express_code text, waybill_no text, shipment_id text, parcel_no int, parcel_count int,
    status text, at float8);
