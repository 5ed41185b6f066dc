-- What the database itself refuses, whoever asks: see docs/decisions.md, "Guards".
-- Each statement begins a line.
-- INSERT OR REPLACE and UPDATE OR REPLACE delete the rows in their way, and tell a DELETE trigger only
-- on a connection with recursive_triggers. So each table refuses a key that exists before that.

CREATE TRIGGER record_never_changes BEFORE UPDATE ON usage_usagerecord
BEGIN
    SELECT RAISE(ABORT, 'a usage record never changes');
END;

CREATE TRIGGER record_never_deleted BEFORE DELETE ON usage_usagerecord
BEGIN
    SELECT RAISE(ABORT, 'a usage record is never deleted');
END;

CREATE TRIGGER record_never_replaced BEFORE INSERT ON usage_usagerecord
WHEN EXISTS (SELECT 1 FROM usage_usagerecord WHERE request_id = NEW.request_id)
BEGIN
    SELECT RAISE(ABORT, 'a usage record is never replaced');
END;

CREATE TRIGGER record_on_open_bill BEFORE INSERT ON usage_usagerecord
WHEN NOT EXISTS (
    SELECT 1 FROM usage_bill bill
    WHERE bill.id = NEW.bill_id AND bill.customer_id = NEW.customer_id AND bill.closed_at IS NULL
)
BEGIN
    SELECT RAISE(ABORT, 'usage goes on an open bill of its own customer');
END;

CREATE TRIGGER record_reported_by_a_key BEFORE INSERT ON usage_usagerecord
WHEN NEW.reported_by_id IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM usage_apikey WHERE id = NEW.reported_by_id)
BEGIN
    SELECT RAISE(ABORT, 'usage is reported by an API key that exists');
END;

CREATE TRIGGER api_key_keeps_its_id BEFORE UPDATE OF id ON usage_apikey WHEN OLD.id <> NEW.id
BEGIN
    SELECT RAISE(ABORT, 'an API key keeps its id');
END;

CREATE TRIGGER api_key_never_deleted BEFORE DELETE ON usage_apikey
BEGIN
    SELECT RAISE(ABORT, 'an API key is never deleted: records name it');
END;

CREATE TRIGGER api_key_never_replaced BEFORE INSERT ON usage_apikey
WHEN EXISTS (SELECT 1 FROM usage_apikey WHERE id = NEW.id OR digest = NEW.digest)
BEGIN
    SELECT RAISE(ABORT, 'an API key is never replaced: records name it');
END;

CREATE TRIGGER api_key_replaces_no_other BEFORE UPDATE OF digest ON usage_apikey
WHEN EXISTS (SELECT 1 FROM usage_apikey WHERE id <> NEW.id AND digest = NEW.digest)
BEGIN
    SELECT RAISE(ABORT, 'an API key is never replaced: records name it');
END;

CREATE TRIGGER bill_only_closes BEFORE UPDATE ON usage_bill
WHEN OLD.closed_at IS NOT NULL OR NEW.closed_at IS NULL
    OR NEW.id <> OLD.id OR NEW.customer_id <> OLD.customer_id
    OR NEW.month <> OLD.month OR NEW.period_start <> OLD.period_start
    OR NEW.currency <> OLD.currency
    OR NEW.period_end <> min(OLD.period_end, NEW.closed_at)
    OR NEW.named_after_closing
    -- A bill that an older version opened has no digits until it is closed.
    OR NEW.minor_unit_digits IS NOT coalesce(OLD.minor_unit_digits, NEW.minor_unit_digits)
BEGIN
    SELECT RAISE(ABORT, 'a bill changes only once, when it is closed');
END;

CREATE TRIGGER bill_never_deleted BEFORE DELETE ON usage_bill
BEGIN
    SELECT RAISE(ABORT, 'a bill is never deleted');
END;

CREATE TRIGGER bill_periods_apart BEFORE INSERT ON usage_bill
WHEN EXISTS (
    SELECT 1 FROM usage_bill bill
    WHERE bill.customer_id = NEW.customer_id
        AND bill.period_start < NEW.period_end AND bill.period_end > NEW.period_start
)
BEGIN
    SELECT RAISE(ABORT, 'bills of one customer never overlap');
END;

CREATE TRIGGER bill_never_replaced BEFORE INSERT ON usage_bill
WHEN EXISTS (
    SELECT 1 FROM usage_bill bill
    WHERE bill.id = NEW.id OR (bill.customer_id = NEW.customer_id AND (
        bill.period_start = NEW.period_start
        OR (bill.month = NEW.month AND bill.closed_at IS NULL AND NEW.closed_at IS NULL)
    ))
)
BEGIN
    SELECT RAISE(ABORT, 'a bill is never replaced');
END;

