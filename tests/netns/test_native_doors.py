# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Native doors: the kernel opens, the kernel closes, and only for the one who knocked."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from .lab import (
    ACK,
    CLIENT,
    FIN,
    KNOCKS,
    SERVER,
    SERVER6,
    SSH,
    STRANGER,
    STRANGER6,
    SYN,
    Lab,
    eventually,
    stopped,
)

LONG = SSH.format(open_timeout=600)
SHORT = SSH.format(open_timeout=1.5)
CLOSE = """
[close_ssh]
    sequence   = 10011:tcp,10013:tcp,10012:tcp
    tcpflags   = syn
    close_door = ssh
"""

BOTH = pytest.mark.parametrize("server", [SERVER, SERVER6], ids=["ipv4", "ipv6"])


@BOTH
def test_a_knock_opens_the_port(walled: Lab, server: str) -> None:
    daemon = walled.daemon(LONG)
    assert not walled.is_open(server)
    walled.knock(*KNOCKS, to=server)
    walled.opens(server)
    daemon.await_log("ssh: Stage 1", "ssh: Stage 2", "ssh: Stage 3", "ssh: OPEN SESAME")


@BOTH
def test_it_opens_for_the_knocker_only(walled: Lab, server: str) -> None:
    walled.daemon(LONG)
    walled.knock(*KNOCKS, to=server)
    walled.opens(server)
    assert not walled.is_open(server, source=STRANGER if server == SERVER else STRANGER6)


@BOTH
def test_the_kernel_closes_it_while_the_daemon_sleeps(walled: Lab, server: str) -> None:
    daemon = walled.daemon(SHORT)
    walled.knock(*KNOCKS, to=server)
    walled.opens(server)
    with stopped(daemon):
        walled.closes(server)


def test_a_session_outlives_its_door(walled: Lab) -> None:
    walled.daemon(SHORT)
    walled.knock(*KNOCKS)
    walled.opens()
    session = walled.connect()
    assert session
    walled.closes()
    session.sendall(b"still here")


def test_sigkill_closes_every_door_at_once(walled: Lab) -> None:
    daemon = walled.daemon(LONG)
    walled.knock(*KNOCKS)
    walled.opens()
    daemon.kill()
    assert not walled.is_open()


def test_sigkill_closes_every_door_also_while_a_command_runs(walled: Lab) -> None:
    mark = walled.directory / "running"
    slow = (
        "[slow]\nsequence = 10021:tcp,10023:tcp,10022:tcp\ntcpflags = syn\ncommand = touch %s; exec sleep 60\n" % mark
    )
    daemon = walled.daemon(LONG + slow)
    walled.knock(*KNOCKS, "10021", "10023", "10022")
    walled.opens()
    eventually(mark.exists)
    children = Path("/proc/%d/task/%d/children" % (daemon.pid, daemon.pid)).read_text().split()
    assert len(children) == 1
    try:
        daemon.kill()
        assert Path("/proc/" + children[0]).exists()
        assert not walled.is_open()
        walled.daemon(LONG)
    finally:
        os.kill(int(children[0]), signal.SIGKILL)


def test_after_sigkill_the_next_daemon_starts(walled: Lab) -> None:
    walled.daemon(LONG).kill()
    walled.daemon(LONG)
    walled.knock(*KNOCKS)
    walled.opens()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_orderly_end_closes_every_door(walled: Lab, number: signal.Signals) -> None:
    daemon = walled.daemon(LONG)
    walled.knock(*KNOCKS)
    walled.opens()
    daemon.process.send_signal(number)
    assert daemon.process.wait() == 0
    assert "shutting down" in daemon.log
    assert not walled.is_open()


def test_a_flush_by_someone_else_leaves_the_table(walled: Lab) -> None:
    walled.daemon(LONG)
    walled.knock(*KNOCKS)
    walled.opens()
    walled.server.run("nft", "flush", "ruleset")
    assert CLIENT in walled.server.run("nft", "list", "set", "inet", "knockd", "admitted4")


def test_nobody_else_may_change_the_table(lab: Lab) -> None:
    lab.daemon(LONG)
    hole = "{ %s . tcp . 22 }" % STRANGER
    assert "not permitted" in lab.server.fails("nft", "add element inet knockd admitted4 " + hole)
    assert "not permitted" in lab.server.fails("nft", "delete table inet knockd")


