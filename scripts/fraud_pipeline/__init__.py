"""What the two scripts share: connections, schema, transactions, labels, log lines and alerts.

Runs inside Airflow's environment, so it needs only the standard library, psycopg2 and mysql-connector-python.
"""
