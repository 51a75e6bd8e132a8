#!/usr/bin/python
# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes our firewall rules on a host, live and on disk, so that a change undoes itself unless it is confirmed."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: firewall
author:
  - The sesame.knock authors (@sesame-knock)
version_added: 0.1.0
short_description: Change the firewall of a host so that nobody is locked out
description:
  - Brings the chains C(KNOCK), C(KNOCK-ADMIT) and C(KNOCK-ESCAPE) of the filter table and C(KNOCK-MARK),
    C(KNOCK-FORWARD) and C(KNOCK-PUBLISHED) of the mangle table, for IPv4 and IPv6, to the state of two
    iptables-restore files. Where nftables itself is the firewall, it brings the table C(inet knock_firewall) to the
    state of a file of nft.
  - O(state=present) does all of it in one task. The rules are judged and rehearsed; a revert is armed on the host; the
    rules become live; the controller sees the port closed, knocks, and logs in over a new connection; over that one it
    confirms. What is not confirmed in time undoes itself, whatever becomes of the controller, of sshd, of this
    module or of the power.
  - A confirmed change is finished by the host alone, at the next boot if need be.
  - Other chains and tables, live ones of Docker or fail2ban for example, are never touched.
  - Works with the iptables commands that the host's alternatives name, iptables-nft and iptables-legacy alike.
options:
  state:
    description:
      - V(present) applies, proves and confirms. Where live rules and files are as wanted, nothing is armed and proven.
      - V(applied) makes the rules live and arms the revert, V(confirmed) keeps them, for a proof of your own.
      - V(reverted) puts back what was before V(applied), now; does nothing after V(confirmed).
      - V(absent) removes our chains, live and from the files, with all that this module has put on the host. The files
        of before the first change come back. Rules of others stay.
    type: str
    choices: [present, applied, confirmed, reverted, absent]
    default: present
  rules_v4:
    description:
      - The whole text of C(/etc/iptables/rules.v4).
      - V(present) and V(applied) require it together with O(rules_v6), or O(rules_nft) alone.
    type: str
  rules_v6:
    description: The whole text of C(/etc/iptables/rules.v6).
    type: str
  rules_nft:
    description:
      - The whole text of C(/etc/knock_firewall.nft), for hosts without iptables. It replaces the table
        C(inet knock_firewall), and names no other one.
      - C(knock-firewall.service), which role knock_firewall installs, loads it at boot.
    type: str
  guard:
    description:
      - The text of C(/etc/knockd-guard.conf), written when the change is confirmed; then knockd reloads.
      - Without it there shall be no guard file.
    type: str
  revert_after:
    description: The seconds that a change has to be confirmed in.
    type: int
    default: 120
  gates:
    description:
      - What the rules promise. They are judged and rehearsed by it before they are applied. Without it, neither.
      - The networks of the first gate are the ones that need no knock.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: A name for messages.
        type: str
        required: true
      ports:
        description: The ports of the gate, such as V(22/tcp) or V(60000-60010/udp).
        type: list
        elements: str
        required: true
      allow:
        description: The networks, IPv4 and IPv6, that may open connections to these ports.
        type: list
        elements: str
        required: true
      knock:
        description: Whether an admitted knocker may do so too.
        type: bool
        required: true
  mark:
    description: The bit of the packet mark that admitted packets carry, in hexadecimal.
    type: str
    default: "0x1000"
  rehearse:
    description:
      - Whether the rules are tried in a network namespace of their own on the host, with real packets, before they are
        applied. Needs O(gates).
      - Where the kernel cannot do it, that is a warning.
    type: bool
    default: true
  token:
    description:
      - The change that V(confirmed) and V(reverted) are about, as RV(token) of V(applied) names it.
      - Without it, whatever change is under way.
    type: str
  prove:
    description:
      - Whether V(present) proves the change from the controller before it confirms. Needs O(sequence).
      - Without it, a change is kept if the host can still be reached over the connection that is open.
    type: bool
    default: true
  host:
    description:
      - The name or address to knock at.
      - By default the variable C(knock_host), then C(ansible_host), then C(inventory_hostname).
    type: str
  port:
    description: The port that closes and opens, as the controller sees it. By default C(ansible_port), or 22.
    type: int
  sequence:
    description: The sequence that opens the port. By default the variable C(knock_sequence).
    type: raw
  close_sequence:
    description: The sequence that closes it, for a door that stays open until then.
    type: raw
  open_timeout:
    description: The seconds that an open door stays open.
    type: int
    default: 10
  native:
    description: Whether the door is one that the kernel opens, so that its set of admitted addresses can be asked.
    type: bool
    default: true
attributes:
  check_mode:
    description: Says what would change, judges and rehearses it, and changes nothing.
    support: full
  diff_mode:
    description: Shows our live chains and the files, before and after.
    support: full
