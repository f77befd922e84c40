-- name: add_settlements(order_nos, instruction_ids, channels, transaction_ids, amounts, requested_ats, traceparents)
-- Dedup is this insert. What was there before is not returned, nor is a second copy within the batch.
insert into settlement (order_no, instruction_id, channel, transaction_ids, amount_fen, requested_at, traceparent)
select order_no, instruction_id, channel, array(select json_array_elements_text(transaction_ids::json)), amount_fen,
       requested_at, traceparent
from unnest(:order_nos::text[], :instruction_ids::text[], :channels::text[], :transaction_ids::text[],
            :amounts::bigint[], :requested_ats::timestamptz[], :traceparents::text[])
    as r (order_no, instruction_id, channel, transaction_ids, amount_fen, requested_at, traceparent)
on conflict (order_no, instruction_id) do nothing
returning order_no, instruction_id;

-- name: amounts(order_nos, instruction_ids)
select order_no, instruction_id, amount_fen
from settlement
where (order_no, instruction_id) in (select * from unnest(:order_nos::text[], :instruction_ids::text[]));

-- name: add_payouts(order_nos, instruction_ids, receivers, accounts, amounts)!
insert into payout (order_no, instruction_id, attempt, receiver, account, amount_fen)
select order_no, instruction_id, 1, receiver, account, amount_fen
from unnest(:order_nos::text[], :instruction_ids::text[], :receivers::text[], :accounts::text[], :amounts::bigint[])
    as p (order_no, instruction_id, receiver, account, amount_fen);

-- name: start_timers(order_nos, instruction_ids)!
insert into settlement_timer (order_no, instruction_id, step, due_at)
select order_no, instruction_id, 'send', now()
from unnest(:order_nos::text[], :instruction_ids::text[]) as t (order_no, instruction_id);

-- name: want_attempts(order_nos, instruction_ids, attempts, traceparents)!
update settlement s set asked = w.asked, traceparent = w.traceparent
from (
    select distinct on (order_no, instruction_id) order_no, instruction_id, attempt as asked, traceparent
    from unnest(:order_nos::text[], :instruction_ids::text[], :attempts::int[], :traceparents::text[])
        as r (order_no, instruction_id, attempt, traceparent)
    order by order_no, instruction_id, attempt desc
) w
where (s.order_no, s.instruction_id) = (w.order_no, w.instruction_id) and s.asked < w.asked;

-- name: retry(order_nos, instruction_ids)
-- The bank is asked first: the step is not to send.
with refused as (
    update settlement s set status = 'retrying'
    from unnest(:order_nos::text[], :instruction_ids::text[]) as k (order_no, instruction_id)
    where (s.order_no, s.instruction_id) = (k.order_no, k.instruction_id)
      and s.status = 'failed' and s.asked > s.attempt
    returning s.order_no, s.instruction_id
)
insert into settlement_timer (order_no, instruction_id, step, due_at)
select order_no, instruction_id, 'ask', now() from refused
returning order_no, instruction_id;

-- name: plan_payouts_again(order_no, instruction_id, receivers, accounts)!
insert into payout (order_no, instruction_id, attempt, receiver, account, amount_fen)
select p.order_no, p.instruction_id, p.attempt + 1, p.receiver, coalesce(known.account, p.account), p.amount_fen
from settlement s
join payout p using (order_no, instruction_id, attempt)
left join unnest(:receivers::text[], :accounts::text[]) as known (receiver, account) using (receiver)
where s.order_no = :order_no and s.instruction_id = :instruction_id and p.status = 'failed';

-- name: begin_attempt(order_no, instruction_id)!
update settlement set attempt = attempt + 1, status = 'requested', sent_at = null, taken_at = null, reason = null
where order_no = :order_no and instruction_id = :instruction_id;

