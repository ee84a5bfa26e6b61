-- check: a label names a kind of fraud if it says fraud, and only then
-- database: airbyte-mysql
SELECT transaction_id, is_fraud, fraud_type
FROM fraud_labels
WHERE is_fraud <> (fraud_type IS NOT NULL)
