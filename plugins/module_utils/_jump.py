# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `knock_jump` means, and which arguments of ssh would make it ignore a ProxyCommand. Pure; knows no Ansible.

`knock_jump` is the name of a host in the inventory, or a destination of ssh, `[user@]host[:port]`; several with commas
lie one behind the other, the nearest one first.
"""

from __future__ import annotations

import getopt
import os
import re
import shlex
from functools import lru_cache
from typing import Any, Mapping, Optional, Sequence

from ._variables import JUMP

# What can be a destination: nothing that ssh, or the shell that runs a ProxyCommand, could take for something else.
_DESTINATION = re.compile(
    r"(?:ssh://)?(?P<user>[\w.+][\w.+@-]*@)?"
    r"(?:(?P<name>\w[\w.-]*)|\[(?P<bracketed>[\da-fA-F:.]+(?:%\w+)?)\])(?::(?P<port>\d{1,5}))?",
    re.ASCII,
)
_IPV6 = re.compile(r"(?:[\w.+][\w.+@-]*@)?[\da-fA-F.]*:[\da-fA-F.]*:[\da-fA-F:.]*(?:%\w+)?", re.ASCII)

# ssh(1), as `getopt` in ssh.c has them.
_SSH_OPTIONS = "1246ab:c:e:fgi:kl:m:no:p:qstvxAB:CD:E:F:GI:J:KL:MNO:P:Q:R:S:TVw:W:XYy"
_KEYWORD = re.compile(r"\s*(\w+)\s*[=\s]\s*(.*)", re.DOTALL)


class JumpError(ValueError):
    """A jump that is none, or that would be ignored; the message is one sentence."""


def parse_jumps(value: Any) -> list[str]:
    """Give the jump hosts, the nearest one first; [] for an empty value and for `none`, as ssh says it."""
    items = value.split(",") if isinstance(value, str) else value
    if items is None:
        return []
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise JumpError("%s is a host of the inventory or [user@]host[:port], several with commas" % JUMP)
    jumps = [str(item).strip() for item in items]
    if [jump.lower() for jump in jumps] in ([], [""], ["none"]):
        return []
    if "" in jumps:
        raise JumpError("%s has an empty item: separate jump hosts by single commas" % JUMP)
    return jumps


def destination(jump: str) -> list[str]:
    """Write `[user@]host[:port]` as the words that ssh takes for it."""
    if _IPV6.fullmatch(jump):
        return [jump]
    match = _DESTINATION.fullmatch(jump)
    user, name, bracketed, port = match.groups() if match else ("", "", "", "0")
    if not 0 < int(port or 22) <= 65535:
        raise JumpError("%s is %r, which is neither a host of the inventory nor [user@]host[:port]" % (JUMP, jump))
    return [*(["-p", port] if port else []), (user or "") + (name or bracketed)]


def host_words(name: str, variables: Mapping[str, Any]) -> list[str]:
    """Write the words of ssh that lead to a host of the inventory, by its variables."""
    words: list[str] = []
    port = variables.get("ansible_port") or variables.get("ansible_ssh_port")
    user = variables.get("ansible_user") or variables.get("ansible_ssh_user")
    key = variables.get("ansible_ssh_private_key_file") or variables.get("ansible_private_key_file") or ""
    if key and not key.startswith("~"):
        key = os.path.abspath(key)  # wherever it is used from
    for option, value in (("-p", port), ("-l", user), ("-i", key)):
        if value:
            words += [option, str(value).strip()]
    return [*words, address_of(name, variables)]


def address_of(name: str, variables: Mapping[str, Any]) -> str:
    """Say where a host of the inventory is reached; a plain string, without Ansible's tags."""
    address = str(variables.get("knock_host") or variables.get("ansible_host") or name)
    if address.startswith("-"):
        raise JumpError("the jump host %s has the address %r, which is none" % (name, address))
    return address


def through(words: list[str]) -> list[str]:
    """Write the words of ssh that go through the jump host to which these words lead, without a knock."""
    command = " ".join(shlex.quote(word).replace("%", "%%") for word in ("ssh", *words[:-1]))
    return ["-o", "ProxyCommand=%s -W [%%h]:%%p -- %s" % (command, shlex.quote(words[-1]).replace("%", "%%"))]


def words_for_person(value: Any, to: str, inventory: Mapping[str, Any], known: Sequence[str]) -> list[str]:
    """Write the words of a person's ssh that lead to the jump host of `to`; [] without one.

    The person's configuration has a Host for each of `known`, with its knock and its own way: for them the name is
    enough, and a word too much would take their knock away.
    """
    words: list[str] = []
    jumps = parse_jumps(value)
    for number, jump in enumerate(jumps[: jumps.index(to)] if to in jumps else jumps):
        if jump in known:
            if words and parse_jumps(inventory[jump].get(JUMP)) != jumps[:number]:
                raise JumpError(
                    "%s of %s has %s behind %s. It is knocked at, so its own %s has to say that"
                    % (JUMP, to, jump, ",".join(jumps[:number]), JUMP)
                )
            words = [jump]
        else:
            here = host_words(jump, inventory[jump]) if jump in inventory else destination(jump)
            words = [*(through(words) if words else []), *here]
    return words


@lru_cache(maxsize=256)
def conflict_in(arguments: str) -> Optional[str]:
    """Name what in arguments of ssh keeps it from running our ProxyCommand, or is kept from working by it."""
    for option, value in _options_in(arguments):
        if option == "-J":
            return "-J " + value
        keyword = _KEYWORD.match(value) if option == "-o" else None
        if keyword and keyword.group(1).lower() in ("proxyjump", "proxycommand"):
            return "%s=%s" % keyword.groups()
    return None


@lru_cache(maxsize=256)
def config_file_in(arguments: str) -> Optional[str]:
    """Give the configuration file that arguments of ssh name (-F)."""
    return next((value for option, value in _options_in(arguments) if option == "-F"), None)


def _options_in(arguments: str) -> list[tuple[str, str]]:
    try:
        return getopt.getopt(shlex.split(arguments), _SSH_OPTIONS)[0]
    except (ValueError, getopt.GetoptError):  # ssh will say it
        return []
