-- The row of usage_usagerecord, with its primary key and nothing else to keep in step.
CREATE TABLE usage_record (
    request_id varchar(133) PRIMARY KEY,
    customer_id bigint NOT NULL,
    bill_id bigint NOT NULL,
    service varchar(100) NOT NULL,
    units numeric(18, 6) NOT NULL,
    price_per_unit numeric(18, 12) NOT NULL,
    occurred_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    late boolean NOT NULL,
    reported_by_id bigint,
    voids_id varchar(133),
    void_reason varchar(500) NOT NULL,
    voided_by varchar(150) NOT NULL
);