def test_a_second_knock_extends_and_does_not_duplicate(walled: Lab) -> None:
    daemon = walled.daemon(SSH.format(open_timeout=3))
    walled.knock(*KNOCKS)
    walled.opens()
    daemon.reload(LONG)
    walled.knock(*KNOCKS)
    eventually(lambda: daemon.log.count("OPEN SESAME") == 2)
    listed = walled.server.run("nft", "list", "set", "inet", "knockd", "admitted4")
    assert listed.count(CLIENT) == 1
    assert "timeout 10m" in listed


def test_a_second_knock_never_shortens(walled: Lab) -> None:
    daemon = walled.daemon(LONG)
    walled.knock(*KNOCKS)
    walled.opens()
    daemon.reload(SHORT)
    walled.knock(*KNOCKS)
    eventually(lambda: daemon.log.count("OPEN SESAME") == 2)
    assert "timeout 10m" in walled.server.run("nft", "list", "set", "inet", "knockd", "admitted4")


def test_the_door_says_its_name_in_the_set(lab: Lab) -> None:
    daemon = lab.daemon(LONG)
    lab.knock(*KNOCKS)
    daemon.await_log("OPEN SESAME")
    assert 'comment "ssh"' in lab.server.run("nft", "list", "set", "inet", "knockd", "admitted4")


@BOTH
def test_a_closing_sequence_ends_the_admission(walled: Lab, server: str) -> None:
    walled.daemon(LONG + CLOSE)
    walled.knock(*KNOCKS, to=server)
    walled.opens(server)
    walled.knock("10011", "10013", "10012", to=server)
    walled.closes(server)


def test_a_closing_sequence_leaves_others_in(walled: Lab) -> None:
    walled.daemon(LONG + CLOSE)
    for source in (None, STRANGER):
        walled.knock(*KNOCKS, source=source)
        walled.opens(source=source)
    walled.knock("10011", "10013", "10012", source=STRANGER)
    walled.closes(source=STRANGER)
    assert walled.is_open()


def test_a_door_without_timeout_stays_open_until_it_is_closed(walled: Lab) -> None:
    walled.daemon(SSH.format(open_timeout=0) + CLOSE)
    walled.knock(*KNOCKS)
    walled.opens()
    assert "expires" not in walled.server.run("nft", "list", "set", "inet", "knockd", "admitted4")
    walled.knock("10011", "10013", "10012")
    walled.closes()


def test_a_range_of_ports_opens(walled: Lab) -> None:
    daemon = walled.daemon(SSH.format(open_timeout=60).replace("22/tcp", "22/tcp,60000-60010/udp"))
    walled.knock(*KNOCKS)
    daemon.await_log("OPEN SESAME")
    walled.opens()
    assert "udp . 60000-60010" in walled.server.run("nft", "list", "set", "inet", "knockd", "ranges4")
    walled.knock(*KNOCKS)  # and once more: intervals have rules of their own
    eventually(lambda: daemon.log.count("OPEN SESAME") == 2)
    assert "Error" not in daemon.log


def test_without_ranges_there_are_no_sets_for_them(lab: Lab) -> None:
    lab.daemon(LONG)
    assert "ranges" not in lab.server.run("nft", "list", "table", "inet", "knockd")


@pytest.mark.parametrize(
    "knocks",
    [
        pytest.param(("11003", "21001", "31002"), id="wrong order"),
        pytest.param(("31002", "11003", "21001"), id="backwards"),
        pytest.param(("21001", "31002", "11003", "31002"), id="a wrong knock in between"),
        pytest.param(("21001", "11003"), id="one missing"),
        pytest.param(("21001", "11003", "10004"), id="wrong port"),
        pytest.param(("21001", "11003/udp", "31002"), id="udp for tcp"),
    ],
)
def test_a_wrong_knock_opens_nothing(walled: Lab, knocks: tuple[str, ...]) -> None:
    daemon = walled.daemon(LONG)
    walled.knock(*knocks)
    walled.knock(*KNOCKS, source=STRANGER)  # a right one behind it: everything before has been looked at
    walled.opens(source=STRANGER)
    assert "%s: ssh: OPEN SESAME" % CLIENT not in daemon.log
    assert not walled.is_open()


