-- The limit: the write path's own transaction for one new record, prepared, without any Python.
\set customer random(1, 1000)
BEGIN;
SELECT pg_advisory_xact_lock_shared(45329, :customer % 64);
SELECT bill.id AS bill, statement_timestamp()
    FROM usage_customer customer
    JOIN usage_bill bill ON bill.customer_id = customer.id AND bill.closed_at IS NULL
    WHERE customer.id = :customer \gset
INSERT INTO usage_usagerecord (request_id, customer_id, service, units, price_per_unit, occurred_at,
        recorded_at, late, bill_id, reported_by_id, void_reason, voided_by)
    VALUES (gen_random_uuid()::text, :customer, 'Database Hosting', 58, 0.05, statement_timestamp(),
        statement_timestamp(), false, :bill, 1, '', '')
    ON CONFLICT (request_id) DO NOTHING RETURNING request_id;
INSERT INTO usage_dailyusage (customer_id, bill_id, service, price_per_unit, day, slot, units, records)
    VALUES (:customer, :bill, 'Database Hosting', 0.05, statement_timestamp()::date, 0, 58, 1)
    ON CONFLICT (bill_id, service, price_per_unit, day, slot) DO UPDATE SET
        units = usage_dailyusage.units + excluded.units,
        records = usage_dailyusage.records + excluded.records;
COMMIT;
