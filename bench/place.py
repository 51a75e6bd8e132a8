# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where it happens: two network namespaces, the world in one, a host in the other, a cable or a bad line between them.

Where the machine has two cores, the world (generator, clients) has the first and what is measured the second. On a
veth pair the kernel receives on the core that sends: the first core pays for the wire, the second for the daemon.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
from ipaddress import ip_address
from pathlib import Path
from typing import Iterable, NamedTuple, TypeVar

from tests.netns.lab import CLIENT, CLIENT6, SERVER, SERVER6, Lab, Namespace, run

CORES = sorted(os.sched_getaffinity(0))
WORLD, HOST = CORES[0], CORES[-1]

SPOOFED = {4: "198.19.0.0", 6: "fd00:5e5a:f00d::"}
"""Where the sources of a flood begin. 198.18.0.0/15 cannot hold a million of them: such floods are IPv6."""
CLIENTS = {4: "198.18.8.0", 6: "fd00:5e5a:c::"}
"""Where the addresses of the legitimate clients begin."""
HOSTS = {4: SERVER, 6: SERVER6}


def compile_tools(directory: Path) -> None:
    """Make flood, probe and wire there, from their sources beside this file."""
    for tool in ("flood", "probe", "wire"):
        source = Path(__file__).with_name(tool + ".c")
        run("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", str(directory / tool), str(source))


class Flooded(NamedTuple):
    """What a flood was."""

    sent: int
    refused: int
    """Packets for which the kernel's queue of the receiving side had no room."""
    seconds: float

    @property
    def rate(self) -> float:
        """Packets a second."""
        return self.sent / self.seconds


class Flood:
    """A flood that runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def wait(self) -> Flooded:
        """Wait for its end."""
        output, error = self._process.communicate()
        if self._process.returncode:
            raise RuntimeError(error)
        return Flooded(**json.loads(output))

    def stop(self) -> Flooded:
        """End it now."""
        self._process.terminate()
        return self.wait()


class Line(NamedTuple):
    """A bad line."""

    delay: float
    """Milliseconds that a round trip takes longer: half of them each way."""
    loss: float
    """Percent of the frames, in each direction."""
    seed: int = 1
    """The same seed loses the same frames."""


class Wire:
    """wire.c, running in a namespace between two others."""

    def __init__(self, tools: Path, namespace: Namespace, line: Line) -> None:
        words = (str(tools / "wire"), "west", "east", str(line.delay / 2), str(line.loss), str(line.seed))
        self._process = subprocess.Popen(namespace.command(*words), stdout=subprocess.PIPE, text=True)
        assert self._process.stdout and self._process.stdout.readline() == "READY\n"

    def stop(self) -> tuple[int, int]:
        """End it; frames that have passed, and frames that it has lost."""
        self._process.terminate()
        done = json.loads(self._process.communicate()[0])
        return done["passed"], done["lost"]

    def remove(self) -> None:
        """End it if it still runs."""
        if self._process.poll() is None:
            self.stop()


AnyPlace = TypeVar("AnyPlace", bound="Place")


class Place(Lab):
    """The namespaces, with routes to a world of clients, and something that listens on port 22."""

    def __init__(self, directory: Path, tools: Path, line: Line | None = None) -> None:
        super().__init__(directory)
        self._tools = tools
        self._line = line
        self.wire: Wire | None = None

    def __enter__(self: AnyPlace) -> AnyPlace:
        try:
            self.build()
            self._connect_world()
            self.sshd()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for pid in run("ip", "netns", "pids", self.server.name).split():  # commands that C knockd has left behind
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        self.remove()

    def lay(self, name: str) -> None:
        """A cable, or a line: two cables with the wire between them."""
        if not self._line:
            return super().lay(name)
        middle = self._keep(Namespace("knock-b-" + secrets.token_hex(4)))
        for place, there, here in ((self.client, "eth0", "west"), (self.server, name, "east")):
            place.ip("link", "add", there, "type", "veth", "peer", "name", here, "netns", middle.name)
            place.ip("link", "set", there, "gso_max_segs", "1")  # frames as long as those of a real line
            middle.ip("link", "set", here, "addrgenmode", "none", "up")
        self.wire = self._keep(Wire(self._tools, middle, self._line))

    def _connect_world(self) -> None:
        """All addresses of the clients belong to the client's namespace, and nobody has to ask for a neighbour."""
        ends: list[tuple[Namespace, Namespace, tuple[str, str]]] = [
            (self.server, self.client, (CLIENT, CLIENT6)),
            (self.client, self.server, (SERVER, SERVER6)),
        ]
        for here, there, addresses in ends:
            mac = _mac(there)
            for address in addresses:
                here.ip("neighbour", "replace", address, "lladdr", mac, "nud", "permanent", "dev", "eth0")
        for network, router in (("198.18.8.0/22", CLIENT), ("fd00:5e5a:c::/64", CLIENT6)):
            self.client.ip("route", "add", "local", network, "dev", "lo")
            self.server.ip("route", "add", network, "via", router, "dev", "eth0")

    def flood(
        self, family: int, sources: int, ports: range, rate: float, seconds: float, payload: int | None = None
    ) -> Flood:
        """Start packets to the host: SYNs, or udp with a payload; as fast as it can with rate 0."""
        words = [HOSTS[family], SPOOFED[family], sources, ports.start, len(ports), rate, seconds]
        if payload:
            words.append(payload)
        command = self._in_world("flood", "eth0", _mac(self.server), *map(str, words))
        return Flood(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))

    def probe(
        self,
        family: int,
        clients: int,
        knocks: Iterable[str],
        *,
        first: int = 0,
        stride: float = 0,
        gap: float = 10,
        spacing: float = 50,
        patience: float = 1000,
    ) -> list[float | None]:
        """Let clients knock; microseconds until the port was open for each, None where it stayed shut."""
        where = [HOSTS[family], "22", plus(CLIENTS[family], first)]
        words = [clients, stride, gap, spacing, patience]
        output = run(*self._in_world("probe", *where, *map(str, words), *knocks))
        return [None if float(line) < 0 else float(line) for line in output.split()]

    def _in_world(self, tool: str, *arguments: str) -> tuple[str, ...]:
        return self.client.command("taskset", "--cpu-list", str(WORLD), str(self._tools / tool), *arguments)


def _mac(namespace: Namespace) -> str:
    """The hardware address of its end of the cable."""
    return str(json.loads(run("ip", "-n", namespace.name, "-j", "link", "show", "eth0"))[0]["address"])


def plus(address: str, number: int) -> str:
    return str(ip_address(address) + number)
