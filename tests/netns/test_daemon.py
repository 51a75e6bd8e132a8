# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon as a process: its signals, its log, its interfaces, and what strangers may do to it."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from .lab import (
    CLIENT,
    KNOCKS,
    PACKAGE,
    SERVER,
    SERVER6,
    SSH,
    STRANGER,
    Daemon,
    Lab,
    eventually,
    python,
    sleeps,
    stopped,
)

LONG = SSH.format(open_timeout=600)


# Signals and reload.


def test_hup_takes_the_new_doors(walled: Lab) -> None:
    daemon = walled.daemon(LONG)
    daemon.reload(LONG.replace("21001:tcp,11003:tcp", "10041:tcp,10043:tcp"))
    walled.knock(*KNOCKS)
    walled.knock("10041", "10043", "31002")
    walled.opens()
    daemon.await_log("OPEN SESAME")
    assert daemon.log.count("OPEN SESAME") == 1
    assert "re-reading config file: %s" % daemon.config in daemon.log


def test_hup_with_a_bad_file_keeps_the_old_one_and_names_the_line(walled: Lab) -> None:
    daemon = walled.daemon(LONG)
    daemon.reload(LONG + "[ssh2]\nsequence = 70000\n")
    daemon.await_log("keeping the old configuration", "knockd.conf:12:")
    walled.knock(*KNOCKS)
    walled.opens()


def test_hup_loses_no_knock_in_progress(walled: Lab) -> None:
    daemon = walled.daemon(LONG)
    walled.knock(*KNOCKS[:2])
    daemon.await_log("Stage 2")
    daemon.reload()
    walled.knock(KNOCKS[2])
    walled.opens()


def test_hup_changes_how_many_knockers_are_remembered(walled: Lab) -> None:
    daemon = walled.daemon(LONG)
    daemon.await_log("at most 250,000 knockers are remembered")
    walled.knock(*KNOCKS[:2])
    daemon.await_log("Stage 2")
    daemon.reload("[options]\nKnockers = 1000\n" + LONG)
    daemon.await_log("at most 1,000 knockers are remembered: a knock in progress survives 750 first knocks of others")
    walled.knock(KNOCKS[2])
    walled.opens()


def test_hup_loses_no_admission(walled: Lab) -> None:
    daemon = walled.daemon(LONG)
    walled.knock(*KNOCKS)
    walled.opens()
    daemon.reload(LONG.replace("21001:tcp", "10041:tcp"))
    assert walled.is_open()


def test_it_sleeps_when_nothing_happens(lab: Lab) -> None:
    daemon = lab.daemon(LONG)

    lab.knock(*KNOCKS)
    daemon.await_log("OPEN SESAME")
    eventually(lambda: sleeps(daemon.pid))


# The log.


def test_no_port_of_a_sequence_is_logged(walled: Lab) -> None:
    daemon = walled.daemon(LONG, "-v")
    walled.knock(*KNOCKS)
    walled.knock("11003", "21001")
    walled.opens()
    daemon.terminate()
    assert "OPEN SESAME" in daemon.log
    for port in KNOCKS:
        assert port not in daemon.log


def test_debugging_shows_packets(walled: Lab) -> None:
    daemon = walled.daemon(LONG, "-D")
    walled.knock(*KNOCKS)
    daemon.await_log(*KNOCKS)


def test_the_log_file_has_the_classic_form_and_is_reopened(lab: Lab) -> None:
    path = lab.directory / "knockd.log"
    daemon = lab.daemon(LONG.replace("[options]", "[options]\nLogFile = DIR/knockd.log"))
    first = path.read_text().splitlines()[0]
    assert re.fullmatch(r"\[\d{4}-\d\d-\d\d \d\d:\d\d\] starting up, listening on eth0", first)
    path.rename(lab.directory / "knockd.log.1")
    daemon.reload()
    lab.knock(*KNOCKS)
    eventually(lambda: "%s: ssh: OPEN SESAME" % CLIENT in path.read_text())
    assert daemon.log == ""


def test_a_removed_log_file_is_made_again(lab: Lab) -> None:
    path = lab.directory / "knockd.log"
    lab.daemon(LONG, "-g", str(path))
    path.unlink()
    lab.knock(*KNOCKS)
    eventually(lambda: path.exists() and "OPEN SESAME" in path.read_text())


@pytest.mark.parametrize("path", ["/nonexistent/knockd.log", "/dev/full"])
def test_a_log_that_cannot_be_written_does_not_stop_it(walled: Lab, path: str) -> None:
    walled.daemon(LONG, "-g", path)
    walled.knock(*KNOCKS)
    walled.opens()


# Host names.


