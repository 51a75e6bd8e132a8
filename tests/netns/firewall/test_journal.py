# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal of a firewall change: whatever stops it, and wherever, the host ends it alone, in one of two states."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

from ..lab import CLIENT, SERVER, SERVER6, STRANGER, STRANGER6, Lab
from .firewall_host import FirewallHost
from .test_firewall import ALLOW, NOBODY

CHANGE = "/var/lib/knock_firewall/change"

WITH_NFTABLES = pytest.mark.parametrize("host", ["nft", "native"], indirect=True)


@pytest.fixture
def host(request: pytest.FixtureRequest, lab: Lab, tmp_path: Path) -> Iterator[FirewallHost]:
    """The server with sshd and no rules yet. What the backends do differently is in test_firewall.py."""
    made = FirewallHost(lab, tmp_path, getattr(request, "param", "nft"))
    try:
        yield made
    finally:
        made.remove()


def is_closed(host: FirewallHost) -> list[bool]:
    """Whether a stranger is shut out, in IPv4 and IPv6."""
    return [
        not host.lab.is_open(SERVER, source=STRANGER),
        not host.lab.is_open(SERVER6, source=STRANGER6),
    ]


def files_written(host: FirewallHost) -> bool:
    """Whether the rules of the candidate are what the next boot loads."""
    return host.admin.ours in host.sh("cat %s 2>/dev/null || true" % " ".join(host.admin.files))


def ends_well(host: FirewallHost, closed: bool) -> None:
    """No change is under way, nothing is left beside the files, and live rules, files and the next boot agree."""
    assert host.sh("ls -d %s /etc/.knock-* /etc/iptables/.knock-* 2>/dev/null || true" % CHANGE) == ""
    assert is_closed(host) == [closed] * 2
    assert files_written(host) is closed
    host.reboot()
    assert is_closed(host) == [closed] * 2


# --- killed at each step ---------------------------------------------------------------------------------------------


def test_killed_while_it_writes_the_journal(host: FirewallHost) -> None:
    host.apply(**ALLOW)
    host.sh("sh %s/undo; rm %s/armed %s/finish" % ((CHANGE,) * 3))  # as far as it had come: no rule was live
    host.run("knock-firewall", "boot")
    ends_well(host, closed=False)


@WITH_NFTABLES
def test_killed_between_the_timer_and_the_mark(host: FirewallHost) -> None:
    token = host.apply(**ALLOW)["token"]
    host.sh("sh %s/undo; rm %s/armed" % ((CHANGE,) * 2))
    host.run("knock-firewall", "resolve", token)  # what the timer runs
    ends_well(host, closed=False)


def test_killed_between_the_families(host: FirewallHost) -> None:
    token = host.apply(**ALLOW)["token"]
    host.sh("ip6tables -F; ip6tables -X; ip6tables -t mangle -F; ip6tables -t mangle -X")
    assert is_closed(host) == [True, False]
    host.run("knock-firewall", "resolve", token)
    ends_well(host, closed=False)


@WITH_NFTABLES
def test_the_power_fails_before_the_confirmation(host: FirewallHost) -> None:
    host.apply(**ALLOW)
    host.reboot()
    ends_well(host, closed=False)


@WITH_NFTABLES
def test_killed_right_after_the_confirmation(host: FirewallHost) -> None:
    token = host.apply(**ALLOW)["token"]
    host.sh("mv %s/armed %s/confirmed" % (CHANGE, CHANGE))
    host.run("knock-firewall", "resolve", token)
    ends_well(host, closed=True)


@WITH_NFTABLES
def test_the_power_fails_right_after_the_confirmation(host: FirewallHost) -> None:
    host.apply(**ALLOW)
    host.sh("mv %s/armed %s/confirmed" % (CHANGE, CHANGE))
    host.reboot()
    ends_well(host, closed=True)


