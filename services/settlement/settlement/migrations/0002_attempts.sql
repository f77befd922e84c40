-- A person may ask again after the bank has refused: how many attempts are wanted, beside which one it is.
alter table settlement
    add column asked int not null default 1 constraint asked_counts_from_one check (asked >= 1),
    drop constraint status_is_known,
    add constraint status_is_known check (
        status in ('requested', 'sending', 'processing', 'retrying', 'success', 'failed'));

grant update (attempt, asked) on settlement to settlement_app;