class NameServer:
    """Answers on the server's own port 53 that every address is `knocker.test`, and keeps whom it was asked for."""

    def __init__(self, lab: Lab) -> None:
        self.asked: list[str] = []
        with lab.server:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                query, sender = self._socket.recvfrom(4096)
                labels, place = [], 12  # RFC 1035, 4.1.2
                while query[place]:
                    labels.append(query[place + 1 : place + 1 + query[place]].decode())
                    place += 1 + query[place]
                self.asked.append(".".join(reversed(labels[:4])))
                name = b"\x07knocker\x04test\0"
                answer = b"\xc0\x0c\0\x0c\0\x01" + struct.pack("!IH", 60, len(name)) + name
                head = query[:2] + b"\x84\0\0\x01\0\x01\0\0\0\0"
                self._socket.sendto(head + query[12 : place + 5] + answer, sender)


@pytest.fixture
def name_server(lab: Lab) -> Iterator[NameServer]:
    server = NameServer(lab)
    yield server
    server.close()


def looking_up(lab: Lab, config: str) -> Daemon:
    """A daemon with -l whose resolver is the server's own."""
    (lab.directory / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    (lab.directory / "nsswitch.conf").write_text("hosts: dns\n")
    own = 'for name in resolv nsswitch; do mount --bind $0/$name.conf /etc/$name.conf; done; exec "$@"'
    return lab.daemon(config, "-l", through=("unshare", "--mount", "sh", "-c", own, str(lab.directory)))


def test_no_name_server_hears_of_a_knock_before_the_door_opens(lab: Lab, name_server: NameServer) -> None:
    daemon = looking_up(lab, LONG)
    lab.knock(*KNOCKS[:2], source=STRANGER)
    daemon.await_log("%s: ssh: Stage 2" % STRANGER)
    lab.knock(*KNOCKS)
    daemon.await_log("%s: ssh: Stage 1" % CLIENT, "%s (knocker.test): ssh: OPEN SESAME" % CLIENT)
    lab.knock("21001")
    daemon.await_log("%s (knocker.test): ssh: Stage 1" % CLIENT)
    daemon.await_log("%s: ssh: sequence timeout" % STRANGER)
    assert name_server.asked == [CLIENT]


def test_classic_names_asks_at_the_first_knock_and_says_what_that_gives_away(lab: Lab, name_server: NameServer) -> None:
    classic = LONG.replace("[options]", "[options]\nClassic = names")
    daemon = looking_up(lab, classic)
    lab.knock("21001", source=STRANGER)
    daemon.await_log("%s (knocker.test): ssh: Stage 1" % STRANGER, "\nwarning: Classic = names: ")
    assert name_server.asked == [STRANGER]
    daemon.reload(LONG)
    lab.knock("21001")
    daemon.await_log("%s: ssh: Stage 1" % CLIENT)
    assert name_server.asked == [STRANGER]
    (lab.directory / "classic").write_text(classic)
    assert (
        "%s:3: Classic = names: " % (lab.directory / "classic")
        in knockd(lab, "--check", "-c", str(lab.directory / "classic")).stderr
    )


# Interfaces.


def test_an_interface_may_be_absent_at_start(walled: Lab) -> None:
    walled.unplug("eth0")
    daemon = walled.daemon(LONG)
    daemon.await_log("starting up, listening on eth0", "eth0: not there yet")
    walled.plug("eth0")
    daemon.await_log("listening on eth0 (%s" % SERVER)
    walled.knock(*KNOCKS)
    walled.opens()


def test_an_interface_may_be_deleted_and_come_back(walled: Lab) -> None:
    daemon = walled.daemon(LONG)
    with stopped(daemon):  # it will hear of it from the link and from the socket at the same time
        walled.unplug("eth0")
    daemon.await_log("eth0: gone")
    walled.plug("eth0")
    eventually(lambda: SERVER in daemon.log.partition("eth0: gone")[2], daemon.log)
    walled.knock(*KNOCKS)
    walled.opens()


def test_an_interface_may_go_down_and_up(walled: Lab) -> None:
    walled.daemon(LONG)
    walled.server.ip("link", "set", "eth0", "down")
    walled.server.ip("link", "set", "eth0", "up")
    walled.knock(*KNOCKS)
    walled.opens()


def test_an_address_added_later_counts(walled: Lab) -> None:
    walled.unplug("eth0")
    walled.plug("eth0", addresses=False)
    daemon = walled.daemon(LONG)
    daemon.await_log("no address yet")
    walled.address("eth0")
    daemon.await_log(SERVER)
    for server in (SERVER, SERVER6):
        walled.knock(*KNOCKS, to=server)
        walled.opens(server)


def test_a_knock_at_another_address_does_not_count(walled: Lab) -> None:
    walled.server.ip("address", "add", "198.19.0.9/32", "dev", "lo")
    walled.client.ip("route", "add", "198.19.0.9", "via", SERVER)
    daemon = walled.daemon(LONG)
    walled.knock(*KNOCKS, to="198.19.0.9")
    walled.knock(*KNOCKS)
    walled.opens()
    assert daemon.log.count("OPEN SESAME") == 1


@pytest.mark.parametrize("interface", ["any", "lo,eth0"])
def test_it_listens_on_several_interfaces(walled: Lab, interface: str) -> None:
    daemon = walled.daemon(LONG, interface=interface)
    assert "starting up, listening on %s\n" % interface in daemon.log
    walled.knock(*KNOCKS)
    walled.opens()


# What strangers and other processes do.


def test_a_second_daemon_is_told_who_holds_the_table(lab: Lab) -> None:
    first = lab.daemon(LONG)
    second = lab.daemon(LONG, ready=False)
    assert second.process.wait() == 1
    assert second.log.count("\n") == 1
    assert "holds the nftables table inet knockd: process %d (" % first.pid in second.log
    assert first.process.poll() is None


def test_a_table_that_nobody_owns_is_an_error_with_the_cure(lab: Lab) -> None:
    lab.nft("table inet knockd { }")
    daemon = lab.daemon(LONG, ready=False)
    assert daemon.process.wait() == 1
    assert "nft delete table inet knockd" in daemon.log


def test_no_child_keeps_the_table_alive(walled: Lab) -> None:
    daemon = walled.daemon(
        LONG + "[job]\nsequence = 21007,11005,31006\nstart_command = echo $$ > DIR/pid; exec sleep 60\n"
    )
    walled.knock(*KNOCKS)
    walled.opens()
    walled.knock("21007", "11005", "31006")
    child = walled.directory / "pid"
    eventually(lambda: child.exists() and child.read_text().strip())
    daemon.kill()
    try:
        assert not walled.is_open()
        walled.daemon(LONG)
    finally:
        os.kill(int(child.read_text()), 9)


# The command line.


def knockd(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        lab.server.command(python(), "-m", "knockd", *arguments),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PACKAGE), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )


