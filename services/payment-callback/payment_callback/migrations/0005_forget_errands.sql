-- Closes and refunds whose outcome was told long ago are forgotten, with the owner's rights, for the service may remove
-- nothing by itself; open ones never.
create index errand_finished on errand using brin (finished_at);

-- Forgets at most `most` errands that were finished longer than `keep` ago; returns how many.
create function forget_errands(keep interval, most int) returns int
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    forgotten int;
begin
    -- the same wish may come again as long as a topic remembers it
    if keep < interval '30 days' then
        raise exception 'finished errands are kept for at least 30 days';
    end if;
    delete from public.errand
    where (kind, key) in (select kind, key from public.errand where finished_at < now() - keep limit most);
    get diagnostics forgotten = row_count;
    return forgotten;
end $$;

revoke all on function forget_errands(interval, int) from public;
grant execute on function forget_errands(interval, int) to payment_callback_app;
