# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is compared, each as its own documentation sets it up, in front of the same closed port 22."""

from __future__ import annotations

import base64
import os
import secrets
import subprocess
from collections.abc import Iterable
from ipaddress import ip_address
from typing import ClassVar

from tests.netns.lab import PATIENCE, SERVER, eventually, run

from . import gauges
from .place import CLIENTS, HOST, Place
from .results import C_KNOCKD, FWKNOP, OURS, RECIPE, SHIPPED_C_KNOCKD, SILENT_C_KNOCKD

KNOCKS = ("34567", "12890", "51234")
"""In no order, so that nobody takes a knock for a scan."""

OTHER_DOORS = 20000
"""Where the first knocks of the doors begin that nobody uses, if there are any."""

FIREWALL = """
*filter
:INPUT ACCEPT [0:0]
-A INPUT -m mark --mark 0x1000/0x1000 -j ACCEPT
-A INPUT -p tcp --syn --dport 22 -j REJECT --reject-with tcp-reset
-A INPUT -p tcp --syn -j DROP
-A INPUT -p udp -j DROP
COMMIT
"""
"""What closes port 22. Nothing of it tracks connections: the kernel's table would be full before any daemon is."""


class Peer:
    """One of them, running in a place."""

    name: ClassVar[str]
    families: ClassVar[tuple[int, ...]] = (4, 6)
    knocks: tuple[str, ...] = KNOCKS
    """What a client sends, in the words of probe.c."""
    ports = range(int(KNOCKS[0]), int(KNOCKS[0]) + 1)
    """Where a flood has to go, to be taken for first knocks."""
    payload: int | None = None
    """Bytes of a udp knock; None: knocks are SYNs."""

    def __init__(self, place: Place, window: float = 5, doors: int = 1) -> None:
        self.place = place
        self.window = window
        self.doors = doors
        self.start()

    def start(self) -> None:
        """Bring it up, pinned to the host's core."""
        raise NotImplementedError

    @property
    def pid(self) -> int:
        """Its process."""
        raise NotImplementedError

    def issue(self, first: int, clients: int) -> None:
        """Give these clients what they need to knock."""

    def stop(self) -> None:
        """End it."""

    def _close_port(self) -> None:
        for command in ("iptables-restore", "ip6tables-restore"):
            self.place.server.run(command, text=FIREWALL)


class Ours(Peer):
    """The daemon of this checkout with a native door."""

    name = OURS
    DOOR = """
[{name}]
    sequence     = {sequence}
    seq_timeout  = {window}
    tcpflags     = syn
    open_ports   = 22/tcp
    open_timeout = 10
"""

    def start(self) -> None:
        self._close_port()
        sequences = list(_sequences(self.doors))
        config = "".join(
            self.DOOR.format(name="door%d" % number, sequence=",".join(knocks), window=self.window)
            for number, knocks in enumerate(sequences)
        )
        self._daemon = self.place.daemon(config)
        _pin(self.pid)

    @property
    def pid(self) -> int:
        return self._daemon.pid

    def stop(self) -> None:
        self._daemon.terminate()


