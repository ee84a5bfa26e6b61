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
pin pyproject.toml --group build --group dev --output-file tests/requirements.txt
pin stack/postgres-requirements.in --no-deps --output-file stack/postgres-requirements.txt
pin stack/airflow-requirements.in --override stack/airflow-overrides.txt --output-file stack/airflow-requirements.txt
# The same versions in the tests' image, but for what FAB asks of python-dateutil: its flask-appbuilder takes no 4.
constraints=$(mktemp)
trap 'rm -f "$constraints"' EXIT
sed -n 's/^\([a-z0-9].*\) \\$/\1/p' stack/airflow-requirements.txt | grep -v '^python-dateutil==' >"$constraints"
pin tests/images/airflow/requirements.in --override stack/airflow-overrides.txt \
    --constraint "$constraints" --output-file tests/images/airflow/requirements.txt
