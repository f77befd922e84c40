-- name: answered(caller, route, key)^
select body_hash, status, answer from idempotency where caller = :caller and route = :route and key = :key;

-- name: claim_key(caller, route, key, body_hash)^
-- Waits for a request with the same key that is still running; the answer is filled in before the commit.
insert into idempotency (caller, route, key, body_hash, status, answer)
values (:caller, :route, :key, :body_hash, 0, '')
on conflict (caller, route, key) do nothing
returning key;

-- name: answer_key(caller, route, key, status, answer)!
update idempotency set status = :status, answer = :answer
where caller = :caller and route = :route and key = :key;

-- name: log_access(order_no, request_id, route, caller, status)!
insert into access_log (order_no, request_id, route, caller, status)
values (:order_no, :request_id, :route, :caller, :status);
