-- name: writers()$
-- Transactions that may have drawn ids which nobody sees yet.
select coalesce(array_agg(virtualtransaction), '{}')
from pg_locks
where locktype = 'relation' and relation = 'outbox'::regclass and mode = 'RowExclusiveLock'
  and database = (select oid from pg_database where datname = current_database());

-- name: any_of(writers)$
select exists (
    select from pg_locks
    where locktype = 'relation' and relation = 'outbox'::regclass and mode = 'RowExclusiveLock'
      and virtualtransaction = any(:writers::text[])
);

-- name: below_the_first(mark, goal)$
-- Rows of parked orders keep the mark below themselves: whoever releases them finds them read in their order.
select coalesce(min(id) - 1, :goal::bigint) from outbox where id > :mark::bigint and id <= :goal::bigint;

-- name: waiting(mark, most)^
with due as (
    select id
    from outbox o
    where id > :mark and not exists (select from outbox_parked p where p.order_no = o.order_no)
    order by id
    limit :most
)
select count(*) as rows, min(id) as oldest, (select max(id) from outbox where id > :mark) as newest,
       (select count(*) from outbox_parked) as parked
from due;
