# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jump routes: the jump hosts before a host, from the variables of an inventory or the user's ssh configuration."""

from __future__ import annotations

import os
import shlex
from typing import Any, Callable, Mapping, Sequence

from ansible_collections.sesame.knock.plugins.module_utils._jump import (
    JumpError,
    config_file_in,
    conflict_in,
    destination,
    host_words,
    parse_jumps,
    through,
)
from ansible_collections.sesame.knock.plugins.module_utils._variables import JUMP, given_sequences

from .ssh_config import look_up
from .written import check_host


class JumpRoutes:
    """Finds them, among these arguments of ssh, which are listed by the name of where they are set.

    `knocking` gives the arguments of ssh that knock with these sequences, from behind the jump host to which these
    words lead.
    """

    def __init__(
        self, templar: Any, texts: Mapping[str, str], knocking: Callable[[Mapping[str, str], Sequence[str]], str]
    ) -> None:
        self._templar = templar
        self._texts = texts
        self._knocking = knocking
        self._config = next(filter(None, map(config_file_in, texts.values())), None)
        self._file = ["-F", os.path.abspath(os.path.expanduser(self._config))] if self._config else []

    def to_jump_of(self, variables: Mapping[str, Any]) -> list[str]:
        """Give the words of ssh that lead to the jump host of the host that is connected to; [] without one."""
        name = name_of(variables)
        given = variables.get(JUMP)
        if given is not None:
            inventory = variables.get("hostvars") or {}
            return self._through_all(parse_jumps(self._templar.template(given)), name, inventory, ())
        address = self._templar.template(variables.get("ansible_host")) or name
        port, user = (str(self._templar.template(variables.get(key)) or "") for key in ("ansible_port", "ansible_user"))
        configured = look_up(str(address), port, user, self._config)
        if configured.command:
            raise JumpError(
                "the configuration of ssh has the ProxyCommand %r for %s, which would be ignored. Set %s to its jump "
                "host, or to none if the host is reached without it" % (configured.command, address, JUMP)
            )
        if not configured.jump:
            return []
        *before, last = configured.jump.split(",")
        return [*self._file, *(["-J", ",".join(before)] if before else []), *destination(last)]

    @staticmethod
    def through(jump: list[str]) -> list[str]:
        """Write the words of ssh that go through the jump host to which these words lead, without a knock."""
        return through(jump)

    def refuse_conflicts(self) -> None:
        """Refuse arguments that would be ignored, or make ssh ignore ours."""
        for name, text in self._texts.items():
            conflict = conflict_in(text)
            if conflict:
                raise JumpError(
                    "%s has %s, and ssh would ignore either that or the knock. Remove it, and name the jump host in "
                    "the variable %s, for the knock has to leave from there" % (name, conflict, JUMP)
                )

    def _through_all(
        self, jumps: list[str], to: str, inventory: Mapping[str, Any], above: tuple[str, ...]
    ) -> list[str]:
        """Write the words of ssh that lead through these jump hosts, up to the host `to` if it is one of them."""
        words: list[str] = []
        for jump in jumps[: jumps.index(to)] if to in jumps else jumps:
            words = self._step(jump, words, inventory, above)
        return words

    def _step(self, jump: str, before: list[str], inventory: Mapping[str, Any], above: tuple[str, ...]) -> list[str]:
        """Write the words of ssh that lead to one jump host, behind those that lead to the one before."""
        if jump not in inventory:
            return [*self._file, *(through(before) if before else []), *destination(jump)]
        if jump in above:
            raise JumpError("%s leads in a circle: %s" % (JUMP, " to ".join((*above, jump))))
        variables = inventory[jump]
        check_host(jump, variables)
        if not before:
            before = self._through_all(parse_jumps(variables.get(JUMP)), jump, inventory, (*above, jump))
        sequences = given_sequences(variables, self._templar)
        options = through(before) if before else []
        if sequences:
            options = shlex.split(self._knocking(sequences, before))
        return [*self._file, *options, *host_words(jump, variables)]


def name_of(variables: Mapping[str, Any]) -> str:
    """Name the host that is connected to. With delegate_to, only the short name is that host's."""
    name, short = str(variables.get("inventory_hostname", "")), str(variables.get("inventory_hostname_short", ""))
    if not short or short in (name, name.split(".", maxsplit=1)[0]):
        return name
    found = [host for host in variables.get("hostvars") or () if short in (host, host.split(".", maxsplit=1)[0])]
    return found[0] if len(found) == 1 else short
