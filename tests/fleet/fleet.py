# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet on one machine: each host is a network namespace with a closed port 22, an sshd, and the real daemon.

A bridge joins the hosts with the controller's namespace, where Ansible runs. All share the machine's files, so whatever
a host or a test writes is below one temporary directory.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Iterator

from sesame_knock import _knocker

from ..netns.lab import FIREWALL, Daemon, Namespace, eventually, run

CONTROLLER, CONTROLLER6 = "198.18.0.1", "fd00:5e5a::1"
STRANGER, STRANGER6 = "198.18.0.66", "fd00:5e5a::66"
OPEN_TIMEOUT = 2
"""Seconds that a door stays open: one that a test has opened is closed when its host has its next turn."""

DOOR = """
[options]
    Mark = 0x1000

[ssh]
    sequence     = {sequence}
    seq_timeout  = 5
    tcpflags     = syn
    open_ports   = 22/tcp
    open_timeout = {open_timeout}
"""

# What is not here is as sshd has it by default: PerSourcePenalties above all. With SHLVL bash reads no ~/.bashrc, which
# belongs to the person whose machine this is.
SSHD = """
HostKey {directory}/host_key
AuthorizedKeysFile {key}.pub
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
AcceptEnv FLEET_*
SetEnv SHLVL=1
Subsystem sftp internal-sftp
"""


def kill_all_in(namespace: Namespace) -> None:
    for pid in run("ip", "netns", "pids", namespace.name).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


