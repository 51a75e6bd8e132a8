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
  - Set it once for all hosts. A host without C(knock_sequence) gets no arguments.
  - Writes the sequence to a file that only this user can read, in C($XDG_RUNTIME_DIR/sesame-knock) or else
    C(~/.cache/sesame-knock). The arguments name the file, so no list of processes shows a sequence.
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
  - C(ProxyJump) and C(-J) exclude a C(ProxyCommand), ssh silently ignores one of them.
seealso:
  - plugin: sesame.knock.knock
    plugin_type: lookup
    description: For connections from the controller that are not ssh.
"""

EXAMPLES = r"""
# group_vars/all.yml
ansible_ssh_common_args: "{{ lookup('sesame.knock.ssh_args') }}"

# together with arguments of your own
# ansible_ssh_common_args: "-o ServerAliveInterval=15 {{ lookup('sesame.knock.ssh_args', timeout=20) }}"
"""

RETURN = r"""
_raw:
  description: The arguments as one string, or an empty string for a host without a sequence.
  type: list
  elements: str
"""

import os
import shlex
import sys
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

from ansible_collections.sesame.knock.plugins.module_utils._profile import (
    ProfileError,
    keep_profile,
    runtime_directory,
)
from ansible_collections.sesame.knock.plugins.module_utils._sequence import SequenceError
from ansible_collections.sesame.knock.plugins.module_utils._variables import read_sequences

# The client's files are in its role: a collection may be cut down to meta, plugins, roles and playbooks.
COLLECTION = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FILES = os.path.join(COLLECTION, "roles", "knock_client", "files")
KNOCK_PROXY = os.path.join(FILES, "knock-proxy")


class LookupModule(LookupBase):
    """What Ansible looks for."""

    def run(self, terms: list[Any], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """Write the profile of the host that is connected to, and name it in arguments."""
        self.set_options(var_options=variables, direct=kwargs)
        if terms:
            raise AnsibleLookupError("lookup sesame.knock.ssh_args takes no terms: it reads knock_sequence")
        try:
            # Not keyed by inventory_hostname: with delegate_to that is still the host which delegates.
            profile: dict[str, Any] = dict(read_sequences(variables or {}, self._templar))
            if not profile:
                return [""]
            profile["delay_ms"] = self.get_option("delay")
            profile["timeout"] = self.get_option("timeout")
            profile["family"] = self.get_option("family")
            path = keep_profile(profile)
        except (SequenceError, ProfileError) as error:
            raise AnsibleLookupError("lookup sesame.knock.ssh_args: %s" % error) from None
        return [arguments(path)]


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
    return ("-X", "pycache_prefix=" + os.path.join(runtime_directory(), "compiled"))
