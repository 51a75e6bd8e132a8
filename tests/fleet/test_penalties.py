# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""500 logins and 100 waits, and neither sshd nor fail2ban holds one of them against us.

Debian 13's sshd counts connections that do not log in (PerSourcePenalties, on by default), and fail2ban's sshd jail
runs in its strictest mode. The same number of connects that are accepted and never log in is punished by either.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Iterator

import pytest

from sesame_knock import _knocker
from sesame_knock._sequence import parse_sequence

from ..netns.lab import eventually
from .fleet import STRANGER, Fleet, Host

KNOCK_PROXY = Path(__file__).parents[2] / "roles" / "knock_client" / "files" / "knock-proxy"
LOGINS, WAITS = 500, 100
AT_ONCE = 4

JAIL = """
[sshd]
enabled = true
mode = aggressive
backend = polling
logpath = {journal}
banaction = nftables[type=allports]
maxretry = 5
findtime = 1h
bantime = 1h
"""


class Journal:
    """What syslog makes of sshd's lines: with a time, and the name of the daemon, as fail2ban wants them."""

    def __init__(self, host: Host, path: Path) -> None:
        self._lines = open(host.sshd_log)  # noqa: SIM115 (closed by __exit__)
        self._file = open(path, "w")  # noqa: SIM115
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._copy)

    def __enter__(self) -> Journal:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        self._thread.join()
        self._lines.close()
        self._file.close()

    def _copy(self) -> None:
        while not self._over.wait(0.05):
            for line in self._lines.readlines():
                self._file.write("%s host sshd-session[1]: %s\n" % (time.strftime("%b %d %H:%M:%S"), line.rstrip()))
            self._file.flush()


def has_penalties(host: Host) -> bool:
    shown = host.namespace.run("/usr/sbin/sshd", "-T", "-f", str(host.directory / "sshd_config"))
    return "persourcepenalties" in shown and "persourcepenalties no" not in shown


@pytest.fixture
def guarded(web: Host) -> Iterator[Host]:
    """A host where sshd punishes and fail2ban watches."""
    if not has_penalties(web):
        pytest.skip("this sshd is older than PerSourcePenalties (OpenSSH 9.8)")
    assert shutil.which("fail2ban-server"), "fail2ban is not installed"
    config = web.directory / "fail2ban"
    shutil.copytree("/etc/fail2ban", config)
    shutil.rmtree(config / "jail.d")
    journal = web.directory / "journal"
    (config / "jail.local").write_text(JAIL.format(journal=journal))
    where = ("-c", str(config), "-s", str(config / "socket"), "-p", str(config / "pid"))
    log = config / "log"
    log.touch()
    (config / "fail2ban.local").write_text("[Definition]\ndbfile = None\nlogtarget = %s\n" % log)
    command = web.namespace.command("fail2ban-server", *where, "-f", "start")
    with Journal(web, journal), subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            eventually(lambda: "Jail 'sshd' started" in log.read_text(), "the jail starts")
            yield web
        finally:
            server.terminate()


def banned(host: Host) -> tuple[int, list[str]]:
    """How many failures fail2ban has found, and whom it has banned."""
    socket_path = str(host.directory / "fail2ban" / "socket")
    status = host.namespace.run("fail2ban-client", "-s", socket_path, "status", "sshd")
    found = re.search(r"Total failed:\s*(\d+)", status)
    banned_list = re.search(r"Banned IP list:\s*(.*)", status)
    assert found and banned_list, status
    return int(found[1]), banned_list[1].split()


def test_500_logins_and_100_waits_are_never_refused(fleet: Fleet, guarded: Host, tmp_path: Path) -> None:
    host = guarded
    profile = tmp_path / "profile.json"
    profile.touch(mode=0o600)
    profile.write_text(json.dumps({"sequence": host.sequence}))
    options = ["-F", "none", "-i", str(fleet.key), "-o", "UserKnownHostsFile=%s" % fleet.known_hosts]
    options += ["-o", "ProxyCommand=%s %s %%h %%p" % (KNOCK_PROXY, profile), "-o", "ProxyUseFdpass=yes"]

    def login(_number: int) -> int:
        command = fleet.controller.command("ssh", *options, "root@" + host.address, "true")
        return subprocess.run(command, stdin=subprocess.DEVNULL).returncode

    def wait(_number: int) -> None:
        with fleet.controller:
            target = _knocker.resolve(host.address)
            _knocker.wait_open(target, 22, [parse_sequence(host.sequence)])
            assert _knocker.is_open(target, 22)

    before = host.logins
    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert sum(pool.map(login, range(LOGINS))) == 0
        list(pool.map(wait, range(WAITS)))
    assert host.logins - before == LOGINS
    assert "penalty" not in host.sshd_log.read_text()
    assert "Accepted publickey" in (host.directory / "journal").read_text()  # it has reached fail2ban
    assert banned(host) == (0, [])


def refusals(fleet: Fleet, host: Host) -> int:
    """Connect as a stranger who knocks and never logs in, until four connects have failed."""
    refused = 0
    with fleet.controller:
        target = _knocker.resolve(host.address, source=STRANGER)
        for _ in range(LOGINS):
            try:
                with _knocker.connect(target, 22, [parse_sequence(host.sequence)], timeout=1) as connection:
                    connection.settimeout(1)
                    refused += not connection.recv(64).startswith(b"SSH-2.0-")
                    connection.sendall(b"SSH-2.0-somebody\r\n")
            except (OSError, _knocker.KnockError):
                refused += 1
            if refused == 4:
                break
    return refused


def test_sshd_refuses_who_connects_as_often_without_a_login(fleet: Fleet, web: Host) -> None:
    """So the test above can fail."""
    if not has_penalties(web):
        pytest.skip("this sshd is older than PerSourcePenalties (OpenSSH 9.8)")
    assert refusals(fleet, web) == 4
    assert re.search(r"(drop|refus).*%s.*penalty" % re.escape(STRANGER), web.sshd_log.read_text())


def test_fail2ban_bans_who_connects_as_often_without_a_login(fleet: Fleet, guarded: Host) -> None:
    """And by this one, too."""
    assert refusals(fleet, guarded) == 4
    eventually(lambda: banned(guarded)[1] == [STRANGER], "fail2ban bans")
