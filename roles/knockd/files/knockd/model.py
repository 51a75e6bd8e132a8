# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The words of the daemon as types: a door, what protects a port, the settings, and what the tracker tells.

Everything here is a value: no clock, no socket, no file. All times are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import FrozenSet, NamedTuple, Optional, Tuple, Union

from .sequence import Knock

Address = Union[IPv4Address, IPv6Address]
Network = Union[IPv4Network, IPv6Network]


class PortRange(NamedTuple):
    """Ports that a door opens or a guard protects: `22/tcp`, `60000-60010/udp`; first and last are included."""

    first: int
    last: int
    protocol: str

    def __str__(self) -> str:
        ports = str(self.first) if self.first == self.last else "%d-%d" % (self.first, self.last)
        return "%s/%s" % (ports, self.protocol)


class TcpFlags(NamedTuple):
    """Flags that a tcp knock must show: a packet fits if `flags & mask == value` (RFC 9293, section 3.1)."""

    mask: int = 0
    value: int = 0


ANY_FLAGS = TcpFlags()


@dataclass(frozen=True)
class Door:
    """A named sequence and what it opens (native door), closes, or runs (command door)."""

    name: str
    sequence: Tuple[Knock, ...]
    seq_timeout: float = 25.0
    tcpflags: TcpFlags = ANY_FLAGS
    target: Optional[Address] = None
    """Counts packets to this address in place of the interface's own."""

    open_ports: Tuple[PortRange, ...] = ()
    open_timeout: float = 10.0
    """0 leaves the ports open until a close_door or the daemon's end."""
    close_door: Optional[str] = None
    """The name of the door whose admission this one ends."""

    start_command: Optional[str] = None
    start_command_6: Optional[str] = None
    stop_command: Optional[str] = None
    stop_command_6: Optional[str] = None
    """For each _6: None falls back to the plain command, an empty string does nothing (knockd.conf(5))."""
    cmd_timeout: float = 10.0

    one_time_sequences: Optional[str] = None
    """Path of the file that holds the sequences that are left; `sequence` is then the one that counts now."""
    line: int = 0
    """Where the section begins in the file, for messages."""


@dataclass(frozen=True)
class Guard:
    """One protection of the guard chain: new connections to `ports` need `allow` or, with `knock`, an admission."""

    name: str
    ports: Tuple[PortRange, ...]
    allow: Tuple[Network, ...] = ()
    refuse: str = "reset"
    """`reset` answers tcp with a reset and udp with an ICMP error; `drop` says nothing."""
    knock: bool = True


CLASSIC = frozenset(("scans", "repeats", "doors", "pairs", "names"))
"""What `Classic` brings back of C knockd (docs/compatibility.md): `scans` lets other ports void nothing, `repeats` lets
a repeated packet void an attempt, `doors` lets a source try one door at a time, `pairs` runs a start and a stop command
for each completed knock, also while the door is open, `names` asks name servers (with -l) for every knock."""


@dataclass(frozen=True)
class Settings:
    """All that a configuration file says."""

    doors: Tuple[Door, ...] = ()
    guards: Tuple[Guard, ...] = ()
    interfaces: Tuple[str, ...] = ()
    use_syslog: bool = False
    log_file: Optional[str] = None
    pid_file: Optional[str] = None
    mark: int = 0x1000
    guard_file: Optional[str] = None
    published: bool = False
    """Whether doors and guards mean ports also where DNAT, REDIRECT or Docker sends them elsewhere."""
    state_dir: Optional[str] = None
    classic: FrozenSet[str] = frozenset()
    """Words of CLASSIC."""
    strays: int = 5
    """How many ports that nobody serves a knocker may touch beside its knocks."""
    knockers: int = 250_000
    """How many sources that are part-way through a sequence are remembered: those of the last ones, under a flood."""
    control: Optional[str] = None
    """Path of the socket of knockctl(8), or `none`; None leaves it to systemd, which says where sockets may be."""
    warnings: Tuple[str, ...] = field(default=())
    """Sentences that name the line: inline comments, weak sequences, doors that stay open."""


# What the tracker tells. `source` is the packed address, 4 or 16 bytes: it arrives like that, and is a key at once.


class Stage(NamedTuple):
    """A knocker has reached stage `number` (1 is the first knock) of a door."""

    source: bytes
    door: Door
    number: int


class Opened(NamedTuple):
    """A knocker has completed a door, with an attempt whose first knock came at `began`."""

    source: bytes
    door: Door
    began: float


class TimedOut(NamedTuple):
    """A knocker's window has passed with `number` stages reached."""

    source: bytes
    door: Door
    number: int


Event = Union[Stage, Opened, TimedOut]
