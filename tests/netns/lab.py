# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two network namespaces with a cable between them, a knocker in one, a real daemon in the other."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Iterator

PACKAGE = Path(__file__).parents[2] / "roles" / "knockd" / "files"

CLIENT, SERVER = "198.18.0.1", "198.18.0.2"
CLIENT6, SERVER6 = "fd00:5e5a::1", "fd00:5e5a::2"
STRANGER, STRANGER6 = "198.18.0.66", "fd00:5e5a::66"

OWN_MACHINE = "SESAME_OWN_MACHINE" in os.environ
"""Whether the machine is the tests' own, and perhaps emulated: tests/kernel."""
PATIENCE = 60.0 if OWN_MACHINE else 15.0
"""Seconds until something that has to happen counts as not happening, on a quiet machine."""
STARTS = 30
"""On any other: as long as so many starts of the daemon take, one after the other. It is slow, never wrong."""

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32

FIREWALL = """
table inet filter {
    chain input {
        type filter hook input priority 0; policy accept;
        iif lo accept
        ct state established,related accept
        meta mark & 0x1000 == 0x1000 accept
        tcp dport 22 tcp flags & (fin|syn|rst|ack) == syn reject with tcp reset
        udp dport 60000-60010 drop
    }
}
"""
"""What rules.v4 and rules.v6 do, in short: port 22 needs our mark."""

SSH = """
[options]
    Mark = 0x1000

[ssh]
    sequence     = 21001:tcp,11003:tcp,31002:tcp
    seq_timeout  = 5
    tcpflags     = syn
    open_ports   = 22/tcp
    open_timeout = {open_timeout}
"""
KNOCKS = ("21001", "11003", "31002")

GUARD = """
[ssh]
    ports  = 22/tcp
    allow  = {allow}
    refuse = reset
    knock  = yes
"""

_libc = ctypes.CDLL(None, use_errno=True)


@functools.cache
def python() -> str:
    """The interpreter that runs the daemon: one that has Debian's python3-nftables."""
    for candidate in (os.environ.get("KNOCKD_PYTHON"), sys.executable, "/usr/bin/python3"):
        if candidate and not subprocess.run([candidate, "-c", "import nftables"], capture_output=True).returncode:
            return candidate
    raise RuntimeError("no python3 here has the module nftables: apt install python3-nftables")


def clean_up_when_ended() -> None:
    """Let TERM (a job that runs out of time) and HUP (a closed terminal) be like INT: what was made is then removed."""
    ends = (signal.SIGTERM, signal.SIGHUP)

    def end(_number: int, _frame: object) -> None:
        for number in ends:  # a closed terminal sends HUP more than once: the second would end the removing
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in ends:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup(1)
            signal.signal(number, end)


def run(*command: str, text: str = "") -> str:
    """Output of a command that has to succeed."""
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    assert done.returncode == 0, "%s: %s%s" % (" ".join(command), done.stdout, done.stderr)
    return done.stdout


def context_switches(pid: int) -> int:
    """How often a process has gone to sleep, or was put aside."""
    status = Path("/proc/%d/status" % pid).read_text()
    return sum(int(line.split()[1]) for line in status.splitlines() if "ctxt_switches" in line)


def sleeps(pid: int) -> bool:
    """Whether nothing wakes a process for two seconds."""
    before = context_switches(pid)
    time.sleep(2)
    return context_switches(pid) == before


def one_start() -> float:
    """Seconds that a daemon needs just now to tell its version."""
    began = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE)}
    subprocess.run([python(), "-m", "knockd", "-V"], env=environment, capture_output=True, check=True, timeout=300)
    return time.monotonic() - began


class Patience:
    """Ends when something has taken too long. What a start takes is measured only where it seems to."""

    def __init__(self, seconds: float | None = None) -> None:
        self._began = time.monotonic()
        self._seconds = PATIENCE if seconds is None else seconds

    @property
    def is_over(self) -> bool:
        if time.monotonic() - self._began > self._seconds:
            self._seconds = max(self._seconds, STARTS * one_start())
        return time.monotonic() - self._began > self._seconds

    def __str__(self) -> str:
        return "not within %.0f s" % self._seconds


def eventually(condition: Callable[[], object], claim: str = "") -> None:
    """Waits until the condition holds."""
    patience = Patience()
    while not condition():
        assert not patience.is_over, "never: %s (%s)" % (claim or condition, patience)
        time.sleep(0.02)


