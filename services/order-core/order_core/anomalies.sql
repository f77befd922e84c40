-- name: raise_anomalies(order_nos, event_ids, kinds, moneys, evidences, types, actors, occurred_ats, traceparents)!
insert into anomaly (order_no, event_id, kind, money_fen, evidence, type, actor, occurred_at, traceparent)
select order_no, event_id, kind, money_fen, evidence::json, type, actor, occurred_at, traceparent
from unnest(:order_nos::text[], :event_ids::text[], :kinds::text[], :moneys::bigint[], :evidences::text[],
            :types::text[], :actors::text[], :occurred_ats::timestamptz[], :traceparents::text[])
    as a (order_no, event_id, kind, money_fen, evidence, type, actor, occurred_at, traceparent)
on conflict (order_no, event_id) do update set kind = excluded.kind, seen = anomaly.seen + 1;

-- name: close_evidence(order_nos, event_ids, now)!
-- Of the payment that the order lives on, and of no other: one that was only noted may still be all there is to see of it.
update anomaly a set resolved_at = :now, resolution = 'the payment had been applied already'
from unnest(:order_nos::text[], :event_ids::text[]) as c (order_no, event_id), payment p
where (a.order_no, a.event_id) = (c.order_no, c.event_id) and a.resolved_at is null
  and p.applied
  and (p.order_no, p.channel, p.transaction_id)
      = (a.order_no, a.evidence->>'channel', a.evidence->>'transaction_id');

-- name: page(kind, order_no, is_open, before, most)
-- Newest first; `before` is the last id of the page before, or null.
select id, order_no, event_id, kind, money_fen, seen, type, actor, raised_at, resolved_at, resolved_by, resolution
from anomaly
where (:kind::text is null or kind = :kind)
  and (:order_no::text is null or order_no = :order_no)
  and (:is_open::boolean is null or (resolved_at is null) = :is_open)
  and (:before::bigint is null or id < :before)
order by id desc
limit :most;

-- name: one(id)^
select id, order_no, event_id, kind, money_fen, seen, type, actor, occurred_at, traceparent, evidence::text as evidence,
       raised_at, resolved_at, resolved_by, resolution
from anomaly where id = :id;

-- name: lock(id)$
-- Two people at one desk: the second waits, and then finds it resolved.
select resolved_at is null from anomaly where id = :id for update;

-- name: resolve(id, by, resolution, now)!
update anomaly set resolved_at = :now, resolved_by = :by, resolution = :resolution
where id = :id and resolved_at is null;
