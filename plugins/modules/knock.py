#!/usr/bin/python
# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `knock`: opens a door from wherever it runs, and waits until the port is open, or closed."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: knock
author:
  - The sesame.knock authors (@sesame-knock)
version_added: 0.1.0
short_description: Knock at a host and wait until its port opens or closes
description:
  - Sends the knock sequence of a host from the controller, and waits until the port is open to the controller. No
    connection to the host is needed or made, so this works while the host is closed; the play needs
    C(gather_facts=false), or P(sesame.knock.ssh_args#lookup), until then.
  - With C(delegate_to) the knock leaves from that machine, a bastion for example. The arguments and variables are still
    those of the host that the task is for.
  - Behind a jump host (the variable C(knock_jump), or a C(ProxyJump) in your configuration of ssh, where the host is
    connected to by ssh) the knock leaves from there, over a login of its own, and the port is open or closed as seen
    from there. That needs C(python3) on the jump host.
  - The whole knock is repeated, slower and slower, while the port stays closed.
  - A port that was open before the knock is a warning. Its firewall may not be on. It is also open to a machine that
    gets in without a knock, and while an earlier knock counts.
  - Where the knocking machine runs Linux, waiting makes no connection that the server would accept and count against
    this address (PerSourcePenalties, fail2ban). Elsewhere it makes one when opening.
options:
  host:
    description:
      - Name or address to knock at. All knocks go to one address.
      - Defaults to C(knock_host), or else C(ansible_host), or else C(inventory_hostname).
    type: str
  port:
    description:
      - The tcp port that the door opens.
      - Defaults to C(ansible_port), or else V(22).
    type: int
  sequence:
    description:
      - The knocks, as C(10001:tcp,10002:udp) or as a list.
      - Defaults to C(knock_sequence).
    type: raw
  state:
    description:
      - V(open) knocks until the port is open.
      - V(closed) waits until the port is closed, after sending O(close_sequence) if there is one.
    type: str
    choices: [open, closed]
    default: open
  close_sequence:
    description:
      - The knocks that close the door, for O(state=closed).
      - Without it the door closes by itself, after its time.
    type: raw
  wait:
    description:
      - Whether to wait until the port is as O(state) says. V(false) sends the knocks once.
    type: bool
    default: true
  timeout:
    description:
      - Seconds after which waiting fails.
      - Defaults to V(10) for O(state=open), and to V(30) for O(state=closed).
    type: float
  delay:
    description:
      - Milliseconds between two knocks. They grow fourfold, up to 200, after each knock that did not open the port.
    type: float
    default: 2
  family:
    description:
      - The address family to knock through.
    type: str
    choices: [any, ipv4, ipv6]
    default: any
attributes:
  check_mode:
    description: Sends nothing, and says what it would do.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
  action:
    description: Runs in the controller's own process, unless it is delegated.
    support: full
seealso:
  - plugin: sesame.knock.ssh_args
    plugin_type: lookup
    description: Lets ssh knock by itself, which is what plays should use.
  - module: sesame.knock.knock_info
"""

EXAMPLES = r"""
- name: Open the door
  sesame.knock.knock:

- name: Knock from the bastion, at another port
  sesame.knock.knock:
    port: 443
  delegate_to: bastion.example.org

- name: Wait until the door has closed by itself
  sesame.knock.knock:
    state: closed

- name: Close the door now
  sesame.knock.knock:
    state: closed
    close_sequence: "{{ knockd_close_sequence }}"
"""

RETURN = r"""
host:
  description: The host as it was given.
  returned: success
  type: str
  sample: web1.example.org
port:
  description: The port that was waited for.
  returned: success
  type: int
  sample: 22
address:
  description: The address that was knocked at.
  returned: success, outside check mode
  type: str
  sample: 198.18.1.2
knocks:
  description: How many packets were sent as knocks, repetitions included.
  returned: success
  type: int
  sample: 3
was_open:
  description:
    - Whether the port was open before the knock, so that the knock did not open it.
    - Seen by a connect that leaves just before the first knock and is not completed, so it costs no time.
  returned: success, with O(state=open) and O(wait=true), outside check mode
  type: bool
  sample: false
elapsed:
  description: Seconds from the first knock until the port was as wanted.
  returned: success
  type: float
  sample: 0.0181
msg:
  description: What would be done, in check mode; otherwise what went wrong.
  returned: failure, or in check mode
  type: str
  sample: Would knock at web1.example.org (3 knocks) and wait until port 22 is open.
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.sesame.knock.plugins.module_utils._knock_task import ARGUMENT_SPEC, BadTask, perform
from ansible_collections.sesame.knock.plugins.module_utils._knocker import KnockError


def main() -> None:
    """Run on the machine that the action chose."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    try:
        result = perform(module.params, module.check_mode)
    except (BadTask, KnockError) as error:
        module.fail_json(msg=str(error))
    for warning in result.pop("warnings", []):
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
