-- Every unique rule of the write path names order_no (docs/adr/0010-beyond-one-machine.md). That the number is drawn once
-- is the sequence's doing; the desk finds an anomaly by it.
alter table anomaly drop constraint an_anomaly_has_one_number;
create index anomaly_by_number on anomaly (id);
