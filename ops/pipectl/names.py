"""Names that the command line and the settings share, apart so that `--help` need not import settings."""

import re

DAG_ID = "generate_transaction_and_labels"
# Airflow's own rule.
DAG_ID_RULE = "at most 250 letters, digits, dashes, dots and underscores"
_DAG_ID = re.compile(r"[\w.-]{1,250}")


def is_dag_id(text: str) -> bool:
    """Whether Airflow would take a text as a DAG's id."""
    return _DAG_ID.fullmatch(text) is not None