class Namespace:
    """A network namespace; `with namespace:` makes sockets of this thread belong to it."""

    def __init__(self, name: str) -> None:
        self.name = name = "%s.%d" % (name, os.getpid())  # `make clean` removes it when this process is gone
        self.path = "/run/netns/" + name
        self._homes: list[int] = []
        """Where those who are in come from: several threads may be."""
        run("ip", "netns", "add", name)
        self.ip("link", "set", "lo", "up")

    def __enter__(self) -> None:
        self._homes.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY))
        there = os.open(self.path, os.O_RDONLY)
        _setns(there)
        os.close(there)

    def __exit__(self, *_: object) -> None:
        home = self._homes.pop()
        _setns(home)
        os.close(home)

    def command(self, *command: str) -> tuple[str, ...]:
        return ("nsenter", "--net=" + self.path, *command)

    def run(self, *command: str, text: str = "") -> str:
        return run(*self.command(*command), text=text)

    def fails(self, *command: str) -> str:
        """What a command says that must not succeed."""
        done = subprocess.run(self.command(*command), capture_output=True, text=True)
        assert done.returncode != 0, "%s succeeded" % " ".join(command)
        return done.stderr

    def ip(self, *arguments: str) -> None:
        run("ip", "-n", self.name, *arguments)

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, 0x40000000):  # CLONE_NEWNET
        raise OSError(ctypes.get_errno(), "setns")


