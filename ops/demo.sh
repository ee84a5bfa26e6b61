#!/bin/sh
# The whole pipeline on this machine, for real: up, verify, trigger, verify.
set -eu
unset CDPATH PYTHONHOME PYTHONPATH
cd "$(dirname "$0")/.."
pipectl=.venv/bin/pipectl

run() {
    printf '\n$ pipectl %s\n' "$*"
    "$pipectl" "$@"
}

run up
# A first demo starts with empty databases; after one, its rows are there, which is as it should be.
if ! run verify-db; then
    printf '\nThe databases hold the rows of earlier runs, so the demo empties them and looks again.\n'
    run reset --data-only --yes
    run verify-db
fi
run trigger
run verify-db --expect reconciled
run status
printf '\nLook around:   %s (admin / admin), %s status\n' "$("$pipectl" open --url)" "$pipectl"
printf 'Run it again:  %s trigger\n' "$pipectl"
printf 'Stop:          %s down        Start anew: %s reset\n' "$pipectl" "$pipectl"
