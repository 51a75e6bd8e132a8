# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Profiles: what the client must know of one door, in a private file, so that no sequence is ever an argument.

A profile is JSON: `{"sequence": "", "previous": "", "delay_ms": 2, "timeout": 10, "family": "any", "bind": ""}`.
Only `sequence` is required. `previous` is tried as well, for the time that a rotation takes. `host` and `port` are for
people who name a profile in place of a host. `jump` has the words of ssh that lead to a jump host,
`["-p", "2222", "admin@bastion"]`: then the knock and the connection leave from there.
"""

from __future__ import annotations

import json
import os
import stat
from collections import namedtuple
from collections.abc import Mapping

from ._knocker import DELAY, FAMILIES, TIMEOUT
from ._sequence import Knock, SequenceError, parse_sequence

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it takes longer than knocking
    from typing import Any, Optional

KEYS = ("sequence", "previous", "delay_ms", "timeout", "family", "bind", "host", "port", "jump")


class ProfileError(ValueError):
    """A profile that cannot be used; the message is one sentence that names the file and the cure."""


class Profile(
    namedtuple(
        "Profile",
        ("sequences", "delay", "timeout", "family", "bind", "host", "port", "jump"),
        defaults=(DELAY, TIMEOUT, "any", None, "", 0, ()),
    )
):
    """How to knock at one door."""

    __slots__ = ()
    sequences: tuple[tuple[Knock, ...], ...]
    """The current one first."""
    delay: float
    timeout: float
    family: str
    bind: Optional[str]
    host: str
    """Where to knock for who names only the profile."""
    port: int
    """What opens; 0 if the profile does not say."""
    jump: tuple[str, ...]
    """The words of ssh that lead to the jump host, which is the last one; () without one."""


def parse_profile(values: Any) -> Profile:
    """Check what a profile says."""
    if not isinstance(values, Mapping):
        raise ProfileError("it is not a JSON object")
    for key in values:
        if key not in KEYS:  # never ignored: a knock without what was asked for could leave from the wrong place
            raise ProfileError("unknown key %r: %s are possible" % (key, ", ".join(KEYS)))
    if not values.get("sequence"):
        raise ProfileError("it has no sequence")
    try:
        sequences = tuple(parse_sequence(values[key]) for key in ("sequence", "previous") if values.get(key))
        delay = float(values.get("delay_ms", DELAY * 1000)) / 1000
        timeout = float(values.get("timeout", TIMEOUT))
    except SequenceError as error:
        raise ProfileError(str(error)) from None
    except (TypeError, ValueError):
        raise ProfileError("delay_ms and timeout must be numbers") from None
    if not (0 <= delay <= 60 and 0 < timeout <= 3600):
        raise ProfileError("delay_ms is 0 to 60000, and timeout is more than 0 and at most 3600 seconds")
    family = values.get("family", "any")
    if family not in FAMILIES:
        raise ProfileError("family is one of %s" % ", ".join(FAMILIES))
    host, port = values.get("host", ""), values.get("port", 0)
    if not isinstance(host, str) or not host.isprintable() or " " in host or host.startswith("-"):
        raise ProfileError("host is a name or an address")
    if not isinstance(port, int) or isinstance(port, bool) or ("port" in values and not 1 <= port <= 65535):
        raise ProfileError("port is a number from 1 to 65535")
    jump = _parse_jump(values.get("jump", []))
    if jump and values.get("bind"):
        raise ProfileError("jump and bind exclude each other: the jump host chooses the address that it connects from")
    return Profile(sequences, delay, timeout, family, values.get("bind") or None, host, port, jump)


def _parse_jump(words: Any) -> tuple[str, ...]:
    if not isinstance(words, list) or not all(isinstance(word, str) and word and "\0" not in word for word in words):
        raise ProfileError("jump is a list of words")
    if words and words[-1].startswith("-"):
        raise ProfileError("jump is a list of words that ends in where it leads to, user@host for example")
    return tuple(words)


def read_profile(path: str) -> Profile:
    """Read a profile that nobody else can read."""
    try:
        with open(path, encoding="utf-8") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise ProfileError("others may read it: chmod 600 %s" % path)
            return parse_profile(json.load(file))
    except OSError as error:
        raise ProfileError("the profile %s cannot be read: %s" % (path, error.strerror)) from None
    except json.JSONDecodeError:  # its message would quote nothing, but its traceback would hold the text
        raise ProfileError("the profile %s is not JSON" % path) from None
    except ProfileError as error:
        raise ProfileError("the profile %s: %s" % (path, error)) from None
