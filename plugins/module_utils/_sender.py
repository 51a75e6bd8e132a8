# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the knocker on a jump host: the program that `python3 -IS -` reads there, and the one line that it answers.

The program is the knocker's own source, so that all knock alike, and comes over stdin with its order, sequences
included: nothing of it is an argument or a file there.
"""

from __future__ import annotations

from . import _knocker
from ._knocker import KnockError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

COMMAND = "python3 -IS -"
"""What the jump host runs."""
PATIENCE = 10.0
"""Seconds for the jump host to log in, to start the program and to answer, beyond those that knocking takes."""

ANSWER = "sesame-knock:"
"""What a line of the sender begins with; a login shell may say something too."""

# What the person's configuration says of the jump host counts, but for what would do more than jump.
OPTIONS = (
    *("-T", "-a", "-x", "-o", "ClearAllForwardings=yes", "-o", "RemoteCommand=none", "-o", "PermitLocalCommand=no"),
    *("-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3"),
)

# The knocker needs of the grammar of sequences only what a knock is: they come parsed, as Knock(...).
SENDER = """\
import sys
sys.tracebacklimit = 0
def load(name, source):
    module = sys.modules["sesame_knock." + name] = type(sys)("sesame_knock." + name)
    module.__package__ = "sesame_knock"
    exec(compile(source, module.__name__, "exec"), module.__dict__)
    return module
sys.modules["sesame_knock"] = type(sys)("sesame_knock")
Knock = load("_sequence", "from collections import namedtuple\\nKnock = namedtuple('Knock', 'port protocol')").Knock
knocker = load("_knocker", {source})
operation, host, family, arguments = {order}
try:
    target = knocker.resolve(host, family)
    found = getattr(knocker, operation)(target, *arguments)
    address = target.address + ("%%%d" % target.scope if target.scope else "")
    status, words = 0, "%s %r" % (address, tuple(found) if isinstance(found, tuple) else found)
except knocker.KnockError as error:
    status, words = error.status, str(error)
print("{answer}", status, " ".join(words.split()))
"""


class JumpFailed(KnockError):
    """The jump host does not let us in, run the sender, or connect on."""

    status = 7


class FromJump(KnockError):
    """What the knocker on the jump host has to say, with its own status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def program(operation: str, host: str, family: str, *arguments: Any) -> bytes:
    """Write the program: one of the knocker's functions, for a target that is resolved there."""
    with open(_knocker.__file__, encoding="utf-8") as file:
        source = file.read()
    order = (operation, host, family, arguments)
    return SENDER.format(source=ascii(source), order=ascii(order), answer=ANSWER).encode()


def answer_in(said: bytes) -> tuple[int, str] | None:
    """Find the program's line in what the jump host has said, if it is there as a whole: a status, and words.

    With status 0, that is the address and what the function gave, else what the knocker has to say.
    """
    for line in said.decode(errors="replace").splitlines(keepends=True):
        words = line.split(None, 2)
        if line.endswith("\n") and len(words) == 3 and words[0] == ANSWER and words[1].isdecimal():
            return int(words[1]), "".join(filter(str.isprintable, words[2]))
    return None


def no_answer(name: str, status: int, said: bytes) -> JumpFailed:
    """Say why the jump host of this name gave none."""
    words = last_line(said)
    if status == 127:
        return JumpFailed(
            "the jump host %s has no python3, which sends the knocks from there. Install it: apt install python3" % name
        )
    if status == 255:
        return JumpFailed("the jump host %s is gone: %s" % (name, words))
    return JumpFailed(
        "the jump host %s did not run python3, which sends the knocks from there (status %d): %s. The account "
        "there must be allowed to run it" % (name, status, words or "it said nothing")
    )


def last_line(said: bytes) -> str:
    """Give what a program said last, which is what it ended by; the line is for a sentence."""
    lines = ["".join(filter(str.isprintable, line)).strip() for line in said.decode(errors="replace").split("\n")]
    return next((line.rstrip(".") for line in reversed(lines) if line), "")