class _Foreign(Peer):
    """A program that is not ours, in the foreground."""

    def _run(self, *command: str, environment: dict[str, str] | None = None) -> None:
        self._output = self.place.directory / "peer.log"
        with open(self._output, "wb") as output:
            self._process = subprocess.Popen(
                self.place.server.command(*command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.place.directory,
                env={**os.environ, **(environment or {})},
            )
        eventually(lambda: self._process.poll() is not None or gauges.listens(self.pid), self.name + " listens")
        assert self._process.poll() is None, self._output.read_text()
        _pin(self.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:  # C knockd waits for its stop commands, and may hang after a flood
            self._process.kill()
            self._process.wait(PATIENCE)


class CKnockd(_Foreign):
    """Debian's knockd with a log file and the commands of its own example."""

    name = C_KNOCKD
    OPTIONS = "LogFile = c-knockd.log"
    CONFIG = """
[options]
    {options}

[ssh]
    sequence        = {sequence}
    seq_timeout     = {window:.0f}
    tcpflags        = syn
    start_command   = /usr/sbin/iptables -I INPUT -s %IP% -p tcp --dport 22 -j ACCEPT
    start_command_6 = /usr/sbin/ip6tables -I INPUT -s %IP% -p tcp --dport 22 -j ACCEPT
    cmd_timeout     = 10
    stop_command    = /usr/sbin/iptables -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT
    stop_command_6  = /usr/sbin/ip6tables -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT
"""

    def start(self) -> None:
        self._close_port()
        config = self.place.directory / "c-knockd.conf"
        config.write_text(self.CONFIG.format(options=self.OPTIONS, sequence=",".join(KNOCKS), window=self.window))
        self._run("knockd", "-i", "eth0", "-c", str(config))


class SilentCKnockd(CKnockd):
    """The same without any log."""

    name = SILENT_C_KNOCKD
    OPTIONS = ""


class ShippedCKnockd(CKnockd):
    """The same as Debian ships it: every stage goes to syslog, which is systemd's journal, as Debian ships that."""

    name = SHIPPED_C_KNOCKD
    OPTIONS = "UseSyslog"
    JOURNALD = "/lib/systemd/systemd-journald"
    # With its own /run and /dev/log, so that neither a journal of this machine nor the lack of one plays a part.
    WITH_JOURNAL = """
set -e
mount --make-rprivate /
mount -t tmpfs run /run
mkdir "$1"
for device in null zero random urandom; do
    touch "$1/$device"
    mount --bind "/dev/$device" "$1/$device"
done
mount --rbind "$1" /dev
ln -s /run/systemd/journal/dev-log /dev/log
"$2" & # ends with the namespace
until [ -S /dev/log ]; do sleep 0.05; done
shift 2
exec "$@"
"""

    def _run(self, *command: str, environment: dict[str, str] | None = None) -> None:
        devices = str(self.place.directory / "dev")
        shell = ("unshare", "--mount", "sh", "-c", self.WITH_JOURNAL, "sh", devices, self.JOURNALD)
        super()._run(*shell, *command)


class Fwknop(_Foreign):
    """Debian's fwknop server as packaged, with keys; its knock is one encrypted udp packet."""

    name = FWKNOP
    families = (4,)
    payload = 204  # as long as what its client sends for tcp/22

    def start(self) -> None:
        self._close_port()
        self._key, self._hmac = (base64.b64encode(secrets.token_bytes(size)).decode() for size in (32, 64))
        directory = self.place.directory
        (directory / "fwknop").mkdir(exist_ok=True)
        self.knocks = ("62201%s/fwknop/packet" % directory,)
        self.ports = range(62201, 62202)
        self._write("fwknopd.conf", "PCAP_INTF eth0;\nFWKNOP_RUN_DIR %s/fwknop;\n" % directory)
        self._write(
            "access.conf",
            "SOURCE ANY\nOPEN_PORTS tcp/22\nFW_ACCESS_TIMEOUT 10\nREQUIRE_SOURCE_ADDRESS Y\n"
            "KEY_BASE64 %s\nHMAC_KEY_BASE64 %s\n" % (self._key, self._hmac),
        )
        conf, access = directory / "fwknopd.conf", directory / "access.conf"
        self._run("fwknopd", "-f", "-c", str(conf), "-a", str(access))
        eventually(lambda: "main event loop" in self._output.read_text(), "fwknopd starts")

    def issue(self, first: int, clients: int) -> None:
        """Let its client write the packets that these clients will send."""
        directory = self.place.directory
        for number in range(clients):
            packet = directory / "fwknop" / ("packet.%d" % (number + 1))
            packet.unlink(missing_ok=True)
            source = str(ip_address(CLIENTS[4]) + first + number)
            run(
                *("fwknop", "--test", "--no-home-dir", "--no-rc-file", "-E", str(directory / "arguments")),
                *("-A", "tcp/22", "-a", source, "-D", SERVER, "--save-packet", str(packet)),
                *("--key-base64-rijndael", self._key, "--use-hmac", "--key-base64-hmac", self._hmac),
            )
            packet.write_text(packet.read_text().strip())

    def _write(self, name: str, text: str) -> None:
        path = self.place.directory / name
        path.touch(mode=0o600)
        path.write_text(text)


class Recipe(Peer):
    """Port knocking without a daemon, as the wiki of nftables has it: sets that packets add to."""

    name = RECIPE
    TABLE = """
table inet knocking {{
    set clients4 {{ type ipv4_addr; flags timeout; size 65535; }}
    set clients6 {{ type ipv6_addr; flags timeout; size 65535; }}
    set candidates4 {{ type ipv4_addr . inet_service; flags timeout; size 65535; }}
    set candidates6 {{ type ipv6_addr . inet_service; flags timeout; size 65535; }}
    chain input {{
        type filter hook input priority -10; policy accept;
        iifname "lo" return
{stages}
        tcp dport 22 ip saddr @clients4 accept
        tcp dport 22 ip6 saddr @clients6 accept
        tcp dport 22 tcp flags & (fin|syn|rst|ack) == syn reject with tcp reset
        tcp flags & (fin|syn|rst|ack) == syn drop
    }}
}}
"""

    def start(self) -> None:
        one, two, three = KNOCKS
        stages = []
        for ip, family in (("ip", "4"), ("ip6", "6")):
            candidate = "%s saddr . tcp dport @candidates%s" % (ip, family)
            add = "add @candidates%s { %s saddr . %%s timeout %ds }" % (family, ip, self.window)
            stages += [
                "tcp dport %s %s" % (one, add % two),
                "tcp dport %s %s %s" % (two, candidate, add % three),
                "tcp dport %s %s add @clients%s { %s saddr timeout 10s }" % (three, candidate, family, ip),
            ]
        self.place.nft(self.TABLE.format(stages="\n".join(stages)))


def _sequences(doors: int) -> Iterable[tuple[str, ...]]:
    """The door that clients use, and others with first knocks of their own, out of order as well."""
    yield KNOCKS
    for number in range(doors if doors > 1 else 0):
        yield str(OTHER_DOORS + number), str(10000 + number * 7919 % 9000), str(40000 + number * 7919 % 20000)


def _pin(pid: int) -> None:
    for task in os.listdir("/proc/%d/task" % pid):
        os.sched_setaffinity(int(task), {HOST})
