-- What a busy hour does to the totals: a commit adds to ten of the thousand hottest NPIs, all of them in the ranking's
-- index. Run by pgbench between two measures. Half is added and half taken away, so the books stay as they are.
\set group random(0, 99)
\set fee random(1, 1000000)
INSERT INTO provider_net_fee AS total (provider_npi, net_fee, line_count) SELECT (1000000000 + :group * 10 + n)::text, (CASE n % 2 WHEN 0 THEN 1 ELSE -1 END) * :fee / 100.0, 0 FROM generate_series(0, 9) AS n ON CONFLICT (provider_npi) DO UPDATE SET net_fee = total.net_fee + excluded.net_fee, line_count = total.line_count + excluded.line_count;
