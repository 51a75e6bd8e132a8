# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lookup `ssh_args`: the arguments that make ssh knock by itself; sends nothing."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ssh_args
author:
  - The sesame.knock authors (@sesame-knock)
version_added: 0.1.0
short_description: Make ssh knock by itself
description:
  - Returns the arguments of ssh that let C(knock-proxy) knock, connect, and hand the connection over. ssh runs it once
    for each real connection, and not for sessions that share one, so this is what Ansible's ssh connections should use.
  - Set it once for all hosts. A host without C(knock_sequence) and C(knock_jump) gets no arguments.
  - Writes the sequence to a file that only this user can read, in C($XDG_RUNTIME_DIR/sesame-knock) or else
    C(~/.cache/sesame-knock). The arguments name the file, so no list of processes shows a sequence.
  - The name of the file is made with a random key of this user, so it tells nothing of the sequence. A file that has
    not been used for a week is removed.
  - With C(delegate_to) these are the arguments for the host that the task is delegated to.
options:
  _terms:
    description: There are none.
  delay:
    description:
      - Milliseconds between two knocks. They grow fourfold, up to 200, after each knock that did not open the port.
    type: float
    default: 2
  timeout:
    description: Seconds after which knocking and connecting are given up. ssh's C(ConnectTimeout) does not reach them.
    type: float
    default: 10
  family:
    description: The address family to knock and connect through.
    type: str
    choices: [any, ipv4, ipv6]
    default: any
notes:
  - Reads the variables C(knock_sequence), and C(knock_sequence_previous), which is tried as well, for the time that a
    rotation takes.
  - Behind a jump host the knock has to leave from there. Set C(knock_jump) to the name of a host in the inventory or to
    C([user@]host[:port]), several with commas, the nearest one first. The jump host needs C(python3), and its sshd has
    to allow forwarding (C(AllowTcpForwarding)). It gets the sequence over the connection, in no argument and no file.
    All connections through it share one login.
  - A jump host of the inventory is reached by its C(ansible_host), C(ansible_port), C(ansible_user) and
    C(ansible_ssh_private_key_file), by a knock if it has a C(knock_sequence), and through a C(knock_jump) of its own.
    For itself, a C(knock_jump) that is set for all hosts does not count.
  - Without C(knock_jump), a C(ProxyJump) that your own configuration of ssh has for the host is the jump host. C(none)
    as C(knock_jump) is for a direct connection all the same.
  - C(-J), C(ProxyJump) and a C(ProxyCommand) in arguments of ssh are an error, since ssh would silently ignore either
    these or the knock. So is a C(ProxyCommand) that your own configuration of ssh has for the host, unless
    C(knock_jump) is set. C(none) says that the host is reached without it.
seealso:
  - plugin: sesame.knock.knock
    plugin_type: lookup
    description: For connections from the controller that are not ssh.
"""

EXAMPLES = r"""
# group_vars/all.yml
ansible_ssh_common_args: "{{ lookup('sesame.knock.ssh_args') }}"

# group_vars/behind_the_bastion.yml
knock_jump: bastion

# together with arguments of your own
# ansible_ssh_common_args: "-o ServerAliveInterval=15 {{ lookup('sesame.knock.ssh_args', timeout=20) }}"
"""

RETURN = r"""
_raw:
  description: The arguments as one string, or an empty string for a host without a sequence.
  type: list
  elements: str
