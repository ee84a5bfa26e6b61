"""What pipectl knows of the pipeline's tables: every name, and every statement that reads one by its columns.

The scripts make these tables (`scripts/fraud_pipeline/migrations`), and pipectl never imports the scripts.
tests/unit/test_one_truth_databases.py holds the names against theirs; tests/integration/test_published.py has
both servers check each statement against tables that the migrations have made.
"""

# ruff: noqa: S608 -- every statement is made of this module's constants

from __future__ import annotations

TRANSACTIONS = "public.transactions"
CUSTOMERS = "public.customers"
TERMINALS = "public.terminals"
GROUND_TRUTH = "sim.ground_truth"
BATCHES = "sim.batches"
LOADS = "sim.loads"
LABELS = "fraud_labels"
# How far labels have come.
PROGRESS = "label_progress"
# The records of schema migrations: no data, so they are neither counted nor emptied.
MIGRATION_RECORDS = ("sim.schema_migrations", "schema_migrations")

# As the scripts lock them, so that nobody waits in a circle: a load, a batch, its rows, and those that these
# name. Deleted in this order, no row names one that is gone already.
WRITTEN_IN_ORDER = (LOADS, BATCHES, TRANSACTIONS, GROUND_TRUTH, CUSTOMERS, TERMINALS)

PUBLICATION = "airbyte_publication"
SLOT = "airbyte_slot"
# Known to MySQL 8 and 9 and to MariaDB, unlike the driver's default.
MYSQL_COLLATION = "utf8mb4_unicode_ci"

# Whether a table exists, in a row; in MySQL a row if it does.
HAS_TRANSACTIONS = f"SELECT to_regclass('{TRANSACTIONS}') IS NOT NULL"
HAS_GROUND_TRUTH = f"SELECT to_regclass('{GROUND_TRUTH}') IS NOT NULL"
HAS_DIMENSIONS = f"SELECT to_regclass('{CUSTOMERS}') IS NOT NULL AND to_regclass('{TERMINALS}') IS NOT NULL"
HAS_BATCHES = f"SELECT to_regclass('{BATCHES}') IS NOT NULL"
HAS_LOADS = f"SELECT to_regclass('{BATCHES}') IS NOT NULL AND to_regclass('{LOADS}') IS NOT NULL"
HAS_LABELS = f"SHOW TABLES LIKE '{LABELS}'"

# The ids of a batch, which follow one another: the rows of the transaction that wrote the batch's own row.
# The xmin of that row is the low half of a transaction's number; the high half is that of the numbers given
# now, or the one before.
BATCH = f"""
    SELECT min(t.transaction_id), max(t.transaction_id), count(t.transaction_id)
    FROM (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::numeric AS next, xmin::text::numeric AS low
          FROM {BATCHES} WHERE batch_id = %s::text) AS batch
    CROSS JOIN LATERAL (SELECT low + 4294967296 * floor((next - low) / 4294967296) AS number) AS writer
    LEFT JOIN {TRANSACTIONS} AS t ON t.xid = number::text::xid8
    GROUP BY batch.low"""
BATCH_LABELS = f"""
    SELECT COUNT(*), COALESCE(SUM(is_fraud), 0) FROM {LABELS} WHERE transaction_id BETWEEN %s AND %s"""
# Ids counted in ranges of a size, with the latest transaction, how many of them name a customer or terminal
# without a row, the earliest label and the latest date that a label has; then each id and its time, from one
# id to below another, labels packed as for the export. Ids below 0 are in the range -1. DISTINCT, so that
# each transaction is counted once whatever the other tables hold.
_BUCKET = "CASE WHEN transaction_id < 0 THEN -1 ELSE transaction_id / %s END"
TRANSACTION_BUCKETS = f"""
    SELECT {_BUCKET}, count(*), extract(epoch FROM max(created_at)), 0
    FROM {TRANSACTIONS} GROUP BY 1"""
NAMING_BUCKETS = f"""
    SELECT {_BUCKET}, count(*), extract(epoch FROM max(created_at)),
           count(*) FILTER (WHERE c.customer_id IS NULL OR t.terminal_id IS NULL)
    FROM {TRANSACTIONS} LEFT JOIN (SELECT DISTINCT customer_id FROM {CUSTOMERS}) AS c USING (customer_id)
                        LEFT JOIN (SELECT DISTINCT terminal_id FROM {TERMINALS}) AS t USING (terminal_id)
    GROUP BY 1"""
# The same of many transactions: a byte for each number from the lowest to the highest says whether it has a
# row, which takes a quarter of the join's time for each transaction, and some time for each number.
DIMENSION_ENDS = f"""
    SELECT coalesce((SELECT max(customer_id)::bigint - min(customer_id) FROM {CUSTOMERS}), 0)
         + coalesce((SELECT max(terminal_id)::bigint - min(terminal_id) FROM {TERMINALS}), 0)"""