class Host:
    """One host: `start` and `stop` are what its power switch does."""

    def __init__(self, fleet: Fleet, number: int, hidden: bool = True) -> None:
        self.number = number
        self.name = "host%02d" % number
        self.hidden = hidden
        """Whether its port 22 wants a knock; one that is not hidden has no daemon, no rules and no sequence."""
        self.address = "198.18.1.%d" % number
        self.address6 = "fd00:5e5a::1:%d" % number
        # Each host has a sequence of its own: a knock with another host's opens nothing.
        self.sequence = "%d:tcp,%d:udp,%d:tcp" % (20000 + number, 31000 + number, 11000 + number)
        self.directory = fleet.directory / self.name
        self.fleet = fleet
        self.boots = 0
        self._namespace: Namespace | None = None
        self._sshd: subprocess.Popen[bytes] | None = None
        self._daemons: list[Daemon] = []

    def plug(self) -> None:
        """Make it, and join it to the bridge."""
        self.directory.mkdir()
        self._namespace = place = Namespace("knock-s-" + secrets.token_hex(4))
        place.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
        place.ip("link", "add", "eth0", "type", "veth", "peer", "name", self.name, "netns", self.fleet.controller.name)
        place.ip("link", "set", "eth0", "up")
        place.ip("address", "add", self.address + "/16", "dev", "eth0")
        place.ip("address", "add", self.address6 + "/64", "dev", "eth0", "nodad")
        self.fleet.controller.ip("link", "set", self.name, "master", "bridge", "up")
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.directory / "host_key"))
        (self.directory / "sshd_config").write_text(SSHD.format(directory=self.directory, key=self.fleet.key))

    def start(self) -> None:
        """Boot: rules first, as netfilter-persistent does, then sshd and the daemon."""
        self.boots += 1
        self.boot_id.write_text(str(self.boots))
        if self.hidden:
            self.namespace.run("nft", "-f", "-", text=FIREWALL)
        self.namespace.ip("link", "set", "eth0", "up")
        self.namespace.ip("address", "replace", self.address6 + "/64", "dev", "eth0", "nodad")  # goes with the link
        with open(self.sshd_log, "ab") as log:
            self._sshd = subprocess.Popen(
                self.namespace.command("/usr/sbin/sshd", "-D", "-e", "-f", str(self.directory / "sshd_config")),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if self.hidden:
            config = DOOR.format(sequence=self.sequence, open_timeout=OPEN_TIMEOUT)
            self._daemons.append(Daemon(self.namespace, self.directory, ("-i", "eth0"), config))
            self._daemons[-1].await_ready()
        eventually(lambda: self.sshd_log.read_text().count("listening on :: port 22") == self.boots, "sshd listens")

    def stop(self) -> None:
        """Switch off: no process takes leave, no rule stays, and nobody hears of it."""
        self.namespace.ip("link", "set", "eth0", "down")
        kill_all_in(self.namespace)
        if self._sshd:
            self._sshd.wait()
        for daemon in self._daemons:
            daemon.remove()
        self.namespace.run("nft", "flush", "ruleset")
        self.switched_off.touch()

    @property
    def boot_id(self) -> Path:
        """A file that says something else after each boot."""
        return self.directory / "boot"

    @property
    def switched_off(self) -> Path:
        """A file that is there once the host has been off."""
        return self.directory / "off"

    @property
    def namespace(self) -> Namespace:
        assert self._namespace, "not plugged in"
        return self._namespace

    @property
    def sshd_log(self) -> Path:
        return self.directory / "sshd.log"

    @property
    def told_to_reboot(self) -> Path:
        """A file that a task makes on the host in the place of `reboot`."""
        return self.directory / "reboot"

    @contextlib.contextmanager
    def reboots_when_told(self, takes: float) -> Iterator[None]:
        """Watch for that file meanwhile; `takes` are the seconds until it is back."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.02):
                if self.told_to_reboot.exists():
                    self.told_to_reboot.unlink()
                    self.stop()
                    over.wait(takes)
                    self.start()

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    @property
    def knocks(self) -> int:
        """How often the daemon has seen the whole sequence since the first boot."""
        return sum(daemon.log.count("OPEN SESAME") for daemon in self._daemons)

    @property
    def logins(self) -> int:
        """How many connections sshd has let in since the first boot."""
        return self.sshd_log.read_text().count("Accepted publickey for root")

    def is_open(self, family: str = "ipv4") -> bool:
        """Whether the controller reaches its port 22 without a knock."""
        with self.fleet.controller:
            return _knocker.is_open(_knocker.resolve(self.address if family == "ipv4" else self.address6), 22, 0.5)

    def remove(self) -> None:
        if self._namespace:
            with contextlib.suppress(AssertionError):  # half made
                self.stop()
            self._namespace.remove()


class Fleet:
    """The controller's namespace, hosts with their port 22 hidden, and `plain`, a host with an open one."""

    def __init__(self, count: int) -> None:
        # Not pytest's own directory: a control socket's path has to be short.
        self.directory = Path(tempfile.mkdtemp(prefix="fleet-"))
        self.hosts = [Host(self, number) for number in range(1, count + 1)]
        self.plain = Host(self, count + 1, hidden=False)
        self._all = [*self.hosts, self.plain]
        self._controller: Namespace | None = None

    @property
    def controller(self) -> Namespace:
        assert self._controller, "not built"
        return self._controller

    def build(self) -> None:
        Path("/run/sshd").mkdir(exist_ok=True)
        self.key = self.directory / "key"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))
        self._controller = Namespace("knock-c-" + secrets.token_hex(4))
        ip = self.controller.ip
        self.controller.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
        ip("link", "add", "bridge", "type", "bridge", "mcast_snooping", "0")
        ip("link", "set", "bridge", "up")
        for address in (CONTROLLER, STRANGER):
            ip("address", "add", address + "/16", "dev", "bridge")
        ip("address", "add", CONTROLLER6 + "/64", "dev", "bridge", "nodad")
        # Deprecated (RFC 4862, 5.5.4): the stranger's address is used only where it is asked for.
        ip("address", "add", STRANGER6 + "/64", "dev", "bridge", "nodad", "preferred_lft", "0")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(Host.plug, self._all))
            list(pool.map(Host.start, self._all))
        self.known_hosts = self.directory / "known_hosts"
        with open(self.known_hosts, "w") as file:
            for host in self._all:
                public = (host.directory / "host_key.pub").read_text()
                file.write("%s,%s,%s %s" % (host.name, host.address, host.address6, public))

    def remove(self) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(Host.remove, self._all))
        if self._controller:
            kill_all_in(self._controller)  # connections that tasks share outlive their play
            self._controller.remove()
        shutil.rmtree(self.directory, ignore_errors=True)
