-- name: keep(origins, topics, groups, record_keys, headers, bodies, reasons, attempts, failed_ats, sent_befores)!
insert into dead_letter (origin, topic, consumer_group, record_key, headers, body, reason, attempts, failed_at, sent_before)
select origin, topic, consumer_group, record_key, headers::json, body, reason, attempts, failed_at, sent_before
from unnest(:origins::text[], :topics::text[], :groups::text[], :record_keys::bytea[], :headers::text[],
            :bodies::bytea[], :reasons::text[], :attempts::int[], :failed_ats::timestamptz[], :sent_befores::int[])
    as d (origin, topic, consumer_group, record_key, headers, body, reason, attempts, failed_at, sent_before)
on conflict (origin, consumer_group) do nothing;

-- name: page(topic, consumer_group, is_open, before, most)
-- Without the bytes: they may hold somebody's address.
select id, origin, topic, consumer_group, record_key, reason, attempts, failed_at, sent_before, length(body) as bytes,
       resolved_at, resolved_by, resolution
from dead_letter
where (:topic::text is null or topic = :topic)
  and (:consumer_group::text is null or consumer_group = :consumer_group)
  and (:is_open::boolean is null or (resolved_at is null) = :is_open)
  and (:before::bigint is null or id < :before)
order by id desc
limit :most;

-- name: whole(ids)
-- Sorted and locked: of two people who put the same letters away, one finds them put away.
select id, origin, topic, consumer_group, record_key, headers::text as headers, body, failed_at, sent_before, resolved_at,
       resolution
from dead_letter
where id = any(:ids::bigint[])
order by id
for update;

-- name: resolve(ids, by, resolution, now)!
update dead_letter set resolved_at = :now, resolved_by = :by, resolution = :resolution where id = any(:ids::bigint[]);
