#!/usr/bin/python
# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes the KNOCK chains of a host, live and on disk, so that a change undoes itself unless it is confirmed."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: firewall
author:
  - The sesame.knock authors (@sesame-knock)
version_added: 0.1.0
short_description: Change the KNOCK chains of a host, commit-confirmed
description:
  - Brings the chains C(KNOCK), C(KNOCK-ADMIT) and C(KNOCK-ESCAPE) of the filter table and C(KNOCK-MARK),
    C(KNOCK-FORWARD) and C(KNOCK-PUBLISHED) of the mangle table, for IPv4 and IPv6, to the state of two
    iptables-restore files.
  - A change has two halves. O(state=applied) makes it live, after it has armed a revert on the host.
    O(state=confirmed) writes the files and disarms the revert. What is not confirmed in time undoes itself,
    whatever becomes of the controller, of sshd or of this module; a reboot undoes it too, as no file was written.
  - Other chains, live ones of Docker or fail2ban for example, are never touched.
  - Works with the iptables commands that the host's alternatives name, iptables-nft and iptables-legacy alike.
options:
  state:
    description:
      - V(applied) makes the rules live and arms the revert. Where live rules and files are as wanted, nothing is armed.
      - V(confirmed) writes what was applied to the files and disarms. It fails if the revert has come first.
      - V(reverted) puts back what was before V(applied), now; does nothing after V(confirmed).
      - V(absent) removes our chains, live and from the files, and the guard file. Rules of others stay.
    type: str
    choices: [applied, confirmed, reverted, absent]
    required: true
  rules_v4:
    description: The whole text of C(/etc/iptables/rules.v4). Required for V(applied).
    type: str
  rules_v6:
    description: The whole text of C(/etc/iptables/rules.v6). Required for V(applied).
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
attributes:
  check_mode:
    description: Says what would change, and changes nothing.
    support: full
  diff_mode:
    description: Shows our live chains and the files, before and after.
    support: full
requirements:
  - iptables, ip6tables and their -save and -restore commands
  - flock (util-linux) and a POSIX shell for the revert
notes:
  - O(state=applied) puts back an earlier change first, if one is still waiting for its confirmation.
"""

EXAMPLES = r"""
- name: Make the rules live, for two minutes
  sesame.knock.firewall:
    state: applied
    rules_v4: "{{ lookup('ansible.builtin.template', 'rules.v4.j2') }}"
    rules_v6: "{{ lookup('ansible.builtin.template', 'rules.v6.j2') }}"

- name: Come back in through a new knock
  sesame.knock.knock:
    host: 198.18.0.10
    port: 22
    sequence: "{{ knock_sequence }}"

- name: Keep the rules
  sesame.knock.firewall:
    state: confirmed
"""

RETURN = r"""
armed:
  description: Whether a revert waits for the confirmation.
  returned: O(state=applied)
  type: bool
backups:
  description: Copies of files that held no rules of ours before.
  returned: O(state=confirmed) and O(state=absent)
  type: list
  elements: str
