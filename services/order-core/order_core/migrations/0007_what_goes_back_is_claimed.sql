-- A transaction that was asked to go back pays no other order: its claim says so, as that of an applied payment does.
-- Where two orders have claimed the same money already, the first keeps it and the books say so.
insert into payment_claim (channel, transaction_id, order_no)
select distinct on (channel, transaction_id) channel, transaction_id, order_no
from refund
where state <> 'closed'
order by channel, transaction_id, asked_at
on conflict do nothing;