"""

import importlib.util
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ansible import constants
from ansible.errors import AnsibleError, AnsibleLookupError
from ansible.plugins.lookup import LookupBase

if TYPE_CHECKING:
    from ansible_collections.sesame.knock.plugins.module_utils import _runtime, _variables
    from ansible_collections.sesame.knock.plugins.plugin_utils._inventory import ssh_config
    from ansible_collections.sesame.knock.plugins.plugin_utils._inventory.jump_routes import JumpRoutes

# The client's files are in its role: a collection may be cut down to meta, plugins, roles and playbooks.
COLLECTION = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FILES = os.path.join(COLLECTION, "roles", "knock_client", "files")
KNOCK_PROXY = os.path.join(FILES, "knock-proxy")

# Where Ansible takes arguments of ssh from, its configuration and command line in the second place.
ARGUMENTS = ("ssh_args", "ssh_common_args", "ssh_extra_args", "sftp_extra_args", "scp_extra_args")
# What speaks of a jump host, or names a configuration that may: -J, -F, ProxyJump, ProxyCommand.
MAY_MATTER = re.compile(r"[JF]|(?i:proxy)")
OURS = re.compile(r"\{\{-?\s*lookup\(\s*['\"]sesame\.knock\.ssh_args['\"][^{}]*\)\s*-?\}\}")


def _imported(name: str) -> Any:
    """Import one of our files as Python does, which keeps it compiled. Ansible would compile it in each task."""
    full = "ansible_collections.sesame.knock.plugins." + name
    if full not in sys.modules:
        path = os.path.join(COLLECTION, "plugins", *name.split(".")) + ".py"
        spec: Any = importlib.util.spec_from_file_location(full, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        spec.loader.exec_module(module)
    return sys.modules[full]


if not TYPE_CHECKING:
    _runtime, _variables = map(_imported, ("module_utils._runtime", "module_utils._variables"))
    ssh_config = _imported("plugin_utils._inventory.ssh_config")

_is_reading = False
"""Are arguments being read that hold this lookup, which then is to be nothing?"""


class LookupModule(LookupBase):
    """What Ansible looks for."""

    def run(self, terms: list[Any], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """Write the profile of the host that is connected to, and name it in arguments."""
        self.set_options(var_options=variables, direct=kwargs)
        if terms:
            raise AnsibleLookupError("lookup sesame.knock.ssh_args takes no terms: it reads knock_sequence")
        if _is_reading:
            return [""]
        variables = variables or {}
        try:
            return [self._words_for(variables)]
        except ValueError as error:  # of a sequence, a profile, a jump: what defines them is imported only if needed
            raise AnsibleLookupError("lookup sesame.knock.ssh_args: %s" % error) from None

    def _words_for(self, variables: Mapping[str, Any]) -> str:
        """Write the arguments for the host that is connected to.

        Not keyed by inventory_hostname: with delegate_to that is still the host which delegates.
        """
        sequences = _variables.given_sequences(variables, self._templar)
        if not sequences and variables.get(_variables.JUMP) is None:
            return ""
        texts = self._arguments_of(variables)
        routes = self._routes_for(variables, texts)
        jump = routes.to_jump_of(variables) if routes else []
        if not sequences and not jump:
            return ""
        if routes:
            routes.refuse_conflicts()
            if not sequences:
                return shlex.join(routes.through(jump))
        return self._knocking(sequences, jump, self.get_option("family"))

    def jump_of(self, variables: Mapping[str, Any]) -> list[str]:
        """Give the words of ssh that lead to the jump host of the host that is connected to; [] without one."""
        self.set_options(var_options=variables, direct={})
        routes = self._routes_for(variables, self._arguments_of(variables))
        return routes.to_jump_of(variables) if routes else []

    def _routes_for(self, variables: Mapping[str, Any], texts: Mapping[str, str]) -> JumpRoutes | None:
        """Give what knows of jump hosts, if anything speaks of one: few fleets have any, and it takes time to load."""
        spoken_of = variables.get(_variables.JUMP) is not None or any(map(MAY_MATTER.search, texts.values()))
        if not spoken_of and not ssh_config.speaks_of_jumps():
            return None
        from ansible_collections.sesame.knock.plugins.plugin_utils._inventory.jump_routes import JumpRoutes

        return JumpRoutes(self._templar, texts, self._knocking)

    def _knocking(self, sequences: Mapping[str, str], jump: Sequence[str] = (), family: str = "any") -> str:
        """Write a profile, and the arguments that name it."""
        profile: dict[str, Any] = dict(sequences)
        profile["delay_ms"] = self.get_option("delay")
        profile["timeout"] = self.get_option("timeout")
        profile["family"] = family
        if jump:
            profile["jump"] = list(jump)

        def read() -> dict[str, Any]:
            from ansible_collections.sesame.knock.plugins.module_utils._profile import parse_profile

            profile.update(_variables.read_sequences(sequences))
            parse_profile(profile)
            return profile

        return arguments(_runtime.keep_profile(profile, read))

    def _arguments_of(self, variables: Mapping[str, Any]) -> dict[str, str]:
        """Give all arguments of ssh that Ansible adds to ours, by the name of where they are set."""
        found = {}
        for option in ARGUMENTS:
            name = "ansible_" + option
            written = variables.get(name)
            if written is not None:
                found[name] = self._read(written)
            value, origin = _configured(option)
            if value and (written is None or origin.startswith("cli")):
                found["%s (%s)" % (option, origin)] = value
        return found

    def _read(self, written: Any) -> str:
        """Give the text of arguments, of which this very lookup may be a part."""
        global _is_reading
        text = OURS.sub("", str(written))
        if "{" not in text:
            return text
        _is_reading = True
        try:
            return str(self._templar.template(written) or "")
        finally:
            _is_reading = False


def arguments(profile: str) -> str:
    """Write the arguments, quoted for those who read them in turn: Ansible's shlex, ssh's % marks, ssh's shell."""
    # The Python that runs Ansible is there for sure: isolated, without site, it starts as fast as any.
    words = (sys.executable or "/usr/bin/python3", "-IS", *compiled(), KNOCK_PROXY, profile)
    command = " ".join(shlex.quote(word).replace("%", "%%") for word in words)
    return "-o %s -o ProxyUseFdpass=yes" % shlex.quote("ProxyCommand=%s %%h %%p" % command)


def compiled() -> tuple[str, ...]:
    """Say where Python keeps the client compiled: it would do that anew for each connection, which takes 10 ms.

    Its usual place is beside the files; but where root has installed the collection, this user cannot write there.
    """
    package = os.path.join(FILES, "sesame_knock")
    if os.path.isdir(os.path.join(package, "__pycache__")) or os.access(package, os.W_OK):
        return ()
    return ("-X", "pycache_prefix=" + os.path.join(_runtime.runtime_directory(), "compiled"))


def _configured(option: str) -> tuple[str, str]:
    """Give arguments of ssh in Ansible's configuration and on its command line, with where they are."""
    try:
        value, origin = constants.config.get_config_value_and_origin(
            option, plugin_type="connection", plugin_name="ssh"
        )
    except AnsibleError:  # nothing has connected by ssh so far, and nothing is about to
        return "", ""
    return ("", "") if origin == "default" else (str(value or ""), str(origin))
