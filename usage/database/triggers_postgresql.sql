-- What the database itself refuses, whoever asks: see docs/decisions.md, "Guards".
-- Triggers and the constraint are written as pg_get_triggerdef and pg_get_constraintdef write them,
-- so that usage/database/triggers.py can compare them. Each statement begins a line.

CREATE OR REPLACE FUNCTION usage_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE OR REPLACE FUNCTION usage_refuse_truncate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Only a test's teardown sets this. Any role may, so that it counts in a test's database alone.
    IF current_setting('usage.truncate_allowed', true) IS DISTINCT FROM 'on'
        OR current_database() NOT LIKE 'test\_%'
    THEN
        RAISE EXCEPTION '% is never emptied', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION usage_bill_only_closes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.closed_at IS NOT NULL OR NEW.closed_at IS NULL
        OR (NEW.id, NEW.customer_id, NEW.month, NEW.period_start, NEW.currency)
            IS DISTINCT FROM (OLD.id, OLD.customer_id, OLD.month, OLD.period_start, OLD.currency)
        OR NEW.period_end IS DISTINCT FROM LEAST(OLD.period_end, NEW.closed_at)
        OR NEW.named_after_closing
        -- A bill that an older version opened has no digits until it is closed.
        OR NEW.minor_unit_digits IS DISTINCT FROM COALESCE(OLD.minor_unit_digits, NEW.minor_unit_digits)
    THEN
        RAISE EXCEPTION 'a bill changes only once, when it is closed' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

-- One look per statement, also in place of foreign keys, which look and lock once per row: the rows
-- that were added must be on open bills of their own customer. Bills are never deleted.
CREATE OR REPLACE FUNCTION usage_open_bill_of_customer() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM added
        WHERE (
            -- By the primary key, row for row. A join that was planned while there were few bills
            -- goes on reading all open bills for each row.
            SELECT bill.customer_id = added.customer_id AND bill.closed_at IS NULL
            FROM usage_bill bill WHERE bill.id = added.bill_id
        ) IS NOT TRUE
    ) THEN
        RAISE EXCEPTION 'usage goes on an open bill of its own customer' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;

-- The same for the keys by which records came, which are never deleted either.
CREATE OR REPLACE FUNCTION usage_reported_by_a_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM added LEFT JOIN usage_apikey api_key ON api_key.id = added.reported_by_id
        WHERE added.reported_by_id IS NOT NULL AND api_key.id IS NULL
    ) THEN
        RAISE EXCEPTION 'usage is reported by an API key that exists' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION usage_currency_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Waits for a bill that is being opened: its foreign key holds a weaker lock on this row.
    PERFORM FROM usage_customer WHERE id = OLD.id FOR UPDATE;
    IF EXISTS (SELECT FROM usage_bill WHERE customer_id = OLD.id) THEN
        RAISE EXCEPTION 'a customer with bills keeps its id and currency' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN COALESCE(NEW, OLD);
END $$;

CREATE OR REPLACE TRIGGER record_never_changes BEFORE DELETE OR UPDATE ON usage_usagerecord
    FOR EACH ROW EXECUTE FUNCTION usage_refuse('a usage record never changes and is never deleted');
CREATE OR REPLACE TRIGGER record_never_truncated BEFORE TRUNCATE ON usage_usagerecord
    FOR EACH STATEMENT EXECUTE FUNCTION usage_refuse_truncate();
CREATE OR REPLACE TRIGGER record_on_open_bill AFTER INSERT ON usage_usagerecord
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION usage_open_bill_of_customer();
CREATE OR REPLACE TRIGGER record_reported_by_a_key AFTER INSERT ON usage_usagerecord
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION usage_reported_by_a_key();

CREATE OR REPLACE TRIGGER api_key_keeps_its_id BEFORE UPDATE OF id ON usage_apikey
    FOR EACH ROW WHEN (OLD.id <> NEW.id) EXECUTE FUNCTION usage_refuse('an API key keeps its id');
CREATE OR REPLACE TRIGGER api_key_never_deleted BEFORE DELETE ON usage_apikey
    FOR EACH ROW EXECUTE FUNCTION usage_refuse('an API key is never deleted: records name it');
