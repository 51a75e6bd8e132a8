# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What knockctl(8) asks, in the words of doors: reads its requests and draws the picture that `status` answers.

No picture shows a sequence, nor a port that is knocked on.
"""

from __future__ import annotations

import math
import socket
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple

from .config import LONGEST
from .control import ControlError
from .kernel import Admitted
from .model import Door
from .packet import text


class Order(NamedTuple):
    """`open` or `close`: whom, and where it was said through which door and for how many seconds."""

    source: bytes
    door: Optional[Door] = None
    seconds: Optional[float] = None


def read_open(request: Dict[str, Any], doors: Tuple[Door, ...]) -> Order:
    """`{"command": "open", "address": ..., "door": name or null, "seconds": number or null}`; raises ControlError."""
    source = _address(request)
    name, seconds = request.get("door"), request.get("seconds")
    native = [door for door in doors if door.open_ports]
    known = ", ".join(door.name for door in native)
    if not native:
        raise ControlError(
            "there is no native door (one with open_ports): a command door's start_command can be run by hand"
        )
    if name is None and len(native) > 1:
        raise ControlError("there is more than one native door, name one of them: %s" % known)
    found = [door for door in native if name is None or door.name == name]
    if not found:
        raise ControlError("%r is no native door: known are %s" % (name, known))
    if seconds is not None and (
        isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds <= LONGEST
    ):
        raise ControlError("the time is no number of seconds above 0 and up to %d" % LONGEST)
    return Order(source, found[0], seconds)


def read_close(request: Dict[str, Any]) -> Order:
    """`{"command": "close", "address": ...}`; raises ControlError."""
    return Order(_address(request))


def _address(request: Dict[str, Any]) -> bytes:
    address = request.get("address")
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            packed = socket.inet_pton(family, address)  # type: ignore[arg-type]  # None is no address
        except (OSError, TypeError, ValueError):
            continue
        mapped = len(packed) == 16 and packed.startswith(bytes(10) + b"\xff\xff")
        return packed[12:] if mapped else packed
    raise ControlError("%r is no address: write one IPv4 or IPv6 address" % (address,))


def doors(configured: Iterable[Door]) -> List[Dict[str, Any]]:
    """What is to be known about each door."""
    return [
        {
            "name": door.name,
            "kind": "native" if door.open_ports else "closing" if door.close_door else "command",
            "ports": [str(ports) for ports in door.open_ports],
            "closes": door.close_door,
            "seconds": door.open_timeout if door.open_ports else None if door.close_door else door.cmd_timeout,
            "used_up": not door.sequence,
        }
        for door in configured
    ]


def admitted(held: Iterable[Admitted]) -> List[Dict[str, Any]]:
    """Who is in: one entry for each address and door, the next to leave first."""
    together: Dict[Tuple[bytes, str, float], List[str]] = {}
    for source, ports, door, seconds in held:
        together.setdefault((source, door, seconds), []).append(str(ports))
    return [
        {"address": text(source), "door": door, "ports": sorted(ports), "seconds": remaining(seconds)}
        for (source, door, seconds), ports in sorted(together.items(), key=lambda item: item[0][2])
    ]


def pairs(held: Iterable[Tuple[str, str, float]]) -> List[Dict[str, Any]]:
    """Command doors whose stop command is still to come."""
    return [{"address": address, "door": door, "seconds": remaining(seconds)} for address, door, seconds in held]


def remaining(seconds: float) -> Optional[float]:
    """Seconds as JSON has them: None for an admission without an end."""
    return None if math.isinf(seconds) else round(max(0.0, seconds), 1)
