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
# A first demo starts with empty databases. Rows that are there already may be anybody's, so they stay.
code=0
run verify-db || code=$?
case $code in
0) ;;
6) printf '\nThe databases hold rows already: they stay, and the demo adds its own. To empty them: pipectl reset --data-only\n' ;;
*) exit "$code" ;;
esac
run trigger
run verify-db --expect reconciled
run status
printf '\nLook around:   %s (admin / admin), %s status\n' "$("$pipectl" open --url)" "$pipectl"
printf 'Run it again:  %s trigger\n' "$pipectl"
printf 'Stop:          %s down        Start anew: %s reset\n' "$pipectl" "$pipectl"
