-- One claim of two lines in one transaction, a statement a table, as the service stores it; no trigger, no NOTIFY.
-- Run by pgbench with -M prepared. Two of 10,000 NPIs, the smaller first, so that the totals do not deadlock.
\set first random(1000000000, 1000009999)
\set second :first + random(1, 999)
\set subscriber random(1000000000, 9999999999)
\set fees random(100, 99999)
BEGIN;
INSERT INTO claim (id, client, net_fee, line_count, status, redrive_no) VALUES (uuidv7(), 'local', :fees / 50.0 - 97.50, 2, 'accepted', 0) RETURNING id AS claim \gset
INSERT INTO claim_line (claim_id, line_no, service_dttm, submitted_proc, quadrant, group_id, subscriber_id, provider_npi, provider_fees, allowed_fees, member_co_ins, member_co_pay, net_fee) VALUES ((:claim)::uuid, 1, '2018-03-28', 'D4346', NULL, 'GRP-1000', (:subscriber)::text, (:first)::text, :fees / 100.0, 65.00, 16.25, 0.00, :fees / 100.0 - 48.75), ((:claim)::uuid, 2, '2018-03-28', 'D4211', 'UR', 'GRP-1000', (:subscriber)::text, (:second)::text, :fees / 100.0, 65.00, 16.25, 0.00, :fees / 100.0 - 48.75);
INSERT INTO payment (claim_id, redrive_no, state, lease_no, attempts, next_attempt_at) VALUES ((:claim)::uuid, 0, 'due', 0, 0, now());
INSERT INTO claim_event (claim_id, seq, id, type, at, actor, client, amount, line_count) VALUES ((:claim)::uuid, 1, uuidv7(), 'claim.accepted', now(), 'local', 'local', :fees / 50.0 - 97.50, 2);
INSERT INTO provider_net_fee AS total (provider_npi, net_fee, line_count) VALUES ((:first)::text, :fees / 100.0 - 48.75, 1), ((:second)::text, :fees / 100.0 - 48.75, 1) ON CONFLICT (provider_npi) DO UPDATE SET net_fee = total.net_fee + excluded.net_fee, line_count = total.line_count + excluded.line_count;
COMMIT;
