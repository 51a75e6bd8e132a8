# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guard chain: while the daemon lives, protected ports stay closed whatever happens to the other rules."""

from __future__ import annotations

import pytest

from .lab import GUARD, KNOCKS, SERVER, SERVER6, SSH, STRANGER, STRANGER6, Lab

WITH_GUARD = SSH.format(open_timeout=600).replace("[options]", "[options]\n    Guard = DIR/guard.conf")
ALLOWED = GUARD.format(allow="%s, %s" % (STRANGER, STRANGER6))

BOTH = pytest.mark.parametrize(("server", "stranger"), [(SERVER, STRANGER), (SERVER6, STRANGER6)], ids=["ipv4", "ipv6"])


@pytest.fixture
def guarded(lab: Lab) -> Lab:
    """No firewall at all but the guard, which lets the stranger in without a knock."""
    (lab.directory / "guard.conf").write_text(ALLOWED)
    return lab


@BOTH
def test_it_keeps_the_port_closed_without_any_firewall(guarded: Lab, server: str, stranger: str) -> None:
    guarded.daemon(WITH_GUARD)
    assert not guarded.is_open(server)


@BOTH
def test_the_allowlist_passes_without_a_knock(guarded: Lab, server: str, stranger: str) -> None:
    guarded.daemon(WITH_GUARD)
    assert guarded.is_open(server, source=stranger)


@BOTH
def test_a_knock_passes(guarded: Lab, server: str, stranger: str) -> None:
    guarded.daemon(WITH_GUARD)
    guarded.knock(*KNOCKS, to=server)
    guarded.opens(server)


def test_the_host_itself_passes(guarded: Lab) -> None:
    guarded.daemon(WITH_GUARD)
    guarded.server.run("bash", "-c", "exec 3<>/dev/tcp/%s/22" % SERVER)


def test_a_mark_by_someone_else_opens_nothing(guarded: Lab) -> None:
    guarded.nft(
        "table inet foreign { chain marks { type filter hook prerouting priority -150; meta mark set 0xffffffff; }; }"
    )
    guarded.daemon(WITH_GUARD)
    assert not guarded.is_open()


def test_a_session_from_before_lives_on_even_without_conntrack(guarded: Lab) -> None:
    session = guarded.connect()
    assert session
    guarded.daemon(WITH_GUARD)
    served = guarded.accept()
    for words in (b"still here", b"and here"):
        guarded.server.run("conntrack", "-F")
        session.sendall(words)
        assert served.recv(100) == words


RULES = """
table inet filter {
    chain input { type filter hook input priority 0; policy accept; tcp dport 22 meta mark & 0x1000 == 0 drop; }
}
"""
BROKEN = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp --dport 22 -j NOWHERE\nCOMMIT\n"


def only_the_allowlist_is_in(lab: Lab) -> None:
    for server, stranger in ((SERVER, STRANGER), (SERVER6, STRANGER6)):
        assert not lab.is_open(server)
        assert lab.is_open(server, source=stranger)


def test_flush_ruleset_does_not_open_it(guarded: Lab) -> None:
    guarded.nft(RULES)
    guarded.daemon(WITH_GUARD)
    guarded.server.run("nft", "flush", "ruleset")
    only_the_allowlist_is_in(guarded)


def test_a_reload_of_nftables_service_does_not_open_it(guarded: Lab) -> None:
    guarded.nft(RULES)
    guarded.daemon(WITH_GUARD)
    file = guarded.directory / "nftables.conf"  # as Debian ships it: begins with a flush, and lets everybody in
    file.write_text("flush ruleset\ntable inet filter { chain input { type filter hook input priority filter; }; }\n")
    guarded.server.run("nft", "-f", str(file))
    only_the_allowlist_is_in(guarded)
    guarded.knock(*KNOCKS)
    guarded.opens()


def test_broken_rules_do_not_open_it(guarded: Lab) -> None:
    guarded.daemon(WITH_GUARD)
    for restore in ("iptables-restore", "ip6tables-restore"):
        file = guarded.directory / restore
        file.write_text(BROKEN)
        guarded.server.fails(restore, str(file))
    only_the_allowlist_is_in(guarded)


def test_a_reload_changes_the_guard_and_keeps_admissions(guarded: Lab) -> None:
    daemon = guarded.daemon(WITH_GUARD)
    guarded.knock(*KNOCKS)
    guarded.opens()
    (guarded.directory / "guard.conf").write_text(GUARD.format(allow=""))
    daemon.reload()
    assert not guarded.is_open(source=STRANGER)
    assert guarded.is_open()


def test_a_reload_without_guard_file_takes_the_guard_away(guarded: Lab) -> None:
    daemon = guarded.daemon(WITH_GUARD)
    assert not guarded.is_open()
    (guarded.directory / "guard.conf").unlink()
    daemon.reload()
    assert guarded.is_open()
    assert "guard" not in guarded.server.run("nft", "list", "table", "inet", "knockd")


def test_a_bad_guard_file_keeps_the_old_guard(guarded: Lab) -> None:
    daemon = guarded.daemon(WITH_GUARD)
    (guarded.directory / "guard.conf").write_text("[ssh]\nports = 22/tcp\nallow = nowhere\n")
    daemon.reload()
    daemon.await_log("keeping the old configuration", "guard.conf:3:")
    assert not guarded.is_open()
    assert guarded.is_open(source=STRANGER)


def test_an_escape_port_takes_no_knock(guarded: Lab) -> None:
    guarded.sshd(2222)
    escape = "[escape]\nports = 2222/tcp\nallow = %s\nrefuse = drop\nknock = no\n" % STRANGER
    (guarded.directory / "guard.conf").write_text(ALLOWED + escape)
    guarded.daemon(WITH_GUARD.replace("22/tcp", "22/tcp,2222/tcp"))
    guarded.knock(*KNOCKS)
    guarded.opens()
    assert not guarded.is_open(port=2222)
    assert guarded.is_open(port=2222, source=STRANGER)


def test_neighbouring_ports_and_overlapping_networks_are_no_trouble(guarded: Lab) -> None:
    (guarded.directory / "guard.conf").write_text(
        "[ssh]\nports = 22-23/tcp,20-21/tcp,22/udp\nallow = 198.18.0.64/26,198.18.0.66,198.18.0.64/27\n"
    )
    guarded.daemon(WITH_GUARD)
    assert not guarded.is_open()
    assert guarded.is_open(source=STRANGER)
