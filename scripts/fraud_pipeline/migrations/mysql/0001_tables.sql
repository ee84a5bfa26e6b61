-- The tables of release 0.1.0.

CREATE TABLE IF NOT EXISTS label_progress (
    name                VARCHAR(64) NOT NULL PRIMARY KEY,
    last_xid            BIGINT UNSIGNED NOT NULL,
    last_transaction_id BIGINT UNSIGNED NOT NULL DEFAULT 0,
    reported_until      DATETIME(6) NOT NULL DEFAULT '1970-01-01'
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;

CREATE TABLE IF NOT EXISTS fraud_labels (
    transaction_id BIGINT UNSIGNED NOT NULL PRIMARY KEY,
    is_fraud       TINYINT(1) NOT NULL,
    fraud_type     VARCHAR(32) NULL,
    confidence     DECIMAL(5,4) NOT NULL,
    label_source   VARCHAR(32) NOT NULL,
    detected_at    DATETIME(6) NOT NULL,
    created_at     TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    updated_at     TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6),
    KEY updated_at (updated_at)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;