_BYTES = """
    SELECT low, high, string_agg(CASE WHEN {key} IS NULL THEN '\\x00'::bytea ELSE '\\x01'::bytea END,
                                 ''::bytea ORDER BY number) AS is_there
    FROM (SELECT min({key}) AS low, max({key}) AS high FROM {table}) AS ends
    CROSS JOIN LATERAL generate_series(low, high) AS number
    LEFT JOIN (SELECT DISTINCT {key} FROM {table}) AS rows ON {key} = number
    GROUP BY low, high"""
_LACKS = """
    CASE WHEN {key} BETWEEN (SELECT low FROM {bytes}) AND (SELECT high FROM {bytes})
         THEN get_byte((SELECT is_there FROM {bytes}), {key} - (SELECT low FROM {bytes})) = 0
         ELSE true END"""
MAPPED_BUCKETS = f"""
    WITH customer_bytes AS MATERIALIZED ({_BYTES.format(key="customer_id", table=CUSTOMERS)}),
         terminal_bytes AS MATERIALIZED ({_BYTES.format(key="terminal_id", table=TERMINALS)})
    SELECT {_BUCKET}, count(*), extract(epoch FROM max(created_at)),
           count(*) FILTER (WHERE {_LACKS.format(key="customer_id", bytes="customer_bytes")}
                               OR {_LACKS.format(key="terminal_id", bytes="terminal_bytes")})
    FROM {TRANSACTIONS} GROUP BY 1"""
LABEL_ENDS = f"SELECT COALESCE(MIN(transaction_id), 0), COALESCE(MAX(transaction_id), 0) FROM {LABELS}"
LABEL_BUCKETS = f"""
    SELECT transaction_id DIV %s, COUNT(*), UNIX_TIMESTAMP(MIN(created_at)),
           COALESCE(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', MAX(detected_at)), 0) / 1000000
    FROM {LABELS} WHERE transaction_id BETWEEN %s AND %s GROUP BY 1"""
TRANSACTION_TIMES = f"""
    SELECT transaction_id, extract(epoch FROM created_at)
    FROM {TRANSACTIONS} WHERE transaction_id >= %s AND transaction_id < %s"""
LABEL_TIMES = f"""
    SELECT COUNT(*), GROUP_CONCAT(transaction_id, ' ', UNIX_TIMESTAMP(created_at), ' ' SEPARATOR '')
    FROM {LABELS} WHERE transaction_id >= %s AND transaction_id < %s"""
LONG_ANSWERS = "SET SESSION group_concat_max_len = 16000000"
# How many are dated later than a number of seconds since 1970.
TRANSACTIONS_AHEAD = f"SELECT count(*) FROM {TRANSACTIONS} WHERE created_at > to_timestamp(%s)"
LABELS_AHEAD = f"""
    SELECT COUNT(*) FROM {LABELS} WHERE detected_at > TIMESTAMP('1970-01-01') + INTERVAL %s SECOND"""
# When both servers are asked what time it is.
POSTGRES_CLOCK = "SELECT extract(epoch FROM clock_timestamp())"
MYSQL_CLOCK = "SELECT UNIX_TIMESTAMP(NOW(6))"
# Why transactions, from one id to another, have no label: how many were written by a transaction before the
# mark, after it, beside one that is still open, by another cluster, and with an id that no label can have.
HAS_PROGRESS = f"SHOW TABLES LIKE '{PROGRESS}'"
MARK = f"SELECT * FROM {PROGRESS} WHERE name = '{LABELS}'"
CLUSTER = """
    SELECT CASE WHEN has_function_privilege('pg_control_system()', 'EXECUTE')
                THEN (SELECT system_identifier::numeric FROM pg_control_system()) END"""
CAUSES = f"""
    SELECT count(*) FILTER (WHERE transaction_id >= 0 AND (xid, transaction_id) <= (%s::text::xid8, %s)
                              AND xid < pg_snapshot_xmin(now)),
           count(*) FILTER (WHERE transaction_id >= 0 AND (xid, transaction_id) > (%s::text::xid8, %s)
                              AND xid < pg_snapshot_xmin(now)),
           count(*) FILTER (WHERE transaction_id >= 0 AND xid >= pg_snapshot_xmin(now)
                              AND xid < pg_snapshot_xmax(now)),
           count(*) FILTER (WHERE transaction_id >= 0 AND xid >= pg_snapshot_xmax(now)),
           count(*) FILTER (WHERE transaction_id < 0)
    FROM {TRANSACTIONS}, pg_current_snapshot() AS now WHERE """
