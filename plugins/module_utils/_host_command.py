# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host needs to resolve a change of its firewall alone: the command `knock-firewall`, and the units that run it.

It is a shell script, and not Python, because it has to work when nothing else does: at boot, on a full disk, after the
death of whoever began the change. The module `sesame.knock.firewall` installs it before it changes anything.
"""

from __future__ import annotations

from ._lock import SHELL

STATE = "/var/lib/knock_firewall"
CHANGE = STATE + "/change"
"""The journal of the one change that may be under way; no folder, no change. It holds `token`, `deadline` (seconds
since 1970, for people), the scripts `undo`, `discard` and `finish`, and one of two markers: `armed`, which becomes
`confirmed` by a rename. Without a marker, nothing has been changed yet."""
DONE = STATE + "/done"
"""The journal of the last change, for who asks how it ended."""
KEEP = STATE + "/keep"
"""A script that puts back our rules (`keep rules`) if somebody has taken them away, and the files of them
(`keep files`) if the boot could not load what somebody has made of them; it is there while we protect the host."""
ORIGINAL = STATE + "/original/files"
"""The files of before the first change, for uninstalling."""

COMMAND = "/usr/local/sbin/knock-firewall"
TIMER = "knock-firewall-revert"

SCRIPT = """\
#!/bin/sh
# Resolves a change of the firewall, whatever has become of whoever began it.
# Written by the module sesame.knock.firewall.
#
#   knock-firewall status           says what is under way
#   knock-firewall confirm TOKEN    keeps the change: from here on the host finishes it alone
#   knock-firewall revert [TOKEN]   puts back what was before, unless the change has been confirmed
#   knock-firewall resolve TOKEN    at the deadline: finishes what is confirmed, puts back what is not
#   knock-firewall boot             the same at boot, before the rules are loaded; sees that they can be loaded
#   knock-firewall check            puts our rules back if somebody has taken them away
set -u
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
umask 077 # what this makes is root's alone from the moment that it is there
trap '' HUP # ssh may end in the middle
state=@STATE@
change=$state/change

is_systemd() { [ -d /run/systemd/system ]; }

# A token names a change, so that nobody confirms or reverts another one.
is_ours() { [ -z "${1-}" ] || [ "$(cat "$change/token" 2>/dev/null)" = "$1" ]; }
was_kept() { [ -e "$state/done/confirmed" ] && [ "$(cat "$state/done/token" 2>/dev/null)" = "${1-}" ]; }

# The journal goes in one step. What is left tells who asks again, because an answer was lost, how it ended. A journal
# that was never armed says nothing.
forget() {
    if [ -e "$change/armed" ] || [ -e "$change/confirmed" ]; then
        rm -rf "$state/done"
        mv "$change" "$state/done" || return 1
    else
        rm -rf "$change"
    fi
    if is_systemd && [ "${command-}" != boot ]; then systemctl stop @TIMER@.timer 2>/dev/null; fi
    return 0
}

# `rules` or `files`: what somebody has taken away, or broken, is as the last change has left it.
keep() { if [ -e @KEEP@ ]; then sh @KEEP@ "$1"; fi; }

# From `confirmed` on there is no way back. Each step can be repeated.
finish() {
    sh "$change/finish" || return 1
    if [ "$command" != boot ]; then # where files are loaded, and services started, after us
        keep rules || return 1
        if [ -e "$change/reload" ] && is_systemd && systemctl is-active --quiet knockd.service; then
            systemctl reload knockd.service || echo 'knockd does not reload: see journalctl -u knockd'
        fi
    fi
    forget
}

# No file was written yet, so after a boot there is nothing to undo.
undo() {
    if [ -e "$change/armed" ] && [ "$command" != boot ]; then sh "$change/undo" || return 1; fi
    sh "$change/discard"
    forget
}

resolve() {
    if [ -e "$change/confirmed" ]; then finish; else undo; fi
}

@SHELL@
command=${1-}
case $command in
status)
    if [ -d "$state" ] && [ ! -r "$state" ]; then
        echo 'only root can see what is under way' >&2
        exit 1
    elif [ -e "$change/confirmed" ]; then
        echo 'confirmed: the files are being written'
    elif [ -e "$change/armed" ]; then
        left=$(($(cat "$change/deadline") - $(date +%s)))
        echo "armed: undoes itself in $((left > 0 ? left : 0)) s, unless somebody confirms it:" \\
            "knock-firewall confirm $(cat "$change/token")"
    elif [ -e @KEEP@ ]; then
        echo 'closed: no change is under way'
    else
        echo 'open: no change is under way'
    fi
    exit
    ;;
