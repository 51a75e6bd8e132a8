# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lookup `sequence`: a fresh knock sequence that no port scan hits by accident."""

from __future__ import annotations

DOCUMENTATION = r"""
name: sequence
author:
  - The sesame.knock authors (@sesame-knock)
version_added: 0.1.0
short_description: Make a fresh knock sequence
description:
  - Makes a random, strong knock sequence in the form of knockd.conf.
  - Each call makes another one, so keep the result, in a vault.
options:
  _terms:
    description: There are none.
  length:
    description: The number of knocks, 3 to 32.
    type: int
    default: 5
  avoid:
    description: Ports that the sequence does not touch, those of the host's services for example.
    type: list
    elements: int
    default: []
"""

EXAMPLES = r"""
# ansible localhost -m ansible.builtin.debug -a "msg={{ lookup('sesame.knock.sequence') }}"
- name: Make a sequence once and keep it
  ansible.builtin.copy:
    content: "knock_sequence: {{ lookup('sesame.knock.sequence', length=4, avoid=[8080]) }}\n"
    dest: host_vars/web1/knock.yml
    mode: "0600"
    force: false
  delegate_to: localhost
  no_log: true
"""

RETURN = r"""
_raw:
  description: The sequence.
  type: list
  elements: str
  sample: ["21034:tcp,4711:tcp,30122:tcp,1899:tcp,12904:tcp"]
"""

from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

from ansible_collections.sesame.knock.plugins.module_utils._sequence import SequenceError, format_sequence, generate


class LookupModule(LookupBase):
    """What Ansible looks for."""

    def run(self, terms: list[Any], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """Make one sequence."""
        self.set_options(var_options=variables, direct=kwargs)
        if terms:
            raise AnsibleLookupError("lookup sesame.knock.sequence takes no terms: say length=5")
        try:
            return [format_sequence(generate(self.get_option("length"), self.get_option("avoid")))]
        except SequenceError as error:
            raise AnsibleLookupError("lookup sesame.knock.sequence: %s" % error) from None
