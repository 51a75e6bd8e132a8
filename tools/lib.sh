# What the tools share: where things are, how they talk, how they become root.
# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck shell=bash
set -euo pipefail
tool=$(realpath "$0")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cache=$PWD/.cache
logs=$cache/logs
venv=$cache/venv
# molecule and ansible-lint call their helpers by name. Shims of a Python version manager only look like interpreters.
PATH=$venv/bin:$(tr : '\n' <<<"$PATH" | grep -v '/shims$' | paste -sd :):/usr/sbin:/sbin
export PATH
export ANSIBLE_COLLECTIONS_PATH=$cache/collections
export ANSIBLE_HOME=$cache/ansible # nothing of ours in the person's ~/.ansible, and nothing of theirs here
export ANSIBLE_PIPELINING=true # one round trip a task instead of three
export HYPOTHESIS_STORAGE_DIRECTORY=$cache/hypothesis
export XDG_RUNTIME_DIR=$cache/run # where the lookups keep their profiles
mkdir -p "$logs" "$XDG_RUNTIME_DIR"
chmod 0700 "$XDG_RUNTIME_DIR"

say() { printf '==> %s\n' "$*"; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# step DESCRIPTION COMMAND...: run it with its output in a log, show every few seconds that it is alive, and
# print the end of the log if it fails.
step() {
    local what=$1 log started=$SECONDS child sign_of_life=10
    log=$logs/$(tr -cs 'a-zA-Z0-9\n' - <<<"$1").log
    shift
    printf '==> %s ...\n' "$what"
    # The locks are ours, not its; and dash, which mmdebstrap pipes through, knows descriptors of one digit only.
    "$@" >"$log" 2>&1 </dev/null 8>&- 9>&- &
    child=$!
    while kill -0 "$child" 2>/dev/null; do
        sleep 0.2
        if ((SECONDS - started >= sign_of_life)); then
            printf '    %s: %s s, still working (%s)\n' "$what" $((SECONDS - started)) "${log#"$PWD"/}"
            sign_of_life=$((sign_of_life + 10))
        fi
    done
    if ! wait "$child"; then
        tail -n 40 "$log" >&2
        die "$what failed; the whole log is ${log#"$PWD"/}"
    fi
}

# packages NAME...: install what is missing of these Debian packages. Jobs that run side by side take turns.
packages() {
    exec 8>"$cache/apt.lock"
    flock 8
    local missing=() name
    for name; do
        dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed || missing+=("$name")
    done
    [ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
    flock --unlock 8
}
package_lists() {
    [ -n "$(find /var/lib/apt/lists -name '*Packages*' -mtime -1 -print -quit 2>/dev/null)" ] ||
        step "updating the lists of packages" apt_get update
}
install_packages() {
    package_lists
    step "installing the packages $*" apt_get install -y --no-install-recommends "$@"
}

# apt_get ARGUMENT...: apt-get that waits up to five minutes for others (a new machine upgrades itself). Its own option is for
# dpkg's two locks only: who meets the lock of apt's lists, apt's archives or debconf fails at once, and can simply try again.
apt_get() {
    local output end=$((SECONDS + 300))
    until { output=$(as_root env LC_ALL=C DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 "$@" 2>&1 |
        tee >(cat >&3)); } 3>&1; do
        if ! grep -Eq 'Could not get lock|is locked by another process' <<<"$output" || ((SECONDS >= end)); then return 1; fi
        say "somebody else holds a lock that apt-get does not wait for: trying again"
        sleep 2
    done
}

# lay_out TREE PACKAGE... -- PROGRAM...: these Debian packages in TREE, to compare with, and their programs in TREE/bin:
# nothing is installed on the machine.
lay_out() {
    local tree=$1 packages=()
    shift
    while [ "$1" != -- ]; do
        packages+=("$1")
        shift
    done
    shift
    exec 7>"$cache/apt.lock" # jobs that run side by side take turns
    flock 7
    if [ ! -x "$tree/bin/${!###*/}" ]; then
        package_lists
        step "unpacking ${packages[*]}" unpack "$tree" "${packages[*]}" "$@"
    fi
    flock --unlock 7
}
unpack() {
    local tree=$1 wanted=$2 deb program
    shift 2
    mkdir -p "$tree/debs/partial" "$tree/bin"
    # --reinstall: also where a package is there. What it needs and the machine lacks comes along.
    # shellcheck disable=SC2086 # a list
    apt_get install -y --no-install-recommends --reinstall --download-only \
        -o Dir::Cache::archives="$tree/debs" -o APT::Sandbox::User=root $wanted
    for deb in "$tree"/debs/*.deb; do dpkg-deb --extract "$deb" "$tree"; done
    for program; do
        printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' \
            "$tree/usr/lib/$(uname -m)-linux-gnu" "$tree/$program" >"$tree/bin/${program##*/}"
        chmod +x "$tree/bin/${program##*/}"
    done
}

# controller NAME [OPTION...]: what tests/fleet/controllers/NAME.txt pins, in .cache/fleet/NAME, a tree that is as good as an
# environment to PYTHONPATH.
controller() {
    local pins=tests/fleet/controllers/$1.txt tree=$cache/fleet/$1 stamp
    stamp=$(sha256sum <"$pins")
    [ "$(cat "$tree/stamp" 2>/dev/null)" != "$stamp" ] || return 0
    as_root rm -rf "$tree"
    step "installing the controller $1" install_tree "$tree" --requirement "$pins" --no-deps "${@:2}"
    echo "$stamp" >"$tree/stamp"
}
install_tree() {
    local tree=$1
    shift
    # pip, which knows the mirrors and proxies of its own configuration, would ask its own Python whether a package suits.
    uv pip install --target "$tree" "$@" ||
        pip install --disable-pip-version-check --ignore-requires-python --target "$tree" "$@"
}

# The runtime directory of a Docker Engine that was started with a person's environment: without it no container can be entered
# (`docker exec`). Empty for one that has nothing of a person, as systemd and tools/docker start it.
engine_directory() {
    local pid
    if [ -d /run/systemd/system ] || ! pid=$(cat /run/docker.pid 2>/dev/null); then return; fi
    (as_root cat "/proc/$pid/environ" 2>/dev/null || true) | tr '\0' '\n' | sed -n 's/^XDG_RUNTIME_DIR=//p'
}

# needs_docker "$@": continue this tool with the docker group, which a login session that is older than the
# person's membership does not have yet.
needs_docker() {
    [ "$(id -u)" = 0 ] || [ -w /var/run/docker.sock ] || exec sg docker -c "$(printf '%q ' "$tool" "$@")"
}
