# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The origin of knocks and connections: the controller itself, or the jump host that its connection goes through.

A door opens to the address that knocks, and a port is closed or open to whoever looks. So behind a jump host all of it
happens there: each call is a login of its own, which runs the knocker from its stdin.
"""

from __future__ import annotations

import ast
import os
import subprocess
from typing import Any, Mapping, NamedTuple, Sequence

from ansible_collections.sesame.knock.plugins.module_utils import _knocker
from ansible_collections.sesame.knock.plugins.module_utils._knock_task import Origin
from ansible_collections.sesame.knock.plugins.module_utils._knocker import (
    CLOSED_TIMEOUT,
    DELAY,
    TIMEOUT,
    Opened,
    StillOpen,
)
from ansible_collections.sesame.knock.plugins.module_utils._sender import (
    COMMAND,
    OPTIONS,
    PATIENCE,
    FromJump,
    JumpFailed,
    answer_in,
    no_answer,
    program,
)
from ansible_collections.sesame.knock.plugins.module_utils._sequence import Knock
from ansible_collections.sesame.knock.plugins.module_utils._variables import JUMP

HERE: Origin = _knocker
"""This machine."""


class Seen(NamedTuple):
    """What a jump host is to knock at; it resolves that itself."""

    host: str
    family: str
    address: str

    def __str__(self) -> str:
        return self.host if self.host == self.address else "%s (%s)" % (self.host, self.address)


class JumpHost:
    """The jump host to which these words of ssh lead."""

    def __init__(self, words: Sequence[str]) -> None:
        *self._options, self._destination = words
        self.name = self._destination

    def resolve(self, host: str, family: str = "any") -> Seen:
        nothing = ()
        return Seen(host, family, self._run("knock", Seen(host, family, host), 0, nothing)[0])

    def knock(self, target: Seen, knocks: Sequence[Knock], delay: float = DELAY) -> None:
        self._run("knock", target, len(knocks) * delay, knocks, delay)

    def wait_open(
        self,
        target: Seen,
        port: int,
        sequences: Sequence[Sequence[Knock]],
        delay: float = DELAY,
        timeout: float = TIMEOUT,
    ) -> Opened:
        return Opened(*self._run("wait_open", target, timeout, port, sequences, delay, timeout)[1])

    def is_open(self, target: Seen, port: int) -> bool:
        return bool(self._run("is_open", target, 0, port)[1])

    def wait_closed(self, target: Seen, port: int, timeout: float = CLOSED_TIMEOUT) -> None:
        self._run("wait_closed", target, timeout, port, timeout)

    def _run(self, operation: str, target: Seen, seconds: float, *arguments: Any) -> tuple[str, Any]:
        """Run a function of the knocker there, which takes so long; give the address and the result."""
        words = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=%d" % PATIENCE, *OPTIONS, *self._options]
        try:
            done = subprocess.run(
                [*words, "--", self._destination, COMMAND],
                input=program(operation, target.address, target.family, *arguments),
                capture_output=True,
                timeout=seconds + 3 * PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise JumpFailed(
                "the jump host %s has not answered for %.0f s" % (self.name, seconds + 3 * PATIENCE)
            ) from None
        except OSError as error:
            raise JumpFailed("ssh: %s" % os.strerror(error.errno or 0)) from None
        found = answer_in(done.stdout)
        if not found:
            raise no_answer(self.name, done.returncode, done.stderr or done.stdout)
        status, said = found
        if not status:
            address, result = said.split(None, 1)
            return address, ast.literal_eval(result)
        message = "from %s: %s" % (self.name, said)
        raise StillOpen(message) if status == StillOpen.status else FromJump(status, message)


def origin_for(lookup: Any, connection: Any, variables: Mapping[str, Any]) -> Origin:
    """Say where knocks at a host leave from, by lookup ssh_args: where connections do."""
    if variables.get(JUMP) is None and connection.transport != "ssh":
        return HERE
    words = lookup.jump_of(variables)
    return JumpHost(words) if words else HERE