-- name: claim_due(most, lease)
-- The step becomes `ask` before the call is made: whoever comes after a caller that died asks, and does not send.
with due as (
    select order_no, instruction_id, step from settlement_timer
    where due_at <= now()
    order by due_at
    limit :most
    for update skip locked
), leased as (
    update settlement_timer t set step = 'ask', due_at = now() + :lease::interval,
                                  asked = t.asked + (due.step = 'ask')::int
    from due
    where (t.order_no, t.instruction_id) = (due.order_no, due.instruction_id)
    returning t.order_no, t.instruction_id, due.step
), sending as (
    update settlement s set status = 'sending', sent_at = now()
    from leased
    where (s.order_no, s.instruction_id) = (leased.order_no, leased.instruction_id) and s.status = 'requested'
), called as (
    insert into bank_call (order_no, instruction_id, attempt, step)
    select order_no, instruction_id, s.attempt, leased.step from leased join settlement s using (order_no, instruction_id)
    returning id, order_no, instruction_id, attempt, step
)
select called.id, order_no, instruction_id, called.attempt, called.step, s.traceparent
from called join settlement s using (order_no, instruction_id)
order by called.id;

-- name: payouts(order_no, instruction_id, attempt)
select receiver, account, amount_fen
from payout
where order_no = :order_no and instruction_id = :instruction_id and attempt = :attempt
order by receiver;

-- name: lock_settlement(order_no, instruction_id)^
select status, attempt, amount_fen, sent_at, taken_at
from settlement
where order_no = :order_no and instruction_id = :instruction_id
for update;

-- name: answered(order_no, id, heard, reason)!
update bank_call set answered_at = now(), heard = :heard, reason = :reason where order_no = :order_no and id = :id;

-- name: record_settlement(order_no, instruction_id, status, bank_code, reason, taken, success_at)!
update settlement
set status = :status,
    bank_code = coalesce(:bank_code, bank_code),
    reason = :reason,
    taken_at = case when :taken then coalesce(taken_at, now()) else taken_at end,
    success_at = :success_at
where order_no = :order_no and instruction_id = :instruction_id;

-- name: record_payouts(order_no, instruction_id, attempt, receivers, statuses, arrived_ats, reasons)!
-- What has arrived stays arrived, whatever a late answer says.
update payout p set status = t.status, arrived_at = t.arrived_at, reason = t.reason
from unnest(:receivers::text[], :statuses::text[], :arrived_ats::timestamptz[], :reasons::text[])
    as t (receiver, status, arrived_at, reason)
where p.order_no = :order_no and p.instruction_id = :instruction_id and p.attempt = :attempt
  and p.receiver = t.receiver and p.status <> 'success'
  and (p.status <> 'failed' or t.status = 'success');

-- name: set_timer(order_no, instruction_id, step, due_in)!
update settlement_timer set step = :step, due_at = now() + :due_in::interval
where order_no = :order_no and instruction_id = :instruction_id;

-- name: asked(order_no, instruction_id)$
select asked from settlement_timer where order_no = :order_no and instruction_id = :instruction_id;

-- name: stop_timer(order_no, instruction_id)!
delete from settlement_timer where order_no = :order_no and instruction_id = :instruction_id;

-- name: search(order_no, instruction_id, status, requested_from, requested_until, after_order_no, after_id, most)
-- Newest order first: order numbers begin with their time.
select order_no, instruction_id, attempt, amount_fen, status, bank_code, success_at as arrived_at, reason, requested_at
from settlement
where (:order_no::text is null or order_no = :order_no)
  and (:instruction_id::text is null or instruction_id = :instruction_id)
  and (:status::text is null or status = :status)
  and (:requested_from::timestamptz is null or requested_at >= :requested_from)
  and (:requested_until::timestamptz is null or requested_at < :requested_until)
  and (:after_order_no::text is null or (order_no, instruction_id) < (:after_order_no, :after_id))
order by order_no desc, instruction_id desc
limit :most;

-- name: open_settlements()
-- Timers exist for open settlements alone, so this never reads the finished ones.
select s.status, count(*) as settlements, extract(epoch from now() - min(s.requested_at))::float8 as oldest_seconds
from settlement_timer t join settlement s using (order_no, instruction_id)
group by s.status;
