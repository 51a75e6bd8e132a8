# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machines of the fault tests: Debian hosts with systemd and sshd in Docker, and the clients that look at them.

Everything has labels, so that `make clean` finds what a kill has left, and tells it from another clone's.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from ..netns.lab import Patience

ROOT = Path(__file__).parents[2]
NETWORK = "sesame-faults"
IPV4, IPV6 = "198.18.60.%s", "fd00:5e5a:60::%s"
"""Addresses of this network: the controller is .1, a stranger that has to knock; hosts are .10 and up."""
ALLOWED4, ALLOWED6 = "198.18.60.200", "fd00:5e5a:60:0:8000::200"
STRANGER4, STRANGER6 = IPV4 % 100, IPV6 % 100
CLONE = ("--label", "sesame.knock.clone=%s" % ROOT)
LABELS = ("--label", "sesame.knock=host", *CLONE)
PATIENCE = 60
"""Seconds for a boot, on a machine that does something else as well; a slower one has more."""


def run(*command: str, text: str | None = None, timeout: float = 300) -> str:
    """Output of a command that has to succeed."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, errors="replace", timeout=timeout)
    assert done.returncode == 0, "%s: %s%s" % (" ".join(command), done.stdout, done.stderr)
    return done.stdout


def docker(*arguments: str, text: str | None = None, timeout: float = 300) -> str:
    return run("docker", *arguments, text=text, timeout=timeout)


def remove(kind: str, *names: str) -> None:
    """Remove containers, networks, images or volumes, also those that are not there."""
    if names:
        force = ["--force"] if kind != "network" else []
        subprocess.run(["docker", kind, "rm", *force, *names], capture_output=True)


def make_network() -> None:
    remove("network", NETWORK)
    subnets = ("--subnet", IPV4 % "0/24", "--subnet", IPV6 % "/64")
    docker("network", "create", "--label", "sesame.knock=network", *CLONE, "--ipv6", *subnets, NETWORK)


@dataclass(frozen=True)
class Machine:
    """A container."""

    name: str

    def run(self, *command: str, text: str | None = None, timeout: float = 60) -> str:
        """Output of a command in it that has to succeed."""
        return docker("exec", "--interactive", self.name, *command, text=text, timeout=timeout)

    def shell(self, script: str, timeout: float = 60) -> str:
        return self.run("sh", "-c", script, timeout=timeout)

    def succeeds(self, *command: str, timeout: float = 60) -> bool:
        command = ("docker", "exec", self.name, *command)
        return subprocess.run(command, capture_output=True, timeout=timeout).returncode == 0

    def remove(self) -> None:
        remove("container", self.name)


@dataclass(frozen=True)
class Host(Machine):
    """A Debian under test."""

    ipv4: str
    ipv6: str

    def boot(self, image: str, key: str, *options: str) -> None:
        """Start it, with what systemd and a firewall need and no more, as molecule/shared/create.yml does."""
        self.remove()
        docker(
            *("run", "--detach", "--name", self.name, "--hostname", self.name, *LABELS),
            *("--network", NETWORK, "--ip", self.ipv4, "--ip6", self.ipv6),
            *("--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN", "--security-opt", "apparmor=unconfined"),
            *("--cgroupns", "private", "--tmpfs", "/run", "--tmpfs", "/run/lock"),
            *("--sysctl", "net.ipv6.conf.all.disable_ipv6=0", "--restart", "always"),
            *("--env", "AUTHORIZED_KEY=" + key, *options, image),
        )
        self.wait_booted()

    def wait_booted(self) -> None:
        """Wait until systemd has started all that it will."""
        patience = Patience(PATIENCE)
        state = ""
        while state not in ("running", "degraded"):
            assert not patience.is_over, "%s has not booted: %s (%s)" % (self.name, state, patience)
            asked = ("docker", "exec", self.name, "systemctl", "is-system-running", "--wait")
            with contextlib.suppress(subprocess.TimeoutExpired):
                state = subprocess.run(asked, capture_output=True, text=True, timeout=PATIENCE).stdout.strip()
            if state not in ("running", "degraded"):
                time.sleep(0.2)

    def restart(self, seconds: int) -> None:
        """Reboot; 0 seconds to shut down are a power failure."""
        docker("restart", "--time", str(seconds), self.name)
        self.wait_booted()

    def reboot(self) -> None:
        self.restart(20)

    def lose_power(self) -> None:
        self.restart(0)


class Wire:
    """The cables of this machine's Docker network, which a helper in the machine's own network namespace can pull."""

    def __init__(self, image: str) -> None:
        self.machine = Machine(NETWORK + "-wire")
        self.machine.remove()
        options = (*LABELS, "--network", "host", "--cap-add", "NET_ADMIN", "--entrypoint", "sleep")
        docker("run", "--detach", "--name", self.machine.name, *options, image, "infinity")

    def _end(self, host: Host) -> str:
        """The name of this machine's end of a host's cable."""
        index = int(host.run("cat", "/sys/class/net/eth0/iflink"))
        links = json.loads(self.machine.run("ip", "-json", "link", "show"))
        return next(str(link["ifname"]) for link in links if link["ifindex"] == index)

    def pull(self, host: Host) -> None:
        self.machine.run("ip", "link", "set", self._end(host), "down")

    def plug(self, host: Host) -> None:
        self.machine.run("ip", "link", "set", self._end(host), "up")


@contextlib.contextmanager
def small_disk(host: Host, folder: str, image: str) -> Iterator[tuple[str, ...]]:
    """Options for `boot` that put a folder on a disk of its own, with little space; none for no folder."""
    if not folder:
        yield ()
        return
    volume = Machine(host.name + "-disk")
    remove("container", volume.name)
    remove("volume", volume.name)
    options = ("--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", "o=size=8m")
    docker("volume", "create", "--label", "sesame.knock=volume", *CLONE, *options, volume.name)
    try:
        # Somebody has to hold it, or a reboot would empty it
        mount = ("--volume", "%s:/disk:nocopy" % volume.name, "--network", "none", "--entrypoint", "sleep")
        docker("run", "--detach", "--init", "--name", volume.name, *LABELS, *mount, image, "infinity")
        yield ("--volume", "%s:%s" % (volume.name, folder))
    finally:
        host.remove()
        volume.remove()
        remove("volume", volume.name)


# Looks at port 22 of two addresses, and never lets sshd accept anything (see plugins/module_utils/_knocker.py).
WATCH = """
import os, select, socket, struct, sys, threading, time