@pytest.mark.parametrize("lines", [1, 3, 4, 5, 6, 7])
@WITH_NFTABLES
def test_the_power_fails_between_two_files(host: FirewallHost, lines: int) -> None:
    host.apply(**ALLOW, guard=True)
    host.sh(f"mv {CHANGE}/armed {CHANGE}/confirmed; head -n {lines} {CHANGE}/finish | sh")
    host.reboot()
    ends_well(host, closed=True)


@WITH_NFTABLES
def test_killed_while_the_rules_of_before_come_back(host: FirewallHost) -> None:
    host.apply(**ALLOW)
    host.sh("sh %s/undo" % CHANGE)
    host.run("knock-firewall", "revert")
    ends_well(host, closed=False)


# --- who may end it --------------------------------------------------------------------------------------------------


def test_nobody_confirms_a_change_of_somebody_else(host: FirewallHost) -> None:
    first = host.apply(**NOBODY)["token"]
    second = host.apply(**ALLOW)["token"]
    answer = host.module("firewall", state="confirmed", token=first)
    assert "another one came in between" in answer["msg"]
    assert not host.module("firewall", state="reverted", token=first)["changed"]
    assert host.module("firewall", state="confirmed", token=second)["changed"]
    assert host.lab.is_open(SERVER, source=CLIENT)
    ends_well(host, closed=True)


def test_who_asks_again_hears_that_it_was_confirmed(host: FirewallHost) -> None:
    token = host.apply(**ALLOW)["token"]
    host.run("knock-firewall", "confirm", token)
    host.run("knock-firewall", "confirm", token)
    assert host.run("knock-firewall", "revert", token) == "kept: it was confirmed\n"
    assert host.run("knock-firewall", "resolve", token) == ""
    ends_well(host, closed=True)


def test_status_says_what_is_under_way_and_how_to_end_it(host: FirewallHost) -> None:
    token = host.apply(**ALLOW, revert_after=500)["token"]
    assert host.run("knock-firewall", "status").endswith("knock-firewall confirm %s\n" % token)
    host.run("knock-firewall", "revert")
    assert host.run("knock-firewall", "status") == "open: no change is under way\n"
    host.apply(**ALLOW)
    host.confirm()
    assert host.run("knock-firewall", "status") == "closed: no change is under way\n"


def test_status_says_nothing_wrong_to_who_is_not_root(host: FirewallHost) -> None:
    host.apply(**ALLOW)
    host.confirm()
    asked = "setpriv --reuid=nobody --regid=nogroup --clear-groups sh /usr/local/sbin/knock-firewall status"
    assert host.sh("chmod 755 /usr/local/sbin /var/lib; %s 2>/dev/null || echo failed" % asked) == "failed\n"


# --- what a host can do to it ----------------------------------------------------------------------------------------


def small_disk(host: FirewallHost, at: str, size: str = "160k") -> None:
    """A file system of its own, with what is there."""
    host.sh(f"cp -a {at} /run/copy; mount -t tmpfs -o size={size} small {at}; cp -a /run/copy/. {at}")


@pytest.mark.parametrize("place", ["/etc/iptables", "/var/lib"])
def test_a_full_disk_is_an_error_before_anything_has_changed(host: FirewallHost, place: str) -> None:
    small_disk(host, place)
    host.sh("dd if=/dev/zero of=%s/ballast bs=4k 2>/dev/null || true" % place)
    answer = host.apply(**ALLOW)
    assert "No space left on device" in answer["msg"]
    assert "Nothing has been changed" in answer["msg"]
    assert is_closed(host) == [False, False]
    host.sh("rm %s/ballast" % place)
    ends_well(host, closed=False)


@pytest.mark.parametrize("place", ["/etc/iptables", "/var/lib"])
def test_a_disk_that_is_full_by_now_keeps_nobody_from_confirming(host: FirewallHost, place: str) -> None:
    small_disk(host, place)
    token = host.apply(**ALLOW)["token"]
    host.sh("dd if=/dev/zero of=%s/ballast bs=4k 2>/dev/null || true" % place)
    host.run("knock-firewall", "confirm", token)
    ends_well(host, closed=True)


