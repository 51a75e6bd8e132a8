# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lookup `local_address`: which address of its own the controller has where a host sees it: a NAT shows by that."""

from __future__ import annotations

DOCUMENTATION = r"""
name: local_address
author:
  - The sesame.knock authors (@sesame-knock)
version_added: 0.1.0
short_description: Tell the controller's own address towards a host
description:
  - Tells which address of its own the controller uses towards a host. Where that is not the address that the host
    sees, a NAT or a jump host stands in between. Sends nothing.
options:
  _terms:
    description: Names or addresses of hosts.
    type: list
    elements: str
    required: true
  seen_as:
    description:
      - The address that the host sees. If it is one of the controller's own, it is what is returned.
      - Otherwise only an address of the same family is.
    type: str
"""

EXAMPLES = r"""
- name: Say that there is a NAT
  ansible.builtin.debug:
    msg: "It sees {{ seen }} in place of {{ lookup('sesame.knock.local_address', ansible_host, seen_as=seen) }}"
  vars:
    seen: 198.51.100.7
"""

RETURN = r"""
_raw:
  description: The address for each host; empty if the controller has no way to it.
  type: list
  elements: str
  sample: [198.18.0.1]
"""

import socket
from typing import Any

from ansible.plugins.lookup import LookupBase

from ansible_collections.sesame.knock.plugins.module_utils._knocker import KnockError, resolve


def is_own(address: str) -> bool:
    """Whether this machine has the address: it can be bound to then, and only then."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((address, 0))
    except OSError:
        return False
    return True


def towards(host: str, family: str) -> str:
    """The address that this machine would send from: the kernel looks a route up, nothing is sent."""
    try:
        target = resolve(host, family)
        with socket.socket(target.family, socket.SOCK_DGRAM) as sock:
            sock.connect(target.at(9))
            return str(sock.getsockname()[0])
    except (KnockError, OSError):
        return ""


class LookupModule(LookupBase):
    """What Ansible looks for."""

    def run(self, terms: list[Any], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """Look each host up."""
        self.set_options(var_options=variables, direct=kwargs)
        seen = str(self.get_option("seen_as") or "")
        if seen and is_own(seen):
            return [seen for _term in terms]
        family = "ipv6" if ":" in seen else "ipv4" if seen else "any"
        return [towards(str(term), family) for term in terms]