"""

import contextlib
import fcntl
import grp
import os
import secrets
import shutil
from typing import Any, Iterator, NamedTuple

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.sesame.knock.plugins.module_utils._files import read, write
from ansible_collections.sesame.knock.plugins.module_utils._rules import (
    OWN_CHAINS,
    OWN_JUMPS,
    RulesError,
    Table,
    delta,
    foreign,
    has_own,
    leads,
    own_text,
    parse,
    place_of,
    render,
)

STATE = "/var/lib/knock_firewall"
CANDIDATE = STATE + "/candidate"
"""What `confirmed` will write. With PENDING: waiting. Without it: the revert has come first, or a reboot."""
BEFORE = STATE + "/before"
"""What the revert puts back."""
REVERT = STATE + "/revert.sh"

RUN = "/run/knock_firewall"
PENDING = RUN + "/pending"
"""Holds the token of the change that waits. On a tmpfs: a reboot brings the old rules back, and so ends the waiting."""
LOCK = RUN + "/lock"

UNIT = "knock-firewall-revert"
GUARD = "/etc/knockd-guard.conf"


class Family(NamedTuple):
    name: str
    command: str
    file: str


FAMILIES = (
    Family("v4", "iptables", "/etc/iptables/rules.v4"),
    Family("v6", "ip6tables", "/etc/iptables/rules.v6"),
)


class Failure(Exception):
    """What fail_json will say."""


# --- the live rules --------------------------------------------------------------------------------------------------


def is_there(family: Family) -> bool:
    """Whether the host has the family at all: a kernel without IPv6 has nothing to protect."""
    return family.name == "v4" or os.path.isdir("/proc/sys/net/ipv6")


def live_rules(module: AnsibleModule, family: Family) -> dict[str, Table]:
    """The tables as they are now; none on a host that has no iptables yet (which only check mode may meet)."""
    command = module.get_bin_path(family.command + "-save", opt_dirs=["/sbin", "/usr/sbin"])
    if not is_there(family) or (command is None and module.check_mode):
        return {}
    if command is None:
        raise Failure("%s-save is missing: install iptables" % family.command)
    status, out, err = module.run_command([command])
    if status != 0:
        raise Failure("%s-save failed: %s" % (family.command, err.strip()))
    return parse(out)


def restore(module: AnsibleModule, family: Family, text: str, *options: str) -> None:
    """Feed text to iptables-restore; it takes a table whole or not at all."""
    if not text or not is_there(family):
        return
    command = module.get_bin_path(family.command + "-restore", opt_dirs=["/sbin", "/usr/sbin"])
    if command is None and module.check_mode:
        return
    # From a file: run_command ends the module if a command does not read all of its input, and we have to put back then
    path = os.path.join(module.tmpdir, "rules." + family.name)
    write(path, text)
    status, out, err = module.run_command([command or family.command + "-restore", "-w", "10", *options, path])
    if status != 0:
        answer = (err or out).strip()
        raise Failure("%s-restore %s refused the rules: %s" % (family.command, " ".join(options), answer))


# --- files -----------------------------------------------------------------------------------------------------------


def make_private(path: str) -> None:
    os.makedirs(path, mode=0o700, exist_ok=True)
    os.chmod(path, 0o700)


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Nobody else, the revert included, works on the rules meanwhile."""
    make_private(RUN)
    with open(LOCK, "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def files_of(rules: dict[str, str], guard: str | None) -> dict[str, str | None]:
    """Path to content, None for a file that shall not be there."""
    files: dict[str, str | None] = {family.file: rules[family.name] for family in FAMILIES}
    files[GUARD] = guard
    return files


def stored(directory: str, path: str) -> str:
    return os.path.join(directory, os.path.basename(path))


def write_files(module: AnsibleModule, files: dict[str, str | None]) -> list[str]:
    """Bring the files to the wanted content; returns the backups of rules that we had no part in."""
    backups = []
    for path, text in files.items():
        before = read(path)
        if text == before:
            continue
        if path != GUARD and before and foreign(parse(before)) and not has_own(parse(before)):
            backups.append(module.backup_local(path))
        if text is None:
            os.unlink(path)
        else:
            write(path, text, group=group_of_knockd() if path == GUARD else 0)
        if path == GUARD:
            reload_knockd(module)
    return backups


def group_of_knockd() -> int:
    try:
        return grp.getgrnam("knockd").gr_gid
    except KeyError:
        return 0


# --- systemd, where it runs ------------------------------------------------------------------------------------------


def has_systemd() -> bool:
    return os.path.isdir("/run/systemd/system")


def reload_knockd(module: AnsibleModule) -> None:
    if has_systemd() and module.run_command(["systemctl", "is-active", "--quiet", "knockd.service"])[0] == 0:
        status, out, err = module.run_command(["systemctl", "reload", "knockd.service"])
        if status != 0:
            raise Failure("knockd does not reload: %s" % (err or out).strip())


def arm(module: AnsibleModule, seconds: int, token: str) -> None:
    """Let the host run the revert by itself, in a process that nothing of this connection can end."""
    command = ["/bin/sh", REVERT, token]
    if has_systemd():
        disarm(module)
        status, out, err = module.run_command(
            ["systemd-run", "--quiet", "--collect", "--unit=" + UNIT, "--on-active=%d" % seconds]
            + ["--timer-property=AccuracySec=1s", *command]
        )
        if status != 0:
            raise Failure("The revert cannot be armed, so nothing was changed: %s" % (err or out).strip())
    else:
        # It ends by itself after the sleep: the token tells it that its change is no longer the one that waits
        detached = """setsid sh -c 'sleep "$0"; exec "$@"' "$@" </dev/null >/dev/null 2>&1 &"""
        module.run_command(["/bin/sh", "-c", detached, "sh", str(seconds), *command])
    write(PENDING, token, mode=0o600)


def disarm(module: AnsibleModule) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(PENDING)
    if has_systemd():
        module.run_command(["systemctl", "stop", UNIT + ".timer"])


# --- the revert ------------------------------------------------------------------------------------------------------

REVERT_HEAD = """\
#!/bin/sh
# Puts back the firewall of before a change that nobody has confirmed.
# Written by the module sesame.knock.firewall for one change, and run by a timer: revert.sh TOKEN
PATH=/usr/sbin:/usr/bin:/sbin:/bin
cd {state} || exit 1
exec 9>{lock} && flock 9
[ "$(cat {pending} 2>/dev/null)" = "$1" ] || exit 0     # confirmed in time, or put back before
rm -f {pending}

put_back() {{  # NAME FILE: succeeds if the file had the content of the change, and now has that of before
    cmp -s "candidate/$1" "$2" || return 1
    if [ -e "before/$1" ]; then cp -p "before/$1" "$2.knock" && mv "$2.knock" "$2"; else rm -f "$2"; fi
}}
"""
REVERT_TAIL = """
put_back rules.v4 /etc/iptables/rules.v4
put_back rules.v6 /etc/iptables/rules.v6
if put_back knockd-guard.conf {guard} && [ -d /run/systemd/system ]; then systemctl reload knockd.service; fi
exit 0
"""


def revert_script(live: dict[str, dict[str, Table]]) -> str:
    lines = [REVERT_HEAD.format(state=STATE, lock=LOCK, pending=PENDING)]
    for family in FAMILIES:
        if not is_there(family):
            continue
        missing = []
        for name, jumps in OWN_JUMPS.items():
            table, command = live[family.name].get(name, Table()), "%s -w 10 -t %s" % (family.command, name)
            for builtin, chain in jumps:
                jump = "%s -j %s" % (builtin, chain)
                if not leads(table, chain, builtin):
                    lines.append("while %s -D %s 2>/dev/null; do :; done\n" % (command, jump))
                else:
                    there = "%s -I %s %d -j %s" % (command, builtin, place_of(table, chain, builtin), chain)
                    missing.append("%s -C %s || %s || %s -I %s\n" % (command, jump, there, command, jump))
        lines.append("%s-restore -w 10 --noflush < before/live.%s\n" % (family.command, family.name))
        lines.append("{\n%s} 2>/dev/null\n" % "".join(missing) if missing else "")
    return "".join(lines) + REVERT_TAIL.format(guard=GUARD)


def without_jump(tables: dict[str, Table]) -> dict[str, Table]:
    """Our chains without what leads to them: that part of the revert is done by the script, one jump at a time."""
    return {
        name: Table(
            {chain: "-" for chain in OWN_CHAINS[name] if chain in table.chains},
            [rule for chain in OWN_CHAINS[name] for rule in table.rules_of(chain)],
        )
        for name, table in tables.items()
        if name in OWN_CHAINS
    }


def whole(tables: dict[str, Table]) -> str:
    """For `iptables-restore --noflush`: our chains get the content they have here, and those that are not here go."""
    lines = []
    for name, chains in OWN_CHAINS.items():
        table = tables.get(name, Table())
        lines += ["*" + name] + [":%s - [0:0]" % chain for chain in chains] + table.rules
        lines += ["-X " + chain for chain in chains if chain not in table.chains] + ["COMMIT"]
    return "".join(line + "\n" for line in lines)


def remember(files: dict[str, str | None], live: dict[str, dict[str, Table]]) -> None:
    """Keep on the host what `confirmed` will write and what the revert puts back."""
    forget()
    make_private(STATE)
    for path, text in files.items():
        before = read(path)
        if text is not None:
            write(stored(CANDIDATE, path), text)
        if before is not None:
            os.makedirs(BEFORE, exist_ok=True)
            shutil.copy2(path, stored(BEFORE, path))
            shutil.chown(stored(BEFORE, path), 0, os.stat(path).st_gid)
    for family in FAMILIES:
        write("%s/live.%s" % (BEFORE, family.name), whole(without_jump(live[family.name])))
    write(REVERT, revert_script(live), mode=0o700)


def forget() -> None:
    shutil.rmtree(STATE, ignore_errors=True)


def put_back(module: AnsibleModule) -> bool:
    """Run the revert now; False if nothing waits. Call it without the lock: the script takes it."""
    token = read(PENDING)
    if token is None:
        return False
    module.run_command(["/bin/sh", REVERT, token])
    disarm(module)
    return True


# --- the states ------------------------------------------------------------------------------------------------------


def applied(module: AnsibleModule) -> dict[str, Any]:
    rules = {"v4": module.params["rules_v4"], "v6": module.params["rules_v6"]}
    wanted = {name: parse(text) for name, text in rules.items()}
    files = files_of(rules, module.params["guard"])
    for family in FAMILIES:
        restore(module, family, rules[family.name], "--test")

    if not module.check_mode:
        put_back(module)
    with locked() if not module.check_mode else contextlib.nullcontext():
        live = {family.name: live_rules(module, family) for family in FAMILIES}
        deltas = {family.name: delta(live[family.name], wanted[family.name]) for family in FAMILIES if is_there(family)}
        change = any(deltas.values())
        result = {
            "changed": change or any(read(path) != text for path, text in files.items()),
            "armed": change,
            "diff": diff_of(live, wanted, files),
        }
        if module.check_mode:
            return result
        if not result["changed"]:
            forget()
            return result
        for family in FAMILIES:
            restore(module, family, deltas.get(family.name, ""), "--noflush", "--test")
        remember(files, live)
        if not change:
            write(PENDING, "files only", mode=0o600)
            return result
        arm(module, module.params["revert_after"], secrets.token_hex(8))
        failure = make_live(module, deltas)
    if failure:
        put_back(module)
        forget()
        raise Failure("%s. The rules of before are back" % failure)
    for family in FAMILIES:
        if is_there(family) and delta(live_rules(module, family), wanted[family.name]):
            module.warn(
                "%s-save spells the rules in another way than the file: every run will report a change" % family.command
            )
    return result


def make_live(module: AnsibleModule, deltas: dict[str, str]) -> str:
    """Apply both families; returns what went wrong."""
    try:
        for family in FAMILIES:
            restore(module, family, deltas.get(family.name, ""), "--noflush")
    except Failure as failure:
        return str(failure)
    return ""


def confirmed(module: AnsibleModule) -> dict[str, Any]:
    if not os.path.isdir(CANDIDATE):
        return {"changed": False, "backups": []}
    if module.check_mode:
        return {"changed": True, "backups": []}
    with locked():
        if read(PENDING) is None:
            raise Failure(
                "The change was not confirmed in time, or the host has rebooted: the rules of before are back, "
                "and no file was written. Give it more time with knock_firewall_revert_after"
            )
        rules = {family.name: read(stored(CANDIDATE, family.file)) or "" for family in FAMILIES}
        backups = write_files(module, files_of(rules, read(stored(CANDIDATE, GUARD))))
        disarm(module)
        forget()
    return {"changed": True, "backups": backups}


def reverted(module: AnsibleModule) -> dict[str, Any]:
    waiting = read(PENDING) is not None
    if not module.check_mode:
        put_back(module)
        forget()
    return {"changed": waiting}


def absent(module: AnsibleModule) -> dict[str, Any]:
    files: dict[str, str | None] = {GUARD: None}
    for family in FAMILIES:
        text = read(family.file)
        if text is not None and has_own(parse(text)):
            files[family.file] = render(foreign(parse(text))) or None
    if not module.check_mode:
        put_back(module)
    live = {family.name: live_rules(module, family) for family in FAMILIES}
    deltas = {family.name: delta(live[family.name], {}) for family in FAMILIES}
    result = {
        "changed": any(deltas.values()) or any(read(path) != text for path, text in files.items()),
        "diff": diff_of(live, {family.name: {} for family in FAMILIES}, files),
        "backups": [],
    }
    if not module.check_mode:
        with locked():
            result["backups"] = write_files(module, files)
            failure = make_live(module, deltas)
        if failure:
            raise Failure(failure)
        forget()
    return result


def diff_of(live: dict[str, Any], wanted: dict[str, Any], files: dict[str, str | None]) -> list[dict[str, str]]:
    pairs = [
        ("live rules of %s" % family.command, own_text(live[family.name]), own_text(wanted[family.name]))
        for family in FAMILIES
    ] + [(path, read(path) or "", text or "") for path, text in files.items()]
    return [
        {"before_header": header, "after_header": header, "before": before, "after": after}
        for header, before, after in pairs
        if before != after
    ]


STATES = {"applied": applied, "confirmed": confirmed, "reverted": reverted, "absent": absent}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": list(STATES), "required": True},
            "rules_v4": {"type": "str"},
            "rules_v6": {"type": "str"},
            "guard": {"type": "str"},
            "revert_after": {"type": "int", "default": 120},
        },
        required_if=[("state", "applied", ("rules_v4", "rules_v6"))],
        supports_check_mode=True,
    )
    try:
        module.exit_json(**STATES[module.params["state"]](module))
    except (Failure, RulesError, OSError) as failure:
        module.fail_json(msg=str(failure))


if __name__ == "__main__":
    main()