CAUSES_OF_RANGE = f"{CAUSES} transaction_id BETWEEN %s AND %s"
CAUSES_OF_IDS = f"{CAUSES} transaction_id = ANY(%s)"
# Transactions that no label has come to yet, and for how many seconds the oldest waits.
WAITING = f"""
    SELECT count(*), COALESCE(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8
    FROM {TRANSACTIONS} WHERE transaction_id >= 0 AND (xid, transaction_id) > (%s::text::xid8, %s)"""

# For what is watched; each reads an index, and no more rows than its last value. Rows written in the last
# minute; how far labels have come; transactions after that, and for how many seconds the first has waited.
LATEST_COUNT = 2_000
WRITTEN_TRANSACTIONS = f"""
    SELECT count(*) FROM (SELECT FROM {TRANSACTIONS}
                          WHERE updated_at > now() - interval '1 minute' LIMIT %s) AS written"""
WRITTEN_LABELS = f"""
    SELECT COUNT(*) FROM (SELECT 1 FROM {LABELS}
                          WHERE updated_at > NOW(6) - INTERVAL 1 MINUTE LIMIT %s) AS written"""
LABELLED = f"SELECT last_xid, last_transaction_id FROM {PROGRESS} WHERE name = '{LABELS}'"
WAITING_TRANSACTIONS = f"""
    SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8
    FROM (SELECT created_at FROM {TRANSACTIONS}
          WHERE (xid, transaction_id) > (%s::text::xid8, %s) AND transaction_id >= 0
          ORDER BY xid, transaction_id LIMIT %s) AS waiting"""
LATEST_FRAUDS = f"""
    SELECT COUNT(*), COALESCE(SUM(is_fraud), 0)
    FROM (SELECT is_fraud FROM {LABELS} ORDER BY transaction_id DESC LIMIT {LATEST_COUNT}) AS latest"""

# What the servers take a table's number of rows to be, without counting.
POSTGRES_ESTIMATE = "EXPLAIN (FORMAT JSON) SELECT FROM {table}"
MYSQL_ESTIMATE = """
    SELECT COALESCE(table_rows, 0) FROM information_schema.tables
    WHERE table_schema = DATABASE() AND table_name = %s"""

# For the report. {truth} is GROUND_TRUTH, or NO_GROUND_TRUTH if that does not exist.
# OFFSET 0 keeps the planner from expecting as many hours as there are times, which it would sort on disk.
ROWS = f"""
    SELECT tx_time, amount, COALESCE(g.scenario, '') AS scenario
    FROM {TRANSACTIONS} LEFT JOIN {{truth}} AS g USING (transaction_id) OFFSET 0"""
# Of a table too large to read all of it: every fraud, each found by its key; and of the honest
# transactions those with the first SAMPLE_RUN ids of every {step}.
SAMPLE_RUN = 10
FRAUD_ROWS = f"""
    SELECT tx_time, amount, g.scenario FROM {{truth}} AS g
    CROSS JOIN LATERAL (SELECT tx_time, amount FROM {TRANSACTIONS} AS t
                        WHERE t.transaction_id = g.transaction_id LIMIT 1) AS t"""
HONEST_SAMPLE = f"""
    SELECT tx_time, amount, '' AS scenario
    FROM (SELECT min(transaction_id) AS low, max(transaction_id) AS high FROM {TRANSACTIONS}) AS ends
    CROSS JOIN LATERAL generate_series(low, high, {{step}}) AS first
    CROSS JOIN LATERAL (SELECT tx_time, amount, transaction_id FROM {TRANSACTIONS}
                        WHERE transaction_id >= first AND transaction_id < first + {SAMPLE_RUN}) AS t
    LEFT JOIN {{truth}} AS g USING (transaction_id) WHERE g.transaction_id IS NULL OFFSET 0"""
# Of such rows, how many of each scenario are in each {unit} of time, and how many have each amount.
COUNTS = """
    SELECT scenario, unit, cents, count(*) FROM (
        SELECT scenario, date_trunc('{unit}', tx_time) AS unit,
               CASE WHEN amount > 0 AND amount <> 'NaN' THEN (amount * 100)::bigint END AS cents
        FROM ({rows}) AS r) AS r
    GROUP BY GROUPING SETS ((scenario, unit), (scenario, cents)) ORDER BY unit"""
NO_GROUND_TRUTH = "(SELECT NULL::bigint AS transaction_id, NULL::text AS scenario WHERE false)"
COUNT_TRANSACTIONS = f"SELECT count(*) FROM {TRANSACTIONS}"
COUNT_LABELS = f"SELECT COUNT(*) FROM {LABELS}"
LATEST_TRANSACTIONS = f"""
    SELECT transaction_id, extract(epoch FROM created_at)::float8
    FROM {TRANSACTIONS} ORDER BY transaction_id DESC LIMIT %s"""
