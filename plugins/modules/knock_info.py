#!/usr/bin/python
# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tells what the knock daemon has opened on a host, as the kernel knows it; reads only."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: knock_info
author:
  - The sesame.knock authors (@sesame-knock)
version_added: 0.1.0
short_description: Tell who is admitted by the knock daemon of a host
description:
  - Lists the addresses that the native doors of the host have admitted, from the daemon's table in the kernel.
  - Command doors leave no trace there.
requirements:
  - python3-nftables on the host, for any of its Pythons
attributes:
  check_mode:
    description: Reads only, also outside check mode.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
notes:
  - Only root may look into the kernel's tables, so use C(become).
seealso:
  - module: sesame.knock.knock
"""

EXAMPLES = r"""
- name: Ask the kernel who is admitted
  sesame.knock.knock_info:
  become: true
  register: doors

- name: Show the addresses
  ansible.builtin.debug:
    msg: "{{ doors.admitted | map(attribute='address') | unique }}"
"""

RETURN = r"""
active:
  description: Whether a daemon lives that has its own table in the kernel.
  returned: always
  type: bool
  sample: true
guard:
  description: Whether the daemon refuses connections without a knock, besides the firewall's rules.
  returned: always
  type: bool
  sample: true
admitted:
  description: Who may reach what; one entry for each address, protocol and port.
  returned: always
  type: list
  elements: dict
  contains:
    address:
      description: The source address that was admitted.
      type: str
      sample: 198.18.0.1
    protocol:
      description: V(tcp) or V(udp).
      type: str
      sample: tcp
    port:
      description: The port, or a range of ports as a string.
      type: raw
      sample: 22
    door:
      description: The name of the door; empty when the table does not tell.
      type: str
      sample: ssh
    expires_in:
      description: Seconds until the kernel ends the admission; null when it stays until the door is closed.
      type: float
      sample: 9.0
"""

import json
import re
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.respawn import has_respawned, probe_interpreters_for_module, respawn_module

TABLE = "inet knockd"
SETS = ("admitted4", "admitted6", "ranges4", "ranges6")
PYTHONS = ["/usr/bin/python3", "/usr/libexec/platform-python", "/usr/bin/python"]


class Kernel:
    """Questions to nftables."""

    def __init__(self, nftables: Any) -> None:
        self._nftables = nftables

    def ask(self, command: str, as_json: bool = True) -> str:
        """Run a listing; "" when what it asks for is not there."""
        # A context for each question: it caches what it saw.
        context = self._nftables.Nftables()
        context.set_json_output(as_json)
        status, output, error = context.cmd(command)
        if status and "Operation not permitted" in error:
            raise PermissionError("only root may look into the kernel's tables: use become")
        return "" if status else str(output)

    def active(self) -> bool:
        """Is the table there, owned by a living daemon?"""
        # As text: nftables 1.0.6 writes garbage for the flags of a table as JSON.
        return bool(re.search(r"^\s*flags .*\bowner\b", self.ask("list table " + TABLE, as_json=False), re.MULTILINE))

    def guard(self) -> bool:
        """Is the guard chain there?"""
        return bool(self.ask("list chain %s guard" % TABLE))

    def admitted(self) -> list[dict[str, Any]]:
        """Give the elements of all sets."""
        listings = (self.ask("list set %s %s" % (TABLE, name)) for name in SETS)
        return [entry for listing in listings if listing for entry in read_set(listing)]


def read_set(listing: str) -> list[dict[str, Any]]:
    """Read the elements of `nft -j list set`."""
    entries = []
    for item in json.loads(listing)["nftables"]:
        for element in item.get("set", {}).get("elem", []):
            # An element with neither time nor comment is its bare value.
            fields = element.get("elem", {"val": element})
            address, protocol, port = fields["val"]["concat"]
            expires = fields.get("expires")
            entries.append(
                {
                    "address": address,
                    "protocol": protocol,
                    "port": "%d-%d" % tuple(port["range"]) if isinstance(port, dict) else port,
                    "door": fields.get("comment", ""),
                    "expires_in": None if expires is None else float(expires),
                }
            )
    return entries


def main() -> None:
    """Run on the managed host."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    try:
        import nftables
    except ImportError:
        python = None if has_respawned() else probe_interpreters_for_module(PYTHONS, "nftables")
        if python:
            respawn_module(python)
        module.fail_json(msg="Python's nftables is missing: install the package python3-nftables on the host")
    kernel = Kernel(nftables)
    try:
        active = kernel.active()
        result = {
            "active": active,
            "guard": active and kernel.guard(),
            "admitted": kernel.admitted() if active else [],
        }
    except PermissionError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