def test_too_slow_a_knock_opens_nothing(walled: Lab) -> None:
    daemon = walled.daemon(LONG.replace("seq_timeout  = 5", "seq_timeout  = 1"))
    walled.knock("21001", "11003")
    daemon.await_log("%s: ssh: sequence timeout (stage 2)" % CLIENT)
    walled.knock("31002")
    walled.knock(*KNOCKS, source=STRANGER)
    walled.opens(source=STRANGER)
    assert not walled.is_open()


def test_udp_knocks_count(walled: Lab) -> None:
    walled.daemon(LONG.replace("11003:tcp", "11003:udp"))
    walled.knock("21001", "11003/udp", "31002")
    walled.opens()


def test_flags_other_than_asked_for_are_ignored(walled: Lab) -> None:
    walled.daemon(LONG.replace("tcpflags     = syn", "tcpflags     = fin,!ack"))
    for port in KNOCKS:
        walled.send_tcp(int(port), FIN | ACK, source=STRANGER)
        walled.send_tcp(int(port), SYN, source=STRANGER)
        walled.send_tcp(int(port), FIN)
    walled.opens()
    assert not walled.is_open(source=STRANGER)


def test_two_knockers_at_once_both_get_in(walled: Lab) -> None:
    walled.daemon(LONG)
    for knock in KNOCKS:
        for source in (CLIENT, STRANGER):
            walled.knock(knock, source=source)
    walled.opens(source=CLIENT)
    walled.opens(source=STRANGER)


def test_a_stranger_cannot_void_my_knock(walled: Lab) -> None:
    walled.daemon(LONG)
    walled.knock("21001", source=CLIENT)
    walled.knock("21001", "31002", source=STRANGER)
    walled.knock("11003", "31002", source=CLIENT)
    walled.opens(source=CLIENT)


def test_with_4_only_ipv4_knocks_count(walled: Lab) -> None:
    walled.daemon(LONG, "-4")
    walled.knock(*KNOCKS, to=SERVER6)
    walled.knock(*KNOCKS)
    walled.opens()
    assert not walled.is_open(SERVER6)


def test_c_knock_opens_the_door(walled: Lab) -> None:
    pytest.importorskip("shutil").which("knock") or pytest.skip("the C client knock is not installed")
    walled.daemon(LONG)
    walled.client.run("knock", "-d", "10", SERVER, *(knock + ":tcp" for knock in KNOCKS))
    walled.opens()


def test_a_used_sequence_cannot_be_replayed(walled: Lab) -> None:
    once = walled.directory / "sequences"
    once.write_text(" 21001,11003,31002\n 10021,10023,10022\n 10031,10033,10032\n")
    sequence = "sequence     = 21001:tcp,11003:tcp,31002:tcp"
    assert sequence in LONG
    daemon = walled.daemon(LONG.replace(sequence, "one_time_sequences = DIR/sequences"))
    walled.knock(*KNOCKS, to=SERVER6)
    walled.opens(SERVER6)
    walled.knock(*KNOCKS, to=SERVER)  # replayed, by another address
    walled.knock("10021", "10023", "10022", to=SERVER6)
    eventually(lambda: daemon.log.count("OPEN SESAME") == 2, daemon.log)
    assert not walled.is_open(SERVER)
    assert [line[0] for line in once.read_text().splitlines()] == ["#", "#", " "]


def test_used_up_sequences_end_the_door_and_not_the_daemon(walled: Lab) -> None:
    (walled.directory / "sequences").write_text(" 10021,10023,10022\n")
    daemon = walled.daemon(LONG + "[once]\none_time_sequences = DIR/sequences\ntcpflags = syn\nopen_ports = 80/tcp\n")
    walled.knock("10021", "10023", "10022")
    daemon.await_log("once: OPEN SESAME")
    walled.knock("10021", "10023", "10022", source=STRANGER)
    walled.knock(*KNOCKS)
    walled.opens()
    assert daemon.log.count("once: OPEN SESAME") == 1