CREATE TRIGGER daily_usage_insert_on_open_bill BEFORE INSERT ON usage_dailyusage
WHEN NOT EXISTS (
    SELECT 1 FROM usage_bill bill
    WHERE bill.id = NEW.bill_id AND bill.customer_id = NEW.customer_id AND bill.closed_at IS NULL
)
BEGIN
    SELECT RAISE(ABORT, 'usage goes on an open bill of its own customer');
END;

CREATE TRIGGER daily_usage_update_on_open_bill BEFORE UPDATE ON usage_dailyusage
WHEN EXISTS (SELECT 1 FROM usage_bill bill WHERE bill.id = OLD.bill_id AND bill.closed_at IS NOT NULL)
BEGIN
    SELECT RAISE(ABORT, 'usage goes on an open bill of its own customer');
END;

CREATE TRIGGER daily_usage_keeps_its_key
BEFORE UPDATE OF id, customer_id, bill_id, service, price_per_unit, day, slot ON usage_dailyusage
BEGIN
    SELECT RAISE(ABORT, 'daily usage keeps its bill, service, price, day and slot');
END;

CREATE TRIGGER daily_usage_never_deleted BEFORE DELETE ON usage_dailyusage
BEGIN
    SELECT RAISE(ABORT, 'daily usage is never deleted');
END;

CREATE TRIGGER daily_usage_never_replaced BEFORE INSERT ON usage_dailyusage
WHEN EXISTS (SELECT 1 FROM usage_dailyusage WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'daily usage is never replaced');
END;

CREATE TRIGGER history_never_changes BEFORE UPDATE ON usage_historyentry
BEGIN
    SELECT RAISE(ABORT, 'the history never changes');
END;

CREATE TRIGGER history_never_deleted BEFORE DELETE ON usage_historyentry
BEGIN
    SELECT RAISE(ABORT, 'the history is never deleted');
END;

CREATE TRIGGER change_never_changes BEFORE UPDATE ON usage_change
BEGIN
    SELECT RAISE(ABORT, 'the history of customers and keys never changes');
END;

CREATE TRIGGER change_never_deleted BEFORE DELETE ON usage_change
BEGIN
    SELECT RAISE(ABORT, 'the history of customers and keys is never deleted');
END;

CREATE TRIGGER history_never_replaced BEFORE INSERT ON usage_historyentry
WHEN EXISTS (
    SELECT 1 FROM usage_historyentry entry
    WHERE entry.id = NEW.id
        OR (entry.bill_id = NEW.bill_id AND entry.action = 'closed' AND NEW.action = 'closed')
)
BEGIN
    SELECT RAISE(ABORT, 'the history is never replaced');
END;

CREATE TRIGGER time_zone_never_changes BEFORE UPDATE ON usage_billingtimezone
BEGIN
    SELECT RAISE(ABORT, 'the billing time zone never changes');
END;

CREATE TRIGGER time_zone_never_deleted BEFORE DELETE ON usage_billingtimezone
BEGIN
    SELECT RAISE(ABORT, 'the billing time zone never changes');
END;

CREATE TRIGGER time_zone_never_replaced BEFORE INSERT ON usage_billingtimezone
WHEN EXISTS (SELECT 1 FROM usage_billingtimezone)
BEGIN
    SELECT RAISE(ABORT, 'the billing time zone never changes');
END;

CREATE TRIGGER customer_keeps_currency BEFORE UPDATE OF id, currency ON usage_customer
WHEN (OLD.id <> NEW.id OR OLD.currency <> NEW.currency)
    AND EXISTS (SELECT 1 FROM usage_bill WHERE customer_id = OLD.id)
BEGIN
    SELECT RAISE(ABORT, 'a customer with bills keeps its id and currency');
END;

-- The foreign key is checked at the end of the transaction, when another customer may have the id.
CREATE TRIGGER customer_with_bills_never_deleted BEFORE DELETE ON usage_customer
WHEN EXISTS (SELECT 1 FROM usage_bill WHERE customer_id = OLD.id)
BEGIN
    SELECT RAISE(ABORT, 'a customer with bills keeps its id and currency');
END;

CREATE TRIGGER customer_with_bills_never_replaced BEFORE INSERT ON usage_customer
WHEN EXISTS (SELECT 1 FROM usage_customer WHERE id = NEW.id AND currency <> NEW.currency)
    AND EXISTS (SELECT 1 FROM usage_bill WHERE customer_id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'a customer with bills keeps its id and currency');
END;

CREATE TRIGGER customer_replaces_none_with_bills BEFORE UPDATE OF id ON usage_customer
WHEN OLD.id <> NEW.id AND EXISTS (SELECT 1 FROM usage_bill WHERE customer_id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'a customer with bills keeps its id and currency');
END;
