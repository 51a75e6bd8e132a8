# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks ssh itself what it does with hosts: whether their knocks are read, and which ProxyCommand of the user they hide.

The role knock_client runs this file alone, from the text of it, on a workstation where nothing is installed yet. JSON
comes on stdin: `user`, `hosts` (each a `name`, an `address`, `ours`: the ProxyCommand of the role, `jump`: whether the
inventory speaks of jump hosts), and `without`: whether to ask as if the role had written nothing. Problems go to stdout
as JSON.

ssh finds the user's home in the password database, whatever HOME says, and takes the first value of each option.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from typing import Any, Iterator, Optional

SYSTEM = "/etc/ssh/ssh_config"
AT_ONCE = 8
PATIENCE = 30
"""Seconds for one answer: Match exec runs what the user wrote."""
_OURS = re.compile(
    rb"^([ \t]*include[ \t=]+(?:.*[ \t/\"])?)sesame_knock\.conf(?=[\" \t\r]|$)", re.IGNORECASE | re.MULTILINE
)
_NOTHING = rb"\1sesame_knock.conf.left-out"
"""A name that no file has: other files of the same line stay included."""
_KNOCKS = re.compile(r"(?:^|[/'\"])knock-proxy(?=[\s'\"]|$)")


class Account:
    """Whose ssh it is; root asks in the name of others."""

    def __init__(self, name: str) -> None:
        self.entry = pwd.getpwnam(name)
        self.become: dict[str, Any] = {}
        if os.geteuid() != self.entry.pw_uid:
            groups = os.getgrouplist(name, self.entry.pw_gid)
            self.become = {"user": self.entry.pw_uid, "group": self.entry.pw_gid, "extra_groups": groups}
        self.environment = {**os.environ, "HOME": self.entry.pw_dir, "USER": name, "LOGNAME": name}
        self.config = os.path.join(self.entry.pw_dir, ".ssh", "config")

    def ask(self, hosts: list[str], options: list[str]) -> Iterator[dict[str, str]]:
        """Give what ssh would do with each host. Raises ValueError with its words if it cannot read its files."""
        for start in range(0, len(hosts), AT_ONCE):
            running = [
                subprocess.Popen(
                    ["ssh", *options, "-G", "--", host],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    cwd="/",
                    env=self.environment,
                    **self.become,
                )
                for host in hosts[start : start + AT_ONCE]
            ]
            for child in running:
                try:
                    said, errors = child.communicate(timeout=PATIENCE)
                except subprocess.TimeoutExpired:
                    for each in running:
                        each.kill()
                    raise ValueError("no answer for %d s, to which a Match exec may be the reason" % PATIENCE) from None
                if child.returncode:
                    raise ValueError((errors.decode(errors="replace").strip().split("\n") or [""])[-1])
                lines = said.decode(errors="replace").split("\n")
                yield dict(line.split(" ", 1) for line in reversed(lines) if " " in line)

    def without_ours(self) -> bytes:
        """Give the user's configuration and the machine's, without the line that includes ours."""
        try:
            with open(self.config, "rb") as file:
                text = _OURS.sub(_NOTHING, file.read().replace(b"\r\n", b"\n"))
        except FileNotFoundError:
            text = b""
        return text + b"\nMatch all\nInclude %s\n" % SYSTEM.encode()


def problem_before(name: str, found: dict[str, str], jump_is_given: bool) -> Optional[str]:
    """Say what of the user's own would be hidden: ssh has one way to a host only."""
    command, jump = found.get("proxycommand", "none"), found.get("proxyjump", "none")
    if command.lower() != "none" and not _KNOCKS.search(command):
        if not (jump_is_given and "-W" in command):
            return (
                "%s: your configuration of ssh has the ProxyCommand %r for it, and ssh runs one ProxyCommand only. "
                "Remove it there%s, or take %s out of knock_client_hosts"
                % (name, command, ", or name its jump host in knock_jump" if "-W" in command else "", name)
            )
    elif jump.lower() != "none" and not jump_is_given:
        return (
            "%s: your configuration of ssh has the ProxyJump %s for it, and the knock has to leave from there. Set "
            "knock_jump of %s to %s, or to none" % (name, jump, name, jump)
        )
    return None


def problem_after(name: str, found: dict[str, str], ours: str, config: str) -> Optional[str]:
    """Say what ssh does in place of the knock."""
    command, jump = found.get("proxycommand", "none"), found.get("proxyjump", "none")
    if command == ours:
        return None
    if command.lower() == "none":
        command = "no ProxyCommand" if jump.lower() == "none" else "ProxyJump %s" % jump
    else:
        command = "the ProxyCommand %r" % command
    return (
        "%s: ssh uses %s for it, and does not knock. Either %s does not include the hosts of the role, or something "
        "before the Include counts" % (name, command, config)
    )


def problems(order: dict[str, Any]) -> list[str]:
    """Answer an order."""
    account = Account(order["user"])
    addresses = [host["address"] for host in order["hosts"]]
    asked = [
        (name, host)
        for host in order["hosts"]
        # An address that several hosts share is none of theirs
        for name in dict.fromkeys([host["name"], *(addresses.count(host["address"]) == 1) * [host["address"]]])
    ]
    names = [name for name, _host in asked]
    if not order["without"]:
        answers = account.ask(names, [])
        found = [problem_after(name, next(answers), host["ours"], account.config) for name, host in asked]
        return list(filter(None, found))
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "config")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(account.without_ours())
        for each in (directory, path):
            os.chown(each, account.entry.pw_uid, -1)
        answers = account.ask(names, ["-F", path])
        found = [problem_before(name, next(answers), host["jump"]) for name, host in asked]
        return list(filter(None, found))


def by_text(order: dict[str, Any]) -> list[str]:
    """Answer where no ssh is installed: the line is there, or it is not."""
    config = Account(order["user"]).config
    try:
        with open(config, "rb") as file:
            included = _OURS.search(file.read())
    except FileNotFoundError:
        included = None
    return [] if order["without"] or included else ["%s does not include the hosts of the role" % config]


def main() -> None:
    """Read the order, and write the problems."""
    order = json.load(sys.stdin)
    try:
        print(json.dumps(problems(order) if shutil.which("ssh") else by_text(order)))
    except ValueError as error:
        print(json.dumps(["ssh cannot read its configuration: %s" % error]))


if __name__ == "__main__":
    main()