def test_an_unknown_option_is_an_error(lab: Lab) -> None:
    asked = knockd(lab, "--frobnicate")
    assert asked.returncode == 1
    assert "--frobnicate" in asked.stderr


@pytest.mark.parametrize(("option", "answer"), [("-V", "knockd "), ("--version", "knockd "), ("-h", "--only-ip-v4")])
def test_it_tells_about_itself(lab: Lab, option: str, answer: str) -> None:
    asked = knockd(lab, option)
    assert asked.returncode == 0
    assert answer in asked.stdout


def test_check_accepts_a_good_file_and_warns_of_a_weak_one(lab: Lab) -> None:
    (lab.directory / "good").write_text(LONG)
    asked = knockd(lab, "--check", "-c", str(lab.directory / "good"))
    assert (asked.returncode, asked.stderr) == (0, "")
    assert "ssh: a scan of all ports in random order opens it once in 204," in asked.stdout
    assert "without the count of stray ports once in 6, in the order of the ports never" in asked.stdout
    assert not any(port in asked.stdout for port in ("21001", "11003", "31002"))
    (lab.directory / "weak").write_text(LONG.replace("21001:tcp,11003:tcp,31002:tcp", "7000,8000,9000"))
    asked = knockd(lab, "--check", "-c", str(lab.directory / "weak"))
    assert asked.returncode == 0
    assert "warning" in asked.stderr


@pytest.mark.parametrize("line", ["sequence = 0", "sequence = 21001:icmp", "frobnicate = 1", "open_ports = 70000/tcp"])
def test_check_refuses_a_bad_line_and_names_it(lab: Lab, line: str) -> None:
    (lab.directory / "bad").write_text("[ssh]\n%s\n" % line)
    asked = knockd(lab, "--check", "-c", str(lab.directory / "bad"))
    assert asked.returncode == 1
    assert "bad:2:" in asked.stderr
    assert asked.stderr.count("\n") == 1


def test_check_judges_the_guard_file(lab: Lab) -> None:
    (lab.directory / "guard.conf").write_text("[ssh]\nports = 22/tcp\nallow = nowhere\n")
    config = lab.directory / "knockd.conf"
    config.write_text(LONG.replace("[options]", "[options]\nGuard = %s/guard.conf" % lab.directory))
    asked = knockd(lab, "--check", "-c", str(config))
    assert asked.returncode == 1
    assert "guard.conf" in asked.stderr


def test_a_missing_file_is_one_clear_error(lab: Lab) -> None:
    asked = knockd(lab, "-c", "/nonexistent")
    assert asked.returncode == 1
    assert "/nonexistent" in asked.stderr
    assert "Traceback" not in asked.stderr


def test_d_becomes_a_daemon_that_is_ready_when_the_command_returns(walled: Lab) -> None:
    config, pid_file = walled.directory / "knockd.conf", walled.directory / "pid"
    config.write_text(LONG)
    options = ("-d", "-c", str(config), "-i", "eth0", "-p", str(pid_file), "-g", str(walled.directory / "log"))
    first = knockd(walled, *options)
    assert first.returncode == 0, first.stderr
    pid = int(pid_file.read_text())
    try:
        walled.knock(*KNOCKS)
        walled.opens()
        second = knockd(walled, *options)
        assert second.returncode == 1
        assert "process %d" % pid in second.stderr
    finally:
        os.kill(pid, 15)
    eventually(lambda: not Path("/proc/%d" % pid).exists())
    assert not walled.is_open()
    assert not pid_file.exists()
