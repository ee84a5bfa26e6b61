"""Names that the command line and the settings share, apart so that `--help` need not import settings."""

DAG_ID = "generate_transaction_and_labels"
