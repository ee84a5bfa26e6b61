#!/bin/sh
# Install a Docker engine with Compose and buildx on a Debian machine, for the tests. Needs root.
#
#   tests/images/install-engine.sh [FOLDER]
#
# The engine comes from a newer Debian than bookworm, whose own is too old for our health checks, and is
# unpacked into FOLDER rather than installed, so that nothing else on the machine is upgraded. runc must fit
# the machine's C library, so it comes from the machine's own release.
set -eu
unset CDPATH

ENGINE=${1:-/opt/pipectl-engine}
RELEASE=trixie
PACKAGES="docker.io containerd docker-cli docker-compose docker-buildx tini"
LIST=$ENGINE/sources.list

say() { echo "install-engine: $*" >&2; }

if [ "$(cat "$ENGINE/installed" 2>/dev/null)" = "$RELEASE $PACKAGES" ]; then
    say "$ENGINE is complete"
    exit 0
fi

# The mirror that the machine already uses serves the other release too.
mirror() {
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
        sed -nE -e 's/^URIs:[[:space:]]*([^[:space:]]+).*/\1/p' \
            -e 's/^deb[[:space:]]+(\[[^]]*\][[:space:]]+)?([^[:space:]]+).*/\2/p' |
        grep -E '/debian/?$' | head -n 1
}
MIRROR=$(mirror)
[ -n "$MIRROR" ] || { say "no Debian mirror is configured in /etc/apt"; exit 1; }

mkdir -p "$ENGINE/lists/partial" "$ENGINE/cache/archives/partial" "$ENGINE/packages"
say "installing debootstrap, iptables and runc"
missing=""
for package in debootstrap iptables runc; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
    # shellcheck disable=SC2086  # a list of names
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null 2>&1 || {
        apt-get update -qq
        # shellcheck disable=SC2086
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null
    }
fi

say "fetching the engine from $RELEASE"
echo "deb $MIRROR $RELEASE main" >"$LIST"
own_apt() {
    apt-get -qq -o Dir::Etc::SourceList="$LIST" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$ENGINE/lists" -o Dir::Cache="$ENGINE/cache" "$@"
}
own_apt update
# shellcheck disable=SC2086  # a list of names
(cd "$ENGINE/packages" && own_apt -o APT::Sandbox::User=root download $PACKAGES)
for package in "$ENGINE"/packages/*.deb; do
    dpkg -x "$package" "$ENGINE"
done

# The Docker client looks for Compose and buildx where this file says.
mkdir -p "$ENGINE/config"
plugins=$(dirname "$(find "$ENGINE/usr" -name docker-compose -path '*cli-plugins*' | head -n 1)")
echo "{\"cliPluginsExtraDirs\": [\"$plugins\"]}" >"$ENGINE/config/config.json"
rm -rf "$ENGINE/lists" "$ENGINE/cache" "$ENGINE/packages"
echo "$RELEASE $PACKAGES" >"$ENGINE/installed"
say "$("$ENGINE/usr/bin/docker" --config "$ENGINE/config" compose version) is in $ENGINE"