def test_rules_that_somebody_flushes_come_back_by_a_check(host: FirewallHost) -> None:
    host.apply(**ALLOW)
    host.confirm()
    before = host.rules()
    host.sh("iptables -A INPUT -p tcp --dport 25 -j DROP")
    host.sh("for c in iptables ip6tables; do $c -F KNOCK-ADMIT; $c -t mangle -F; $c -t mangle -X; done")
    assert is_closed(host) == [False, False]
    host.run("knock-firewall", "check")
    assert is_closed(host) == [True, True]
    host.sh("iptables -D INPUT -p tcp --dport 25 -j DROP")
    assert host.rules() == before


def test_a_check_changes_nothing_where_nothing_is_missing(host: FirewallHost) -> None:
    host.apply(**ALLOW)
    host.confirm()
    host.sh("iptables -I INPUT -s %s -p tcp --dport 22 -j ACCEPT" % STRANGER)
    before = host.rules()
    host.run("knock-firewall", "check")
    assert host.rules() == before


@WITH_NFTABLES
@pytest.mark.parametrize("damage", ["sed -i '1i nonsense'", "truncate --size 0", "rm", "head -c 99 /dev/zero >"])
def test_a_saved_file_that_a_boot_could_not_load_is_put_back(host: FirewallHost, damage: str) -> None:
    host.apply(**ALLOW)
    host.confirm()
    before = host.contents()
    for path in host.admin.files:
        host.sh("%s %s" % (damage, path))
    broken = host.contents()
    host.reboot()
    assert is_closed(host) == [True, True]
    assert host.lab.is_open(SERVER, source=CLIENT)
    assert host.contents() == before
    kept = [path for path in host.sh("ls /etc/iptables/* /etc/knock_firewall.nft* || true").split() if path[-1] == "~"]
    assert [host.sh("cat " + path) for path in kept] == [text for text in broken if text is not None]


@WITH_NFTABLES
def test_a_saved_file_that_somebody_has_changed_stays_as_it_is(host: FirewallHost) -> None:
    host.apply(**ALLOW)
    host.confirm()
    for path in host.admin.files:
        host.sh("echo '# mine' >>%s" % path)
    before = host.contents()
    host.reboot()
    assert host.contents() == before
    assert is_closed(host) == [True, True]


def test_a_full_disk_leaves_a_broken_file_for_another_boot(host: FirewallHost) -> None:
    small_disk(host, "/etc/iptables")
    host.apply(**ALLOW)
    host.confirm()
    host.sh("sed -i '1i nonsense' %s; dd if=/dev/zero of=/etc/iptables/ballast bs=4k || true" % host.admin.files[0])
    broken = host.contents()
    host.sh("! knock-firewall boot")
    assert host.contents() == broken
    host.sh("rm /etc/iptables/ballast; knock-firewall boot")
    assert host.contents() != broken


def test_a_revert_puts_a_jump_back_where_it_was(host: FirewallHost) -> None:
    host.apply(**ALLOW)
    host.confirm()
    host.sh("iptables -D INPUT -j KNOCK; iptables -A INPUT -p tcp --dport 25 -j ACCEPT; iptables -A INPUT -j KNOCK")
    before = host.rules()
    host.apply(**NOBODY)
    assert host.rules() != before
    host.revert()
    assert host.rules() == before


def test_a_hole_that_closes_meanwhile_does_not_stop_the_revert(host: FirewallHost) -> None:
    before = host.rules()
    hole = ("INPUT", "-s", STRANGER, "-p", "tcp", "--dport", "22", "-j", "ACCEPT")
    host.run("iptables", "-I", *hole)
    host.apply(**ALLOW)
    host.run("iptables", "-D", *hole)
    host.revert()
    assert host.rules() == before
