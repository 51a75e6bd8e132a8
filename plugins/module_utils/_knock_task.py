# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task of `sesame.knock.knock` does: the same for the action (on the controller) and the module (delegated)."""

from __future__ import annotations

import time
from typing import Any, Callable, Mapping, Protocol, Sequence

from . import _knocker
from ._knocker import CLOSED_TIMEOUT, DELAY, FAMILIES, OPEN_BEFORE, TIMEOUT, Opened, StillOpen
from ._sequence import Knock, SequenceError, parse_sequence

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "host": {"type": "str"},
    "port": {"type": "int"},
    "sequence": {"type": "raw", "no_log": True},
    "state": {"type": "str", "choices": ["open", "closed"], "default": "open"},
    "close_sequence": {"type": "raw", "no_log": True},
    "wait": {"type": "bool", "default": True},
    "timeout": {"type": "float"},
    "delay": {"type": "float", "default": DELAY * 1000},
    "family": {"type": "str", "choices": list(FAMILIES), "default": "any"},
}
DEFAULTS = {
    "host": ("knock_host", "ansible_host", "inventory_hostname"),
    "port": ("ansible_port",),
    "sequence": ("knock_sequence",),
}
"""Where an argument comes from when the task does not give it: the first variable that is set."""


def fill_in(
    arguments: Mapping[str, Any], variables: Mapping[str, Any], template: Callable[[Any], Any]
) -> dict[str, Any]:
    """The arguments of a task, with what the variables of its host say of those that it does not give."""
    filled = dict(arguments)
    for name, candidates in DEFAULTS.items():
        for variable in candidates:
            # A variable may be empty, or a template that gives nothing
            if filled.get(name) in (None, "") and variables.get(variable) is not None:
                filled[name] = template(variables[variable])
    return filled


class Origin(Protocol):
    """The knocker, as it is used from one place. Targets are the place's own."""

    def resolve(self, host: str, family: str = "any") -> Any: ...

    def knock(self, target: Any, knocks: Sequence[Knock], delay: float = DELAY) -> None: ...

    def wait_open(
        self,
        target: Any,
        port: int,
        sequences: Sequence[Sequence[Knock]],
        delay: float = DELAY,
        timeout: float = TIMEOUT,
    ) -> Opened: ...

    def is_open(self, target: Any, port: int) -> bool: ...

    def wait_closed(self, target: Any, port: int, timeout: float = CLOSED_TIMEOUT) -> None: ...


class BadTask(Exception):
    """Arguments that make no sense; the message is one sentence that names the option."""


def perform(arguments: Mapping[str, Any], check_mode: bool, origin: Origin = _knocker) -> dict[str, Any]:
    """Knock as the arguments say; the result is what the task returns. Raises BadTask or KnockError."""
    host, port = arguments["host"], arguments["port"] or 22
    opening = arguments["state"] == "open"
    if not host:
        raise BadTask("host is needed")
    if not 1 <= port <= 65535:
        raise BadTask("port is %d: ports go from 1 to 65535" % port)
    name = "sequence" if opening else "close_sequence"
    if opening and not arguments["sequence"]:
        raise BadTask(
            "no sequence for %s: set knock_sequence. This makes one: ansible localhost -m ansible.builtin.debug "
            "-a \"msg={{ lookup('sesame.knock.sequence') }}\"" % host
        )
    try:
        knocks = parse_sequence(arguments[name]) if arguments[name] else ()
    except SequenceError as error:
        raise BadTask("%s for %s: %s" % (name, host, error)) from None
    timeout = arguments["timeout"] or (TIMEOUT if opening else CLOSED_TIMEOUT)
    delay = arguments["delay"] / 1000
    result = {"host": host, "port": port, "changed": bool(knocks), "knocks": 0, "elapsed": 0.0}
    if check_mode:
        what = "knock at %s (%d knocks)" % (host, len(knocks)) if knocks else "send nothing to %s" % host
        after = " and wait until port %d is %s" % (port, arguments["state"]) if arguments["wait"] else ""
        return dict(result, msg="Would %s%s." % (what, after))

    begin = time.monotonic()
    target = origin.resolve(host, arguments["family"])
    if opening and arguments["wait"]:
        opened = origin.wait_open(target, port, [knocks], delay, timeout)
        sent = opened.knocks
        result["was_open"] = opened.was_open
        if opened.was_open:
            result["warnings"] = [OPEN_BEFORE % (port, target)]
    elif opening:
        origin.knock(target, knocks, delay)
        sent = len(knocks)
    else:
        sent = _close(origin, target, port, knocks, delay, timeout if arguments["wait"] else 0)
    return dict(result, address=target.address, knocks=sent, elapsed=round(time.monotonic() - begin, 4))


def _close(origin: Origin, target: Any, port: int, knocks: tuple[Knock, ...], delay: float, timeout: float) -> int:
    """Send the closing knock, if there is one, and wait for the port to close; repeat a knock that may be lost.

    The result is how many packets were sent.
    """
    deadline = time.monotonic() + timeout
    sent = 0
    while knocks:
        origin.knock(target, knocks, delay)
        sent += len(knocks)
        if not timeout:
            return sent
        try:
            origin.wait_closed(target, port, min(2.0, max(0.0, deadline - time.monotonic())))
            return sent
        except StillOpen:
            if time.monotonic() >= deadline:
                raise StillOpen("port %d of %s is still open after the closing knock" % (port, target)) from None
    if timeout:
        origin.wait_closed(target, port, timeout)
    return sent
