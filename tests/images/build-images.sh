#!/bin/bash
# Build stand-ins for the official images where no registry can be reached, under the official names.
#
#   tests/images/build-images.sh            needs a running engine (start-engine.sh), and root for the first
#
# Each is the real server or the real Airflow from Debian's and Python's packages. An image is built again only
# when its recipe changes, and an official image that is there already is left alone.
set -euo pipefail
unset CDPATH
cd "$(dirname "$0")"

LABEL=org.pipectl.recipe
RELEASE=trixie
BASE=pipectl-test/debian:$RELEASE
POSTGRES=postgres:17 MYSQL=mysql:8.4 REDIS=redis:7
AIRFLOW=apache/airflow:$(sed -n 's/^apache-airflow-core==\([^ ]*\).*/\1/p' ../../stack/airflow-requirements.txt)
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

say() { echo "build-images: $*" >&2; }

# Succeeds where the image is there, built from this recipe or an official one.
is_current() {
    local found
    found=$(docker image inspect --format "{{index .Config.Labels \"$LABEL\"}}" "$1" 2>/dev/null) || return 1
    [ -z "$found" ] || [ "$found" = "$2" ]
}

recipe() { sha256sum | cut -c 1-16; }

# What package installers need on this machine, and no image may remember.
settings() {
    local name
    for name in UV_DEFAULT_INDEX UV_INDEX_URL HTTP_PROXY HTTPS_PROXY NO_PROXY http_proxy https_proxy no_proxy; do
        [ -z "${!name:-}" ] || printf 'export %s=%q\n' "$name" "${!name}"
    done
    echo 'export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt'
}

build_base() {
    local root=$WORK/root mirror
    mirror=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources 2>/dev/null || true; } |
        sed -nE -e 's/^URIs:[[:space:]]*([^[:space:]]+).*/\1/p' \
            -e 's/^deb[[:space:]]+(\[[^]]*\][[:space:]]+)?([^[:space:]]+).*/\2/p' |
        grep -E '/debian/?$' | head -n 1)
    say "building $BASE"
    debootstrap --variant=minbase --include=ca-certificates,gosu "$RELEASE" "$root" "$mirror" >"$WORK/base.log" 2>&1 ||
        { tail -n 20 "$WORK/base.log" >&2; return 1; }
    # A mirror reached through an inspecting proxy needs the machine's own certificates and patience with dates.
    mkdir -p "$root/usr/local/share/ca-certificates"
    find /usr/local/share/ca-certificates -name '*.crt' -exec cp -t "$root/usr/local/share/ca-certificates" {} +
    chroot "$root" update-ca-certificates >/dev/null 2>&1
    printf 'Acquire::Check-Valid-Until "false";\nAcquire::Check-Date "false";\n' >"$root/etc/apt/apt.conf.d/90mirror"
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    tar -C "$root" -c . | docker import --change "LABEL $LABEL=$1" - "$BASE" >/dev/null
    rm -rf "$root"
}

# build_image NAME FOLDER RECIPE: a log per image, shown where it fails.
build_image() {
    say "building $1"
    DOCKER_BUILDKIT=1 docker build --network host --secret "id=settings,src=$WORK/settings" --label "$LABEL=$3" \
        --tag "$1" "$2" >"$WORK/$(basename "$2").log" 2>&1 ||
        { tail -n 30 "$WORK/$(basename "$2").log" >&2; say "$1 could not be built"; return 1; }
}

base_recipe=$(declare -f build_base | recipe)
is_current "$BASE" "$base_recipe" || build_base "$base_recipe"
settings >"$WORK/settings"
cp -r airflow "$WORK/airflow"
cp "${UV:-../../.venv/bin/uv}" "$WORK/airflow/uv"

declare -A folders=([$POSTGRES]=postgres [$MYSQL]=mysql [$REDIS]=redis [$AIRFLOW]=airflow)
jobs=()
for name in "${!folders[@]}"; do
    folder=${folders[$name]}
    wanted=$base_recipe-$(cat "$folder"/* | recipe)
    is_current "$name" "$wanted" && continue
    [ "$folder" = airflow ] && folder=$WORK/airflow
    build_image "$name" "$folder" "$wanted" &
    jobs+=($!)
done
for job in ${jobs[@]+"${jobs[@]}"}; do
    wait "$job"
done
say "there are $POSTGRES $MYSQL $REDIS $AIRFLOW"
