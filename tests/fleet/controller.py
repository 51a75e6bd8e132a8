# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real Ansible in the controller's namespace, with an inventory as docs/fleet.md has it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Sequence

from .fleet import Fleet, Host

ONE_LINE = "{{ lookup('sesame.knock.ssh_args') }}"
"""All that a fleet needs: `ansible_ssh_common_args` of all hosts."""
LOCAL = {"delegate_to": "localhost"}
TIMEOUT = 240.0

Task = dict[str, Any]


class Controller:
    """One person's Ansible: a directory with an inventory, and an environment. Nothing of it is the machine's."""

    def __init__(self, fleet: Fleet, family: str = "ipv4") -> None:
        self.fleet = fleet
        self.family = family
        # The paths of control sockets are short, or ssh refuses them.
        self.directory = Path(tempfile.mkdtemp(prefix="c-", dir=fleet.directory))
        self.common_args = ONE_LINE
        self.ssh_args = "-F none -o UserKnownHostsFile=%s" % fleet.known_hosts
        """What stands for the person's ~/.ssh, in Ansible's setting ssh_args: common_args are the fleet's alone."""
        self.sharing = "-o ControlMaster=auto -o ControlPersist=60s"
        """Ansible's own default of ssh_args."""
        self.variables: dict[str, Any] = {}
        self.through: tuple[str, ...] = ()
        """A command that ends by becoming Ansible."""

    def address(self, host: Host) -> str:
        """Give the host's address in the inventory; of a mixed fleet, every other host has one of IPv6."""
        return host.address6 if self.family == "ipv6" or (self.family == "mixed" and host.number % 2) else host.address

    def write_inventory(self, hosts: Sequence[Host]) -> None:
        """Write `hosts` as the group fleet, the host without a door beside it, and the one line for all."""
        plain = self.fleet.plain
        fleet = {host.name: {"ansible_host": self.address(host), "knock_sequence": host.sequence} for host in hosts}
        everyone = {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.fleet.key),
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_remote_tmp": str(self.directory / "remote"),
            "ansible_async_dir": str(self.directory / "async"),
        }
        groups = {"fleet": {"hosts": fleet}, "other": {"hosts": {plain.name: {"ansible_host": self.address(plain)}}}}
        (self.directory / "group_vars").mkdir(exist_ok=True)
        (self.directory / "hosts.yml").write_text(json.dumps({"all": {"children": groups, "vars": everyone}}))
        variables = {"ansible_ssh_common_args": self.common_args, **self.variables}
        (self.directory / "group_vars" / "all.yml").write_text(json.dumps(variables))

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        run = self.directory / "run"
        run.mkdir(mode=0o700, exist_ok=True)
        return {
            **kept,
            "ANSIBLE_COLLECTIONS_PATH": os.environ["ANSIBLE_COLLECTIONS_PATH"],
            "ANSIBLE_HOME": str(self.directory / "ansible"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_SSH_ARGS": "%s %s" % (self.ssh_args, self.sharing),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.directory / "cp"),
            "XDG_RUNTIME_DIR": str(run),
        }

    def play(self, hosts: Sequence[Host], *tasks: Task, options: str = "", **keywords: Any) -> Run:
        """Run a play with these tasks on the group fleet; capital keywords are settings, the rest is the play's."""
        self.write_inventory(hosts)
        settings = {"ANSIBLE_" + name: str(value) for name, value in keywords.items() if name.isupper()}
        lower = {name: value for name, value in keywords.items() if not name.isupper()}
        play = {"hosts": "fleet", "gather_facts": False, **lower, "tasks": list(tasks)}
        (self.directory / "play.yml").write_text(json.dumps([play]))
        before = {host: (host.knocks, host.logins) for host in (*hosts, self.fleet.plain)}
        done = subprocess.run(
            self.fleet.controller.command(
                *self.through,
                *(sys.executable, "-m", "ansible", "playbook", "-i", "hosts.yml", "play.yml", *options.split()),
            ),
            cwd=self.directory,
            env={**self.environment(), **settings},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        return Run(done, before)

    def hang_up(self) -> None:
        """End the connections that tasks share."""
        for path in (self.directory / "cp").glob("*"):
            subprocess.run(["ssh", "-F", "none", "-O", "exit", "-S", str(path), "any"], capture_output=True)

    def remove(self) -> None:
        self.hang_up()
        shutil.rmtree(self.directory, ignore_errors=True)


class Run:
    """What a play has said, and what it has cost each host since it began."""

    def __init__(self, done: subprocess.CompletedProcess[str], before: dict[Host, tuple[int, int]]) -> None:
        self.status = done.returncode
        self.text = done.stdout + done.stderr
        self._before = before

    def succeeds(self) -> Run:
        assert self.status == 0, self.text
        return self

    def fails(self) -> Run:
        assert self.status != 0, self.text
        return self

    def knocks(self, host: Host) -> int:
        return host.knocks - self._before[host][0]

    def logins(self, host: Host) -> int:
        return host.logins - self._before[host][1]

    def costs(self, host: Host) -> tuple[int, int]:
        """Knocks and connections: as many of the one as of the other."""
        return self.knocks(host), self.logins(host)