requirements:
  - iptables, ip6tables and their -save and -restore commands; for O(rules_nft), nft and unshare (util-linux)
  - flock (util-linux) and a POSIX shell for the revert
  - iproute2 and nftables for the rehearsal
notes:
  - Behind a jump host (the variable C(knock_jump), or a C(ProxyJump) in your configuration of ssh) the proof knocks
    from there, and sees from there that the port is closed.
  - A change that another run has left waiting is put back first; that run can no longer confirm it.
  - The command C(knock-firewall) of the host says what is under way, and ends it by hand.
seealso:
  - module: sesame.knock.firewall_info
  - module: sesame.knock.knock
"""

EXAMPLES = r"""
- name: Close SSH to all but the allowlist and those who knock
  sesame.knock.firewall:
    rules_v4: "{{ lookup('ansible.builtin.template', 'rules.v4.j2') }}"
    rules_v6: "{{ lookup('ansible.builtin.template', 'rules.v6.j2') }}"
    gates:
      - {name: protected, ports: [22/tcp], allow: [198.51.100.0/28, "2001:db8:7::/64"], knock: true}
    sequence: "{{ knock_sequence }}"
  become: true

- name: Make the rules live, for two minutes
  sesame.knock.firewall:
    state: applied
    rules_v4: "{{ lookup('ansible.builtin.template', 'rules.v4.j2') }}"
    rules_v6: "{{ lookup('ansible.builtin.template', 'rules.v6.j2') }}"
  register: change
  become: true

- name: Keep the rules
  sesame.knock.firewall:
    state: confirmed
    token: "{{ change.token }}"
  become: true
"""

RETURN = r"""
armed:
  description: Whether a change was made that undoes itself unless it is confirmed.
  returned: O(state=present) and O(state=applied)
  type: bool
changes_live:
  description: Whether live rules differed, and not only files.
  returned: O(state=present) and O(state=applied)
  type: bool
token:
  description: The name of the change.
  returned: when it is armed
  type: str
backups:
  description: Copies of saved rules as they were before the first change.
  returned: success
  type: list
  elements: str
proof:
  description: What the controller has seen, in words.
  returned: O(state=present), when a change was proven
  type: list
  elements: str
seen_address:
  description: The address that the host sees the controller come from.
  returned: O(state=present), when a change was proven over ssh
  type: str