# When a load wrote its chunks: their rows have the same time, that of the transaction.
LOAD_TIMES = f"""
    SELECT extract(epoch FROM b.created_at)::float8
    FROM {BATCHES} AS b JOIN {LOADS} AS l ON starts_with(b.batch_id, l.load_id || '/')"""
# The latest rows of batches that are no load's, found as BATCH does.
LATEST_SCHEDULED = f"""
    SELECT t.transaction_id, extract(epoch FROM t.created_at)::float8
    FROM (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::numeric AS next, xmin::text::numeric AS low
          FROM {BATCHES} AS b
          WHERE NOT EXISTS (SELECT FROM {LOADS} AS l WHERE starts_with(b.batch_id, l.load_id || '/'))
          ORDER BY created_at DESC LIMIT 100) AS batch
    CROSS JOIN LATERAL (SELECT low + 4294967296 * floor((next - low) / 4294967296) AS number) AS writer
    JOIN {TRANSACTIONS} AS t ON t.xid = number::text::xid8
    ORDER BY t.transaction_id DESC LIMIT %s"""
LABELS_BY_TYPE = f"""
    SELECT COALESCE(fraud_type, ''), is_fraud, COUNT(*), SUM(updated_at > created_at)
    FROM {LABELS} GROUP BY 1, 2"""
# The same of those that say fraud: MySQL groups all of a large table four times as long as it reads it.
FRAUD_LABELS_BY_TYPE = f"""
    SELECT COALESCE(fraud_type, ''), is_fraud, COUNT(*), SUM(updated_at > created_at)
    FROM {LABELS} WHERE is_fraud = 1 GROUP BY 1, 2"""
LATEST_LABELS = f"""
    SELECT transaction_id, UNIX_TIMESTAMP(created_at)
    FROM {LABELS} WHERE transaction_id BETWEEN %s AND %s"""

# For the export. Labels come packed, 10,000 in a row, and quoted as in CSV: the driver is slow at many rows.
EXPORTED_TRANSACTIONS = f"""
    COPY (SELECT transaction_id, tx_time AT TIME ZONE 'UTC', customer_id, card_id, terminal_id, mcc, amount,
                 currency, channel, country, lat, lon, status, device_id
          FROM {TRANSACTIONS} WHERE {{bounds}} ORDER BY transaction_id LIMIT {{chunk}})
    TO STDOUT (FORMAT csv)"""
TRANSACTION_ENDS = f"""
    SELECT to_char(min(tx_time) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'),
           to_char(max(tx_time) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') FROM {TRANSACTIONS}"""
EXPORTED_CUSTOMERS = f"""
    COPY (SELECT customer_id, country, lat, lon, segment, cards, opened_on FROM {CUSTOMERS} ORDER BY 1)
    TO STDOUT (FORMAT csv)"""
EXPORTED_TERMINALS = f"""
    COPY (SELECT terminal_id, mcc, channel, country, lat, lon FROM {TERMINALS} ORDER BY 1)
    TO STDOUT (FORMAT csv)"""
PACKED_LABELS = f"""
    SELECT COUNT(*), GROUP_CONCAT(
        transaction_id,
        IF(is_fraud,
           CONCAT(',1,', IF(fraud_type IS NULL, '', CONCAT('"', REPLACE(fraud_type, '"', '""'), '"')),
                  ',"', REPLACE(label_source, '"', '""'), '",', detected_at),
           ',0,,,') SEPARATOR '\n')
    FROM {LABELS} WHERE transaction_id BETWEEN %s AND %s GROUP BY transaction_id DIV 10000"""

# For change data capture: the tables that are published, what the asking account may do with each, and
# whether the publication has all changes, and which tables it lacks.
CAPTURED = (TRANSACTIONS, CUSTOMERS, TERMINALS)
TABLES_CAPTURE = f"""
    SELECT name, relation IS NOT NULL, has_table_privilege(relation, 'SELECT'),
           has_table_privilege(relation, 'INSERT, UPDATE, DELETE, TRUNCATE'),
           EXISTS (SELECT FROM pg_index WHERE indrelid = relation AND indisprimary),
           (SELECT relreplident FROM pg_class WHERE oid = relation)
    FROM (SELECT name, to_regclass(name) AS relation FROM unnest(ARRAY{list(CAPTURED)}) AS name) AS found"""
PUBLISHES_TABLES = f"""
    SELECT pubinsert AND pubupdate AND pubdelete,
           ARRAY(SELECT name FROM unnest(ARRAY{list(CAPTURED)}) AS name WHERE NOT EXISTS (
                     SELECT FROM pg_publication_tables AS t
                     WHERE t.pubname = p.pubname AND schemaname || '.' || tablename = name))
    FROM pg_publication AS p WHERE pubname = '{PUBLICATION}'"""
LABELS_CAPTURE = f"""
    SELECT MAX(column_key = 'PRI') FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = '{LABELS}' GROUP BY table_name"""