class Daemon:
    """`python3 -m knockd` in a namespace, with a notify socket and a log that can be read."""

    def __init__(
        self,
        namespace: Namespace,
        directory: Path,
        arguments: tuple[str, ...],
        config: str,
        environment: dict[str, str] | None = None,
        through: tuple[str, ...] = (),
    ) -> None:
        self.directory = directory
        self.config = directory / "knockd.conf"
        self.write(config)
        self._output = directory / ("output-" + secrets.token_hex(4))
        with namespace:  # names of such sockets belong to a network namespace as well (unix(7), abstract)
            self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = "\0knockd-test-" + secrets.token_hex(8)
        self._notify.bind(address)
        self._notify.settimeout(0.02)
        self.notifications: list[str] = []
        with open(self._output, "wb") as output:
            self.process = subprocess.Popen(
                namespace.command(*through, python(), "-m", "knockd", "-c", str(self.config), *arguments),
                env={
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": str(PACKAGE),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "NOTIFY_SOCKET": "@" + address[1:],
                    **(environment or {}),
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
            )

    def write(self, config: str) -> None:
        self.config.write_text(config.replace("DIR", str(self.directory)))

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self._output.read_text()

    def notified(self, word: str) -> bool:
        """Whether systemd would have heard this since the last time it was asked for."""
        with contextlib.suppress(OSError):
            self.notifications.append(self._notify.recv(4096).decode())
        for position, message in enumerate(self.notifications):
            if word in message:
                del self.notifications[: position + 1]
                return True
        return False

    def await_ready(self) -> None:
        eventually(lambda: self.process.poll() is not None or self.notified("READY=1"), "READY=1: " + self.log)
        assert self.process.poll() is None, self.log

    def await_log(self, *words: str) -> None:
        patience = Patience()
        while not all(word in self.log for word in words):
            assert not patience.is_over, "not logged: %s (%s)\n%s" % (words, patience, self.log)
            time.sleep(0.01)

    def reload(self, config: str | None = None) -> None:
        if config is not None:
            self.write(config)
        self.notifications.clear()
        self.process.send_signal(signal.SIGHUP)
        eventually(lambda: self.notified("RELOADING=1"), "RELOADING=1")
        eventually(lambda: self.notified("READY=1"), "READY=1")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        self.process.terminate()
        return self.process.wait(PATIENCE)

    def remove(self) -> None:
        if self.process.poll() is None:
            self.kill()
        self._notify.close()


class Lab:
    """The place where a test happens."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._things: list[Namespace | Daemon | socket.socket] = []

    def build(self) -> None:
        tag = secrets.token_hex(4)
        self.client = self._keep(Namespace("knock-c-" + tag))
        self.server = self._keep(Namespace("knock-s-" + tag))
        for namespace in (self.client, self.server):  # addresses count at once, without waiting for duplicates
            namespace.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0")
        self.plug("eth0")

    def _keep(self, thing):  # type: ignore[no-untyped-def]
        self._things.append(thing)
        return thing

    def remove(self) -> None:
        for thing in reversed(self._things):
            thing.close() if isinstance(thing, socket.socket) else thing.remove()

    # The cable.

    def plug(self, name: str, addresses: bool = True) -> None:
        """A new interface of the server, with the client at its other end."""
        self.lay(name)
        self.client.ip("link", "set", "eth0", "up")
        if not addresses:
            self.server.ip("link", "set", name, "addrgenmode", "none")  # not even a link-local one
        self.server.ip("link", "set", name, "up")
        for address in (CLIENT, STRANGER):
            self.client.ip("address", "add", address + "/24", "dev", "eth0")
        self.client.ip("address", "add", CLIENT6 + "/64", "dev", "eth0", "nodad")
        # Deprecated (RFC 4862, 5.5.4): the stranger's address is used only where it is asked for.
        self.client.ip("address", "add", STRANGER6 + "/64", "dev", "eth0", "nodad", "preferred_lft", "0")
        if addresses:
            self.address(name)

    def lay(self, name: str) -> None:
        """The cable itself, with ends that are not up yet."""
        self.server.ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", self.client.name)

    def address(self, name: str) -> None:
        self.server.ip("address", "add", SERVER + "/24", "dev", name)
        self.server.ip("address", "add", SERVER6 + "/64", "dev", name, "nodad")

    def mac(self, name: str) -> bytes:
        """The hardware address of an interface of the server."""
        link = json.loads(run("ip", "-n", self.server.name, "-j", "link", "show", name))[0]
        return bytes.fromhex(link["address"].replace(":", ""))

    def unplug(self, name: str) -> None:
        self.server.ip("link", "delete", name)

    # The server.

    def nft(self, text: str) -> None:
        self.server.run("nft", "-f", "-", text=text)

    def sshd(self, port: int = 22) -> None:
        """Something that accepts connections."""
        with self.server:
            listener = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
        listener.settimeout(PATIENCE)
        self._listener = self._keep(listener)

    def accept(self) -> socket.socket:
        """The server's end of the oldest connection."""
        accepted = self._keep(self._listener.accept()[0])
        accepted.settimeout(PATIENCE)
        return accepted

    def daemon(
        self,
        config: str,
        *arguments: str,
        ready: bool = True,
        interface: str = "eth0",
        through: tuple[str, ...] = (),
        **environment: str,
    ) -> Daemon:
        """A daemon; `through` is a command that ends by becoming it."""
        options = ("-i", interface, *arguments)
        daemon = self._keep(Daemon(self.server, self.directory, options, config, environment, through))
        if ready:
            daemon.await_ready()
        return daemon

    # The client.

    def knock(self, *knocks: str, to: str = SERVER, source: str | None = None) -> None:
        """Knocks as the command `knock` does: `21001`, `31002/udp`."""
        family = socket.AF_INET6 if ":" in to else socket.AF_INET
        for item in knocks:
            port, _, protocol = item.partition("/")
            kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
            with self.client, socket.socket(family, kind) as knocker:
                knocker.setblocking(False)
                if source:
                    knocker.bind((source, 0))
                with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                    knocker.connect((to, int(port)))
                    knocker.send(b"\0") if protocol == "udp" else None

    def send_tcp(self, port: int, flags: int, source: str = CLIENT) -> None:
        """One bare TCP segment with these flags."""
        segment = struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 5 << 4, flags, 1024, 0, 0)
        pseudo = socket.inet_aton(source) + socket.inet_aton(SERVER) + struct.pack("!BBH", 0, 6, len(segment))
        words = struct.unpack("!16H", pseudo + segment)
        total = sum(words)
        total = (total & 0xFFFF) + (total >> 16)
        checksum = ~(total + (total >> 16)) & 0xFFFF
        with self.client, socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
            raw.bind((source, 0))
            raw.sendto(segment[:16] + struct.pack("!H", checksum) + segment[18:], (SERVER, 0))

    def connect(self, to: str = SERVER, source: str | None = None, port: int = 22) -> socket.socket | None:
        """A connection to the server, or None if it is refused or nobody answers."""
        with self.client:
            caller = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET)
        caller.settimeout(0.5)
        try:
            if source:
                caller.bind((source, 0))
            caller.connect((to, port))
        except OSError:
            caller.close()
            return None
        caller.settimeout(PATIENCE)
        return self._keep(caller)

    def is_open(self, to: str = SERVER, source: str | None = None, port: int = 22) -> bool:
        caller = self.connect(to, source, port)
        if caller:
            caller.close()
        return caller is not None

    def opens(self, to: str = SERVER, source: str | None = None, port: int = 22) -> None:
        eventually(lambda: self.is_open(to, source, port), "port %d of %s opens" % (port, to))

    def closes(self, to: str = SERVER, source: str | None = None, port: int = 22) -> None:
        eventually(lambda: not self.is_open(to, source, port), "port %d of %s closes" % (port, to))


@contextlib.contextmanager
def stopped(daemon: Daemon) -> Iterator[None]:
    """The daemon does nothing at all meanwhile."""
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        daemon.process.send_signal(signal.SIGCONT)