confirm | revert | resolve | boot | check) ;;
*)
    sed -n 's/^#   //p' "$0" >&2
    exit 2
    ;;
esac

hold "$@"

case $command in
confirm)
    if was_kept "$2"; then exit; fi
    if ! is_ours "${2:?TOKEN is missing}"; then
        echo 'the change was not confirmed in time, another one came in between, or the host has rebooted:' \\
            'the rules of before are back, and no file was written' >&2
        exit 3
    fi
    if [ ! -e "$change/confirmed" ]; then
        mv "$change/armed" "$change/confirmed" || exit 1
        sync "$change"
    fi
    finish
    ;;
revert)
    if was_kept "${2-}"; then
        echo 'kept: it was confirmed'
    elif [ ! -d "$change" ] || ! is_ours "${2-}"; then
        echo 'nothing waits'
    elif [ -e "$change/confirmed" ]; then
        finish && echo 'kept: it was confirmed'
    else
        undo && echo 'reverted'
    fi
    ;;
resolve)
    if [ -d "$change" ] && is_ours "${2:?TOKEN is missing}"; then resolve; fi
    ;;
boot)
    status=0
    if [ -d "$change" ]; then resolve || status=1; fi
    keep files || status=1
    exit $status
    ;;
check)
    if [ ! -e "$change/armed" ]; then keep rules; fi
    ;;
esac
"""
for name, value in {"STATE": STATE, "TIMER": TIMER, "KEEP": KEEP, "SHELL": SHELL}.items():
    SCRIPT = SCRIPT.replace("@%s@" % name, value)

UNITS = {
    "/etc/systemd/system/knock-firewall-boot.service": """\
# Written by the module sesame.knock.firewall.
[Unit]
Description=Resolve a change of the firewall that a crash has left (sesame.knock)
DefaultDependencies=no
RequiresMountsFor=/etc /var/lib/knock_firewall /usr/local/sbin
After=local-fs.target
Before=netfilter-persistent.service nftables.service knock-firewall-check.service knockd.service network-pre.target
Wants=network-pre.target
ConditionPathExists=/var/lib/knock_firewall
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=oneshot
ExecStart=/usr/local/sbin/knock-firewall boot
TimeoutStartSec=60

[Install]
WantedBy=multi-user.target
""",
    "/etc/systemd/system/knock-firewall-check.service": """\
# Written by the module sesame.knock.firewall. Closes the port where the saved rules could not be loaded, or are gone.
[Unit]
Description=See that the rules of the knock firewall are loaded (sesame.knock)
DefaultDependencies=no
After=netfilter-persistent.service nftables.service
Before=network-pre.target
# Not by network.target alone: where no service of the host pulls that in, sshd would be open until the rules are there.
Before=ssh.service ssh.socket sshd.service sshd.socket
Wants=network-pre.target
ConditionPathExists=/var/lib/knock_firewall/keep
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=oneshot
ExecStart=/usr/local/sbin/knock-firewall check
TimeoutStartSec=60
# What it has to say is noticed; that it starts and ends, each minute, is not.
SyslogLevel=notice
LogLevelMax=notice

[Install]
WantedBy=multi-user.target
""",
    "/etc/systemd/system/knock-firewall-check.timer": """\
# Written by the module sesame.knock.firewall. Until it elapses, the guard of the knock daemon keeps the port closed.
[Unit]
Description=See each minute that the rules of the knock firewall are there (sesame.knock)

[Timer]
OnCalendar=minutely
AccuracySec=10s

[Install]
WantedBy=timers.target
""",
    "/etc/systemd/system/nftables.service.d/knock-firewall.conf": """\
# Written by the module sesame.knock.firewall: /etc/nftables.conf begins with flush ruleset, and takes our rules along.
[Service]
ExecStartPost=-/usr/local/sbin/knock-firewall check
ExecReload=-/usr/local/sbin/knock-firewall check
ExecStopPost=-/usr/local/sbin/knock-firewall check
""",
}
"""Path to content. Those that have an [Install] section are to be enabled."""

CHECK_TIMER = "knock-firewall-check.timer"
ENABLED = ("knock-firewall-boot.service", "knock-firewall-check.service", CHECK_TIMER)
