#!/usr/bin/python
# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gives sshd one more port to listen on, and takes none away."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: sshd_extra_port
author:
  - The sesame.knock authors (@sesame-knock)
version_added: 0.1.0
short_description: Let sshd listen on one more port
description:
  - Writes a drop-in for sshd that names one more port. As the first C(Port) line that sshd reads replaces its default
    port, and sshd is content with that, the drop-in repeats every port that sshd had.
  - Where C(ListenAddress) lines name their ports, it adds such a line for the new port to each address.
  - sshd is reloaded, not restarted. If C(sshd -T) or the listening sockets then lack a port, the drop-in is taken back.
options:
  port:
    description: The port. Required for O(state=present).
    type: int
  state:
    description: Whether the extra port shall be there.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    description: Changes nothing, and says whether it would.
    support: full
  diff_mode:
    description: Shows the drop-in, before and after.
    support: full
"""

EXAMPLES = r"""
- name: Let sshd listen on port 2222 too
  sesame.knock.sshd_extra_port:
    port: 2222

- name: No more
  sesame.knock.sshd_extra_port:
    state: absent
"""

RETURN = r"""
ports:
  description: The ports that sshd listens on.
  returned: success, outside check mode
  type: list
  elements: int
  sample: [22, 2222]
"""

import os
import signal
import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.sesame.knock.plugins.module_utils._extra_port import (
    DROP_IN,
    drop_in,
    extra_port,
    read_config,
)
from ansible_collections.sesame.knock.plugins.module_utils._files import read, write

PATIENCE = 5.0
"""Seconds in which a reloaded sshd has to listen."""


class Failure(Exception):
    """What fail_json will say."""


def config(module: AnsibleModule) -> tuple[list[int], list[str]]:
    """What sshd will do: its ports and its `address:port` listeners."""
    status, out, err = module.run_command([module.get_bin_path("sshd", True, ["/usr/sbin"]), "-T"])
    if status != 0:
        raise Failure("sshd -T refuses the configuration: %s" % (err or out).strip())
    return read_config(out)


def listening() -> set[int]:
    """The tcp ports of this host's listening sockets, as `ss -ltn` shows them."""
    ports = set()
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in (read(path) or "").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":  # TCP_LISTEN, include/net/tcp_states.h
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def sshd_pid() -> int:
    """The process that listens; 0 if there is none. The file is away for a moment while sshd starts itself anew."""
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        pid = (read("/run/sshd.pid") or "").strip()
        if pid.isdigit():
            return int(pid)
        time.sleep(0.05)
    return 0


def reload(module: AnsibleModule) -> bool:
    """Sessions live on: sshd starts itself anew and reads its configuration. False if no sshd runs."""
    if os.path.isdir("/run/systemd/system"):
        if module.run_command(["systemctl", "is-active", "--quiet", "ssh.service"])[0] != 0:
            return False
        status, out, err = module.run_command(["systemctl", "reload", "ssh.service"])
        if status != 0:
            raise Failure("sshd does not reload: %s" % (err or out).strip())
        return True
    pid = sshd_pid()
    if pid:
        os.kill(pid, signal.SIGHUP)
    return pid != 0


def await_ports(expected: set[int], gone: set[int]) -> None:
    """Wait until sshd has started itself anew: it listens where it shall, and no longer where it did."""
    deadline = time.monotonic() + PATIENCE
    now = listening()
    while not expected <= now or gone & now:
        if time.monotonic() > deadline:
            raise Failure(
                "After the reload sshd listens on %s, and should on %s"
                % (sorted(now & (expected | gone)), sorted(expected))
            )
        time.sleep(0.05)
        now = listening()


def put(text: str | None) -> None:
    if text is None:
        if os.path.exists(DROP_IN):
            os.unlink(DROP_IN)
    else:
        write(DROP_IN, text, mode=0o600)


def put_port(module: AnsibleModule, port: int) -> None:
    """Try the drop-in until `sshd -T` names all that was there and the new port for each address."""
    put(None)
    ports, addresses = config(module)
    if port in ports:
        raise Failure(
            "sshd has port %d already, by other lines of its configuration: take them away, or choose another port"
            % port
        )
    wanted = sorted({*addresses, *("%s:%d" % (address.rpartition(":")[0], port) for address in addresses)})
    repeated: list[int] = []
    added: list[str] = []
    for dummy in range(3):
        put(drop_in(port, [*repeated, port], added))
        now_ports, now_addresses = config(module)
        if set(wanted) <= set(now_addresses):
            return
        if set(ports) <= set(now_ports):  # addresses name their ports, and Port lines mean nothing to them
            added = sorted(set(wanted) - set(now_addresses))
        else:  # our Port line has replaced the default
            repeated = sorted(set(ports) - set(now_ports))
    raise Failure(
        "sshd would listen on %s and not on all of %s: does /etc/ssh/sshd_config include /etc/ssh/sshd_config.d/*.conf?"
        % (", ".join(now_addresses), ", ".join(wanted))
    )


def change(module: AnsibleModule, port: int) -> list[int]:
    """Bring the drop-in to the wanted state; put the old one back if sshd then misses a port. Returns sshd's ports."""
    before, old = read(DROP_IN), extra_port()
    if port in listening() and port != old:
        raise Failure("port %d is taken on this host: choose another one" % port)
    try:
        if port:
            put_port(module, port)
        else:
            put(None)
        ports, addresses = config(module)
        expected = {int(address.rpartition(":")[2]) for address in addresses}
        if reload(module):
            await_ports(expected, {old} - expected - {0})
    except (Failure, OSError):
        put(before)
        reload(module)
        raise
    return ports


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "port": {"type": "int"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ("port",))],
        supports_check_mode=True,
    )
    port = module.params["port"] if module.params["state"] == "present" else 0
    try:
        if port and not 1 <= port <= 65535:
            raise Failure("port: %d is not a port: ports go from 1 to 65535" % port)
        before = read(DROP_IN)
        # What was written once was checked then; the sockets are checked now
        if extra_port() == port and (before is None) == (port == 0) and (not port or port in listening()):
            module.exit_json(changed=False, ports=config(module)[0])
        if module.check_mode:
            module.exit_json(changed=True)
        ports = change(module, port)
        after = read(DROP_IN)
        diff = {"before_header": DROP_IN, "after_header": DROP_IN, "before": before or "", "after": after or ""}
        module.exit_json(changed=True, ports=ports, diff=diff)
    except (Failure, OSError) as failure:
        module.fail_json(msg=str(failure))


if __name__ == "__main__":
    main()
