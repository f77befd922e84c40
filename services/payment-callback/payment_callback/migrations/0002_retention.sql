-- The log forgets after days, the memory after months; both with the owner's rights, for the service may remove nothing
-- by itself, and neither can be talked into forgetting more than this.

-- An order whose callbacks somebody still needs (an open anomaly cites them): its rows outlive their day.
create table callback_hold (
    order_no text collate "C" primary key,
    reason text not null,
    placed_at timestamptz not null default now()
);

-- Takes away one day that is older than `keep` and returns its name, or null when there is none left. A day with rows
-- of held orders shrinks to those. Dropping needs the whole log for an instant: behind a long reader it gives up at
-- once (lock_not_available) instead of making every insert queue behind itself, and the caller tries again later.
create function drop_callback_log_day(keep interval) returns text
language plpgsql security definer set search_path = pg_catalog, public set lock_timeout = '100ms' as $$
declare
    held text[] := (select coalesce(array_agg(order_no), '{}') from public.callback_hold);
    day date;
    partition text;
    holds boolean;
    sheds boolean;
begin
    if keep < interval '1 day' then
        raise exception 'the callback log is kept for at least a day';
    end if;
    for partition, day in
        select c.relname, to_date(right(c.relname, 8), 'YYYYMMDD')
        from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'public.callback_log'::regclass
        order by c.relname
    loop
        exit when (day + 1)::timestamp at time zone 'UTC' > now() - keep;
        execute format('select exists (select from public.%1$I where order_nos && $1), '
                       'exists (select from public.%1$I where not order_nos && $1)', partition)
            into holds, sheds using held;
        continue when holds and not sheds;
        if holds then
            execute format('create table public.callback_log_kept (like public.%I including all)', partition);
            execute format('insert into public.callback_log_kept select * from public.%I where order_nos && $1',
                           partition) using held;
        end if;
        execute format('drop table public.%I', partition);
        if holds then
            execute format('alter table public.callback_log_kept rename to %I', partition);
            execute format('alter table public.callback_log attach partition public.%I for values from (%L) to (%L)',
                           partition, day || ' 00:00:00+00', (day + 1) || ' 00:00:00+00');
        end if;
        return partition;
    end loop;
    return null;
end $$;

-- Forgets at most `most` facts older than `keep`; returns how many.
create function forget_callbacks(keep interval, most int) returns int
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    forgotten int;
begin
    -- a channel repeats itself for a day, a person's mistake may for weeks
    if keep < interval '30 days' then
        raise exception 'what was seen is remembered for at least 30 days';
    end if;
    delete from public.callback_memory
    where event_id in (select event_id from public.callback_memory where received_at < now() - keep limit most);
    get diagnostics forgotten = row_count;
    return forgotten;
end $$;

revoke all on function drop_callback_log_day(interval), forget_callbacks(interval, int) from public;
grant execute on function drop_callback_log_day(interval), forget_callbacks(interval, int) to payment_callback_app;
grant select, insert, delete on callback_hold to payment_callback_app;
