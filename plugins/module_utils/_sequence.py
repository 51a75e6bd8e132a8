# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The grammar of knock sequences: reading, writing, judging and making them.

The plugins, the client and the daemon all read sequences through this one file (the copies of the daemon and the client
are links to it), so it needs nothing but the standard library of Python 3.8.

A sequence is a secret. Messages quote the one item that is wrong, never the sequence, and the sentences of `weaknesses`
hold no port: they may go to a log.
"""

from __future__ import annotations

import math
import re
from collections import namedtuple
from collections.abc import Iterable, Iterator, Mapping, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it takes longer than knocking
    from typing import Any

MAX_KNOCKS = 32
PORTS = 65535
PROTOCOLS = ("tcp", "udp")

# Below the ports that Linux gives to outgoing connections (net.ipv4.ip_local_port_range, 32768-60999): an answer to
# such a connection must not look like a knock.
GENERATED_PORTS = range(1024, 32768)

# Sequences that manuals and articles show, in any order: the first that an attacker tries.
WELL_KNOWN = (
    frozenset((7000, 8000, 9000)),  # C knockd's shipped configuration
    frozenset((2222, 3333, 4444)),  # knockd(1)
    frozenset((10001, 10002, 10003)),
    frozenset((8881, 7777, 9991)),
    frozenset((571, 290, 911)),
)

_ITEM = re.compile(r"\s*([0-9]+)\s*(?:[:/]\s*([a-z]+)\s*)?", re.ASCII | re.IGNORECASE)


class SequenceError(ValueError):
    """A sequence that cannot be read; the message is one sentence that names the bad item."""


class Knock(namedtuple("Knock", ("port", "protocol"))):
    """One packet to one port."""

    __slots__ = ()
    port: int
    protocol: str

    def __str__(self) -> str:
        return f"{self.port}/{self.protocol}"


def parse_sequence(value: Any) -> tuple[Knock, ...]:
    """Read 1 to 32 knocks from "10001:tcp,10002/udp, 10003" or a list of such items or {port, protocol} mappings."""
    if isinstance(value, str):
        items: Sequence[Any] = value.split(",")
    elif isinstance(value, (list, tuple)) and not isinstance(value, Knock):
        items = value
    else:
        items = (value,)
    if not items or (isinstance(value, str) and not value.strip()):
        raise SequenceError(f"the sequence is empty: it needs 1 to {MAX_KNOCKS} knocks such as port:tcp")
    if len(items) > MAX_KNOCKS:
        raise SequenceError(f"the sequence has {len(items)} knocks: at most {MAX_KNOCKS} are possible")
    return tuple(_parse_item(item, number) for number, item in enumerate(items, 1))


def _parse_item(item: Any, number: int) -> Knock:
    """Read one knock; `number` counts from 1 and is for messages."""
    if isinstance(item, (Mapping, Knock)):
        fields = item._asdict() if isinstance(item, Knock) else dict(item)
        port, protocol = fields.pop("port", ""), fields.pop("protocol", "tcp")
        if fields:
            unknown = min(map(str, fields))
            raise SequenceError(f"knock {number} has the unknown key {unknown!r}: a mapping has port and protocol")
        text = f"{port}:{protocol}"
    elif isinstance(item, bool) or not isinstance(item, (int, str)):
        raise SequenceError(f"knock {number} is a {type(item).__name__}: write port:tcp or port:udp")
    else:
        text = str(item)
    if not text.strip(" :\t"):
        raise SequenceError(f"knock {number} is empty: write port:tcp or port:udp, separated by single commas")
    match = _ITEM.fullmatch(text)
    if not match:
        if len(re.findall("[0-9]+", text)) > 1:  # perhaps the whole sequence, with other separators: not for a log
            raise SequenceError(f"knock {number} holds several numbers: separate knocks by commas")
        raise SequenceError(f"knock {number}, {_quote(text)}, is not port, port:tcp or port:udp")
    protocol = (match.group(2) or "tcp").lower()
    if protocol not in PROTOCOLS:
        raise SequenceError(f"knock {number}, {_quote(text)}, has an unknown protocol: tcp and udp are possible")
    port = int(match.group(1)) if len(match.group(1)) <= 9 else 0
    if not 1 <= port <= PORTS:
        raise SequenceError(f"knock {number}, {_quote(text)}, is no port: ports go from 1 to 65535")
    return Knock(port, protocol)


def _quote(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 40 else text[:37] + "...")


def format_sequence(knocks: Iterable[Knock]) -> str:
    """Write knocks as knockd.conf does: `10001:tcp,10002:tcp`."""
    return ",".join(f"{knock.port}:{knock.protocol}" for knock in knocks)


def scan_odds(knocks: Sequence[Knock], strays: int | None = None, ports: int = PORTS) -> int:
    """Say how safe from a blind scanner: one sweep over all ports in random order hits the sequence once in so many.

    A sweep puts n different knocks into one of n! orders. Repeated knocks do not count: scanners repeat probes as well.

    With `strays`, the attempt is void after more than so many ports that belong to no door and no service. The sweep
    has u = `ports` - n of these. They fall into n + 1 gaps, before, between and after the knocks, and each of the
    C(u+n, n) ways to fall is equally likely. In C(j+n-2, n-2) * (u-j+1) of them j are in the n - 1 gaps between the
    knocks, so the sweep hits with the chance of

        sum of C(j+n-2, n-2) * (u-j+1) for j = 0 ... strays / (n! * C(u+n, n))

    Served ports lower u and change little; ports of other doors void as well and make it less likely still.
    """
    n = len(set(knocks))
    if strays is None or n < 2:
        return math.factorial(n)
    u = max(0, ports - n)
    ways = sum(math.comb(j + n - 2, n - 2) * (u - j + 1) for j in range(min(strays, u) + 1))
    return math.factorial(n) * math.comb(u + n, n) // ways


def sweep_hits(knocks: Sequence[Knock], strays: int | None = None) -> bool:
    """Say whether a scan hits that sweeps the ports from low to high or from high to low; `strays` as in scan_odds."""
    if strays is None:
        return _swept(knocks, 1) or _swept(knocks, -1)
    return any(
        places == sorted(places) and places[-1] - places[0] + 1 - len(set(places)) <= strays
        for places in _scans(knocks)
    )


def _scans(knocks: Sequence[Knock]) -> Iterator[list[int]]:
    """Say when each knock comes in the scans that people run: port by port, or one protocol after the other."""
    for direction in (1, -1):
        ports = [direction * knock.port for knock in knocks]
        if len({knock.protocol for knock in knocks}) == 1:
            yield ports
            continue
        for order in (PROTOCOLS, PROTOCOLS[::-1]):
            turns = [order.index(knock.protocol) for knock in knocks]
            yield [2 * port + turn for port, turn in zip(ports, turns)]
            yield [(PORTS + 1) * turn + port for port, turn in zip(ports, turns)]


def odds(knocks: Sequence[Knock], strays: int | None) -> str:
    """Say in words how often a blind scan in random order and one in the order of the ports hit; it holds no port."""
    once_in = scan_odds(knocks, strays)
    random = "every time" if once_in == 1 else f"once in {once_in:,}"
    return f"{random}, in the order of the ports {'every time' if sweep_hits(knocks, strays) else 'never'}"


def weaknesses(knocks: Sequence[Knock]) -> list[str]:
    """Say what makes the sequence easy to hit by a port scan or a guess, a sentence each; [] when nothing does."""
    odds = scan_odds(knocks)
    chance = "every time" if odds == 1 else f"once in {odds}"
    found = []
    if len(knocks) == 1:
        found.append("it is a single knock: any port scan opens it every time")
    elif len(knocks) < 3:
        found.append(f"it has only {len(knocks)} knocks: a port scan in random order opens it {chance}")
    if len(knocks) > 1:
        if _swept(knocks, 1):
            found.append(
                f"its ports ascend: a port scan from low to high opens it every time, one in random order {chance}"
            )
        elif _swept(knocks, -1):
            found.append(
                f"its ports descend: a port scan from high to low opens it every time, one in random order {chance}"
            )
    if len(set(knocks)) < len(knocks):
        found.append(
            f"it repeats a port: a scan that repeats its probes opens it {chance}, and a packet that the network"
            " repeats can count as a knock"
        )
    if frozenset(knock.port for knock in knocks) in WELL_KNOWN:
        found.append("its ports are those of a manual or an article: whoever tries these opens it every time")
    return found


def _swept(knocks: Sequence[Knock], direction: int) -> bool:
    """Is the sequence hit by a scan in one direction, over both protocols port by port or over one after the other?"""
    ports = [direction * knock.port for knock in knocks]
    if ports == sorted(ports):
        return True
    for order in (PROTOCOLS, PROTOCOLS[::-1]):
        places = [(order.index(knock.protocol), port) for knock, port in zip(knocks, ports)]
        if places == sorted(places):
            return True
    return False


def generate(length: int = 5, avoid: Iterable[Knock | int] = ()) -> tuple[Knock, ...]:
    """Make a fresh strong sequence of 3 to 32 tcp knocks that touches none of the ports in `avoid`."""
    if not 3 <= length <= MAX_KNOCKS:
        raise SequenceError(f"a generated sequence has 3 to {MAX_KNOCKS} knocks, not {length}")
    taken = {item.port if isinstance(item, Knock) else int(item) for item in avoid}
    ports = [port for port in GENERATED_PORTS if port not in taken]
    if len(ports) < 2 * length:
        raise SequenceError("too few ports are left: avoid fewer")
    from secrets import SystemRandom  # here, because every ssh imports this file and none makes a sequence

    random = SystemRandom()
    while True:
        knocks = tuple(Knock(port, "tcp") for port in random.sample(ports, length))
        if not weaknesses(knocks):
            return knocks
