-- Two comments begin a check, and its query returns what is wrong; a file may have several. docs/data.md says more.
-- They run by `pipectl verify-db --sql scripts/checks`, and in a DAG by scripts/sql_checks.py.

-- check: every payment has the merchant category of its terminal
-- database: airbyte-postgres
SELECT p.transaction_id, p.terminal_id, p.mcc, t.mcc AS mcc_of_terminal
FROM public.transactions AS p
JOIN public.terminals AS t USING (terminal_id)
WHERE p.mcc <> t.mcc
