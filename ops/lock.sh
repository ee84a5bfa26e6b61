#!/bin/sh
# Pin every dependency by hash, without download addresses: which index serves them is the user's choice.
set -eu
unset CDPATH
cd "$(dirname "$0")/.."
pin() {
    # By pipectl, which leaves the caller's other settings for uv out.
    .venv/bin/python -I -m pipectl.engines.local.uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --no-annotate --no-header "$@"
}
pin pyproject.toml --group build --output-file ops/requirements.txt
pin pyproject.toml --extra export --group build --group dev --output-file tests/requirements.txt
# Alone: whoever exports adds it to what ops/requirements.txt has.
pin ops/export.in --output-file ops/export.txt
pin ops/site.in --output-file ops/site.txt
pin stack/postgres-requirements.in --no-deps --output-file stack/postgres-requirements.txt
pin stack/pytest-requirements.in --output-file stack/pytest-requirements.txt
pin tests/debezium/requirements.in --output-file tests/debezium/requirements.txt
pin stack/airflow-requirements.in --override stack/airflow-overrides.txt --output-file stack/airflow-requirements.txt
# The tests' image has the same Airflow; its other versions are those of its extras, as in the official image.
constraint=$(mktemp)
trap 'rm -f "$constraint"' EXIT
sed -n 's/^\(apache-airflow-core==[^ ]*\).*/\1/p' stack/airflow-requirements.txt >"$constraint"
pin tests/images/airflow/requirements.in --override stack/airflow-overrides.txt \
    --override tests/images/airflow/overrides.txt --constraint "$constraint" \
    --output-file tests/images/airflow/requirements.txt
