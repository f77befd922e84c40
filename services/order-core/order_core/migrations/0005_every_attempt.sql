-- A retry under the same request id is another attempt: the patrol tells them apart (SHIP-2).
alter table access_log
    drop constraint access_log_pkey,
    add column id bigint generated always as identity,
    add constraint every_attempt_is_logged primary key (order_no, id);

grant usage on all sequences in schema public to order_core_app;