def look(address, patience=1.2):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
        caller.setblocking(False)
        try:
            caller.connect((address, 22))
        except BlockingIOError:
            pass
        except OSError:
            return "unreachable"
        if not select.select([], [caller], [], patience)[1]:
            return "silent"
        return {0: "open", 111: "refused"}.get(caller.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), "unreachable")

def watch(address):
    while True:
        begin = time.time()
        answer = look(address)
        print("%f %s %s" % (begin, address, answer), flush=True)
        time.sleep(GAP)

for address in sys.argv[1:]:
    threading.Thread(target=watch, args=(address,), daemon=True).start()
sys.stdin.read()
os._exit(0)
"""
GAP = 0.4
"""Seconds between two looks."""


class Watch:
    """What a client sees at port 22 of a host, all the time: `with Watch(client, host) as seen`."""

    def __init__(self, client: Machine, host: Host) -> None:
        command = ("docker", "exec", "--interactive", client.name, "python3", "-c", WATCH.replace("GAP", str(GAP)))
        self._command = (*command, host.ipv4, host.ipv6)
        self.seen: list[tuple[float, str, str]] = []
        """When, at which address, what: `open`, `refused`, `silent` or `unreachable`."""

    def __enter__(self) -> Watch:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            when, address, answer = line.split()
            self.seen.append((float(when), address, answer))

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(30)
        self._reader.join(30)

    def since(self, begin: float, end: float) -> list[tuple[str, str]]:
        """Address and answer of the looks that began within this time."""
        return [(address, answer) for when, address, answer in list(self.seen) if begin <= when <= end]


class Client(Machine):
    """A machine of the same network that is no host."""

    def start(self, image: str, ipv4: str, ipv6: str) -> None:
        self.remove()
        network = ("--network", NETWORK, "--ip", ipv4, "--ip6", ipv6, "--sysctl", "net.ipv6.conf.all.disable_ipv6=0")
        docker(
            "run",
            "--detach",
            "--init",
            "--name",
            self.name,
            *LABELS,
            *network,
            "--entrypoint",
            "sleep",
            image,
            "infinity",
        )

    def logs_in(self, address: str) -> bool:
        """A whole login, without a knock."""
        options = ("-F", "none", "-i", "/root/key", "-l", "admin", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5")
        return self.succeeds("ssh", *options, "-o", "StrictHostKeyChecking=no", address, "true")