CREATE OR REPLACE TRIGGER api_key_never_truncated BEFORE TRUNCATE ON usage_apikey
    FOR EACH STATEMENT EXECUTE FUNCTION usage_refuse_truncate();

CREATE OR REPLACE TRIGGER bill_only_closes BEFORE UPDATE ON usage_bill
    FOR EACH ROW EXECUTE FUNCTION usage_bill_only_closes();
CREATE OR REPLACE TRIGGER bill_never_deleted BEFORE DELETE ON usage_bill
    FOR EACH ROW EXECUTE FUNCTION usage_refuse('a bill is never deleted');
CREATE OR REPLACE TRIGGER bill_never_truncated BEFORE TRUNCATE ON usage_bill
    FOR EACH STATEMENT EXECUTE FUNCTION usage_refuse_truncate();

CREATE OR REPLACE TRIGGER daily_usage_insert_on_open_bill AFTER INSERT ON usage_dailyusage
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION usage_open_bill_of_customer();
CREATE OR REPLACE TRIGGER daily_usage_update_on_open_bill AFTER UPDATE ON usage_dailyusage
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION usage_open_bill_of_customer();
CREATE OR REPLACE TRIGGER daily_usage_keeps_its_key BEFORE UPDATE OF id, customer_id, bill_id, service, price_per_unit, day, slot ON usage_dailyusage
    FOR EACH ROW EXECUTE FUNCTION usage_refuse('daily usage keeps its bill, service, price, day and slot');
CREATE OR REPLACE TRIGGER daily_usage_never_deleted BEFORE DELETE ON usage_dailyusage
    FOR EACH ROW EXECUTE FUNCTION usage_refuse('daily usage is never deleted');
CREATE OR REPLACE TRIGGER daily_usage_never_truncated BEFORE TRUNCATE ON usage_dailyusage
    FOR EACH STATEMENT EXECUTE FUNCTION usage_refuse_truncate();

CREATE OR REPLACE TRIGGER history_never_changes BEFORE DELETE OR UPDATE ON usage_historyentry
    FOR EACH ROW EXECUTE FUNCTION usage_refuse('the history never changes and is never deleted');
CREATE OR REPLACE TRIGGER history_never_truncated BEFORE TRUNCATE ON usage_historyentry
    FOR EACH STATEMENT EXECUTE FUNCTION usage_refuse_truncate();

CREATE OR REPLACE TRIGGER change_never_changes BEFORE DELETE OR UPDATE ON usage_change
    FOR EACH ROW EXECUTE FUNCTION usage_refuse('the history of customers and keys never changes and is never deleted');
CREATE OR REPLACE TRIGGER change_never_truncated BEFORE TRUNCATE ON usage_change
    FOR EACH STATEMENT EXECUTE FUNCTION usage_refuse_truncate();

CREATE OR REPLACE TRIGGER time_zone_never_changes BEFORE DELETE OR UPDATE ON usage_billingtimezone
    FOR EACH ROW EXECUTE FUNCTION usage_refuse('the billing time zone never changes');
CREATE OR REPLACE TRIGGER time_zone_never_truncated BEFORE TRUNCATE ON usage_billingtimezone
    FOR EACH STATEMENT EXECUTE FUNCTION usage_refuse_truncate();

CREATE OR REPLACE TRIGGER customer_keeps_currency BEFORE UPDATE OF id, currency ON usage_customer
    FOR EACH ROW WHEN (OLD.id <> NEW.id OR OLD.currency::text <> NEW.currency::text) EXECUTE FUNCTION usage_currency_fixed();
-- The foreign key is checked at the end of the transaction, when another customer may have the id.
CREATE OR REPLACE TRIGGER customer_with_bills_never_deleted BEFORE DELETE ON usage_customer
    FOR EACH ROW EXECUTE FUNCTION usage_currency_fixed();

-- Ranges of numbers and of times are indexed alike, so this needs no extension.
ALTER TABLE usage_bill DROP CONSTRAINT IF EXISTS bill_periods_apart, ADD CONSTRAINT bill_periods_apart
    EXCLUDE USING gist (numrange(customer_id::numeric, customer_id::numeric, '[]'::text) WITH &&, tstzrange(period_start, period_end) WITH &&);
