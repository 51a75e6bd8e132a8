# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lookup `knock`: knocks at a host and returns its address, once for the time that the door is open."""

from __future__ import annotations

DOCUMENTATION = r"""
name: knock
author:
  - The sesame.knock authors (@sesame-knock)
version_added: 0.1.0
short_description: Knock at a host and return its address
description:
  - For connections that the controller makes itself and that are not ssh, such as those of C(ansible.builtin.uri),
    winrm or databases. For ssh use P(sesame.knock.ssh_args#lookup), which knocks exactly once for each connection.
  - Knocks from the controller, waits until the port is open, and returns the address as it was given. Ansible evaluates
    a lookup often; further evaluations, in all forks, do not knock again while the door is open.
  - Sends nothing in check mode, and for a host without a sequence.
  - Says with C(-vvv) that a port was open before the knock, which may mean that its firewall is not on.
options:
  _terms:
    description:
      - Names or addresses to knock at.
      - Defaults to the variable C(knock_host), or else to C(inventory_hostname), but never to C(ansible_host), which
        may itself be this lookup.
    type: list
    elements: str
  sequence:
    description:
      - The knocks.
      - Defaults to the variable C(knock_sequence), and C(knock_sequence_previous), which is tried as well.
    type: raw
  port:
    description: The tcp port that the door opens.
    type: int
    default: 22
  open_timeout:
    description:
      - Seconds for which the door stays open. The address is returned without a new knock for four fifths of them.
      - Defaults to the variable C(knockd_open_timeout), or else V(10). V(0) knocks each time.
    type: float
  wait:
    description: Whether to wait until the port is open. V(false) sends the knocks once.
    type: bool
    default: true
  confirm:
    description:
      - Whether to look if the port is open before a knock that is remembered is trusted, and to knock again if it is
        closed. So a host that was restarted, or a door that was closed meanwhile, is noticed.
      - Where the controller runs Linux, a look is no connection that the host would accept or count. Elsewhere it is
        one.
      - Each evaluation waits for the answer then, for 1.5 seconds if the port drops packets.
    type: bool
    default: false
  timeout:
    description: Seconds after which waiting fails.
    type: float
    default: 10
  delay:
    description:
      - Milliseconds between two knocks. They grow fourfold, up to 200, after each knock that did not open the port.
    type: float
    default: 2
  family:
    description: The address family to knock through.
    type: str
    choices: [any, ipv4, ipv6]
    default: any
notes:
  - A host with a C(knock_jump) is an error. The door would open to the jump host, and what asks for the address
    connects from the controller. Where that is right, set C(knock_jump=none) for the task.
  - A template of C(hostvars[other].ansible_host) that holds this lookup knocks at that other host. Give the address in
    C(knock_host), and use that.
seealso:
  - plugin: sesame.knock.ssh_args
    plugin_type: lookup
  - module: sesame.knock.knock
"""

EXAMPLES = r"""
- name: Ask a service behind the door
  ansible.builtin.uri:
    url: "https://{{ lookup('sesame.knock.knock', 'web1.example.org', port=443) }}/status"
  delegate_to: localhost

# host_vars/win1.yml
# knock_host: 198.18.1.7
# ansible_host: "{{ lookup('sesame.knock.knock', port=5986) }}"
"""

RETURN = r"""
_raw:
  description: The addresses, as they were given.
  type: list
  elements: str
"""

from collections.abc import Mapping
from typing import Any

from ansible import context
from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible.utils.display import Display

from ansible_collections.sesame.knock.plugins.module_utils._jump import JumpError, parse_jumps
from ansible_collections.sesame.knock.plugins.module_utils._knocker import (
    OPEN_BEFORE,
    KnockError,
    is_open,
    knock,
    resolve,
    wait_open,
)
from ansible_collections.sesame.knock.plugins.module_utils._memo import once_in
from ansible_collections.sesame.knock.plugins.module_utils._runtime import RuntimeDirectoryError
from ansible_collections.sesame.knock.plugins.module_utils._sequence import Knock, SequenceError, parse_sequence
from ansible_collections.sesame.knock.plugins.module_utils._variables import JUMP, given_sequences, read_sequences

display = Display()

# The rest of the open time is for the caller, who connects after us.
SHARE_OF_OPEN_TIME = 0.8


class LookupModule(LookupBase):
    """What Ansible looks for."""

    def run(self, terms: list[Any], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """Knock at each host that was not knocked at lately."""
        self.set_options(var_options=variables, direct=kwargs)
        variables = variables or {}
        asked = self._flatten(terms) or [self._variable(variables, "knock_host", "inventory_hostname")]
        hosts = [str(host) for host in asked if host]
        try:
            sequences = self._sequences(variables)
            if sequences and not in_check_mode(variables):
                self._refuse_jump(variables)
                for host in hosts:
                    self._knock(host, sequences, variables)
        except (JumpError, KnockError, RuntimeDirectoryError, SequenceError) as error:
            raise AnsibleLookupError("lookup sesame.knock.knock: %s" % error) from None
        return hosts

    def _knock(self, host: str, sequences: list[tuple[Knock, ...]], variables: Mapping[str, Any]) -> None:
        port = self.get_option("port")
        open_timeout = self.get_option("open_timeout")
        if open_timeout is None:
            open_timeout = float(self._variable(variables, "knockd_open_timeout") or 10)

        def act() -> None:
            target = resolve(host, self.get_option("family"))
            delay = self.get_option("delay") / 1000
            if self.get_option("wait"):
                if wait_open(target, port, sequences, delay, self.get_option("timeout")).was_open:
                    display.vvv("lookup sesame.knock.knock: " + OPEN_BEFORE % (port, target))
            else:
                for sequence in sequences:
                    knock(target, sequence, delay)

        def is_still_open() -> bool:
            return not self.get_option("confirm") or is_open(resolve(host, self.get_option("family")), port)

        once_in(open_timeout * SHARE_OF_OPEN_TIME, "%s %d %s" % (host, port, sequences), act, is_still_open)

    def _refuse_jump(self, variables: Mapping[str, Any]) -> None:
        jumps = parse_jumps(self._variable(variables, JUMP))
        if jumps:
            raise JumpError(
                "%s is %s, and a knock from there opens no door to the controller, which connects itself. Where it "
                "reaches the host without a jump, set %s: none for this task" % (JUMP, ",".join(jumps), JUMP)
            )

    def _sequences(self, variables: Mapping[str, Any]) -> list[tuple[Knock, ...]]:
        given = self.get_option("sequence")
        texts = [given] if given else read_sequences(given_sequences(variables, self._templar)).values()
        return [parse_sequence(text) for text in texts]

    def _variable(self, variables: Mapping[str, Any], *names: str) -> Any:
        """Give the first of these variables that says something."""
        for name in names:
            if variables.get(name) is not None:
                value = self._templar.template(variables[name])
                if value not in (None, ""):
                    return value
        return None


def in_check_mode(variables: Mapping[str, Any]) -> bool:
    """Is this a run with --check?"""
    return bool(variables.get("ansible_check_mode") or context.CLIARGS.get("check"))