"""

import contextlib
import os
import secrets
import shutil
from typing import Any, Iterator

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.sesame.knock.plugins.module_utils import _backend, _change
from ansible_collections.sesame.knock.plugins.module_utils._at_boot import CannotTry, message
from ansible_collections.sesame.knock.plugins.module_utils._backend import Backend
from ansible_collections.sesame.knock.plugins.module_utils._change import GUARD, Change, Failure, Plan, knock_firewall
from ansible_collections.sesame.knock.plugins.module_utils._files import read, write
from ansible_collections.sesame.knock.plugins.module_utils._firewall_task import ARGUMENT_SPEC, CHECKS
from ansible_collections.sesame.knock.plugins.module_utils._gates import read_gates
from ansible_collections.sesame.knock.plugins.module_utils._host_command import CHANGE, DONE, KEEP, ORIGINAL
from ansible_collections.sesame.knock.plugins.module_utils._lock import locked
from ansible_collections.sesame.knock.plugins.module_utils._rehearsal import rehearse
from ansible_collections.sesame.knock.plugins.module_utils._rules import RulesError


def applied(module: AnsibleModule) -> dict[str, Any]:
    backend = _backend.wanted(module)
    backend.validate()
    if module.check_mode:
        return would_apply(module, backend)[0]
    with nothing_under_way(module):
        result, plan, change = would_apply(module, backend)
        if not result["armed"]:
            shutil.rmtree(DONE, ignore_errors=True)  # a confirmation that follows is not about that one
            result["changed"] = _change.install(module)
            return result
        token = secrets.token_hex(8)
        seconds = module.params["revert_after"]
        _change.install(module)
        try:
            result["backups"] = change.stage(token, plan.undo, backend.originals(), seconds)
            change.arm(token, seconds)
        except (OSError, Failure) as error:
            change.unstage()
            raise Failure("%s. Nothing has been changed" % error) from error
        failure = make_live(backend)
        result["token"] = token
    if failure:
        knock_firewall(module, "revert", token)
        raise Failure(failure)
    for command in backend.differs():
        module.warn("%s spells the rules in another way than the file: every run will report a change" % command)
    return result


def would_apply(module: AnsibleModule, backend: Backend) -> tuple[dict[str, Any], Plan, Change]:
    """What a change comes to. Raises Failure where it must not be made."""
    plan = backend.plan()
    files: dict[str, str | None] = {**backend.files, GUARD: module.params["guard"], KEEP: plan.keep}
    change = Change(module, files)
    differs = plan.changes_live or change.differs()
    hold_to_promise(module, backend, differs)
    result = {
        "changed": differs or (module.check_mode and _change.install(module)),
        "armed": differs,
        "changes_live": plan.changes_live,
        "backups": [],
        "diff": diff_of(plan.diff + diff_of_files({path: text for path, text in files.items() if path != KEEP})),
    }
    return result, plan, change


def hold_to_promise(module: AnsibleModule, backend: Backend, differs: bool) -> None:
    """Judge the rules; load and rehearse a change of them. Raises Failure where a promise is broken."""
    gates = read_gates(module.params["gates"], int(module.params["mark"], 16))
    found = backend.judge(gates)
    if found.problems:
        raise Failure("Nothing has been changed, because of what the rules would do. %s" % " ".join(found.problems))
    if not differs:
        return
    try:
        refused = backend.at_boot()
    except CannotTry as reason:
        module.warn("Whether the next boot can load the rules cannot be tried on this host: %s" % reason)
    else:
        if refused:
            raise Failure(message(refused))
    for remark in found.remarks:
        module.warn(remark)
    if gates and module.params["rehearse"] and backend.is_installed:
        seen = rehearse(backend.loads(), gates)
        if seen.problems:
            raise Failure("Nothing has been changed, because a rehearsal has failed. %s" % " ".join(seen.problems))
        for remark in ([seen.skipped] if seen.skipped else []) + seen.remarks:
            module.warn(remark)


def make_live(backend: Backend) -> str:
    """Apply both families; returns what went wrong."""
    try:
        backend.make_live()
    except (Failure, OSError) as failure:
        return "%s. The rules of before are back" % failure
    return ""


@contextlib.contextmanager
def nothing_under_way(module: AnsibleModule) -> Iterator[None]:
    """Hold the lock, with no change of anybody else under way: an older one is put back."""
    for dummy in range(5):
        if _change.is_under_way():
            _change.install(module)
            knock_firewall(module, "revert")
        with locked():
            if not _change.is_under_way():
                yield
                return
    raise Failure("Other runs change the firewall of this host all the time. Nothing was changed")


def confirmed(module: AnsibleModule) -> dict[str, Any]:
    under_way = _change.is_under_way()
    token = module.params["token"] or read((CHANGE if under_way else DONE) + "/token")
    if token and not module.check_mode:
        knock_firewall(module, "confirm", token)
    return {"changed": under_way}


def reverted(module: AnsibleModule) -> dict[str, Any]:
    waiting = _change.is_under_way()
    if waiting and not module.check_mode:
        token = module.params["token"]
        waiting = knock_firewall(module, "revert", *([token] if token else [])) == "reverted"
    return {"changed": waiting}


def absent(module: AnsibleModule) -> dict[str, Any]:
    backends = _backend.to_remove(module)
    with nothing_under_way(module) if not module.check_mode else contextlib.nullcontext():
        plans = [backend.plan() for backend in backends]
        files: dict[str, str | None] = {GUARD: None}
        for backend in backends:
            files.update(backend.left_behind(_change.originals()))
        result = {
            "changed": any(plan.changes_live for plan in plans)
            or any(read(path) != text for path, text in files.items())
            or os.path.isdir(_change.STATE),
            "diff": diff_of([item for plan in plans for item in plan.diff] + diff_of_files(files)),
            "backups": [],
        }
        if not module.check_mode:
            # First open, then forget: a crash in between leaves a port open that was to be opened
            for backend in backends:
                backend.make_live()
            for path, text in files.items():
                if text is not None and text != read(path):
                    original = os.path.join(ORIGINAL, os.path.basename(path))
                    write(path, text, _change.mode_of(original if os.path.exists(original) else path))
                elif text is None and read(path) is not None:
                    os.unlink(path)
            _change.reload_knockd(module)
            _change.uninstall(module)
    return result


def diff_of_files(files: dict[str, str | None]) -> list[tuple[str, str, str]]:
    return [(path, read(path) or "", text or "") for path, text in files.items()]


def diff_of(pairs: list[tuple[str, str, str]]) -> list[dict[str, str]]:
    return [
        {"before_header": header, "after_header": header, "before": before, "after": after}
        for header, before, after in pairs
        if before != after
    ]


STATES = {"applied": applied, "confirmed": confirmed, "reverted": reverted, "absent": absent}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, **CHECKS, supports_check_mode=True)
    if module.params["state"] == "present":
        module.fail_json(msg="state=present is the action plugin's: call the module as sesame.knock.firewall in a task")
    try:
        module.exit_json(**STATES[module.params["state"]](module))
    except (Failure, RulesError, OSError) as failure:
        module.fail_json(msg=str(failure))


if __name__ == "__main__":
    main()
