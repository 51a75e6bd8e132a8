# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fifty hosts on one machine: a namespace each, with sshd, daemon and firewall, and Ansible beside them on a bridge."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sesame_knock import _knocker
from tests.netns.lab import Namespace

from .place import HIDDEN, OPEN, SEQUENCE, Server, ansible, install, make_keys
from .results import OURS, PLAIN, Play

# What any play is made of. {place} is the host's own folder: the hosts share the machine's files.
TASKS: list[dict[str, object]] = [
    {"ansible.builtin.ping": None},
    {"ansible.builtin.command": "true"},
    {"ansible.builtin.file": {"path": "{{ place }}", "state": "directory", "mode": "0755"}},
    {"ansible.builtin.copy": {"dest": "{{ place }}/file", "content": "one\n", "mode": "0644"}},
    {"ansible.builtin.lineinfile": {"path": "{{ place }}/file", "line": "two"}},
    {"ansible.builtin.stat": {"path": "{{ place }}/file"}},
    {"ansible.builtin.slurp": {"src": "{{ place }}/file"}},
    {"ansible.builtin.shell": "wc -l < {{ place }}/file"},
    {"ansible.builtin.file": {"path": "{{ place }}", "state": "absent"}},
    {"ansible.builtin.command": "id"},
]


class Fleet:
    """The hosts, and the namespace that their plays run in."""

    def __init__(self, hosts: int) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="knock-bench-"))  # short: control sockets are below it
        self._count = hosts
        self._things: list[Namespace | Server] = []
        self._plays = 0
        self.servers: list[Server] = []

    def __enter__(self) -> Fleet:
        try:
            self._build()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.remove()

    def _build(self) -> None:
        self._keys = self.directory / "keys"
        make_keys(self._keys)
        self._environment = ansible(self.directory, install(self.directory), self._keys)
        self.controller = Namespace("knock-c-" + secrets.token_hex(4))
        self._things.append(self.controller)
        self.controller.ip("link", "add", "bridge", "type", "bridge", "mcast_snooping", "0")
        self.controller.ip("link", "set", "bridge", "up")
        self.controller.ip("address", "add", "198.18.0.1/16", "dev", "bridge")
        for number in range(self._count):
            self._add(number)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(Server.await_ready, self.servers))

    def _add(self, number: int) -> None:
        place = Namespace("knock-s-" + secrets.token_hex(4))
        self._things.append(place)
        here = "host%d" % number
        place.ip("link", "add", "eth0", "type", "veth", "peer", "name", here, "netns", self.controller.name)
        place.ip("link", "set", "eth0", "up")
        place.ip("address", "add", self.address(number) + "/16", "dev", "eth0")
        self.controller.ip("link", "set", here, "master", "bridge", "up")
        directory = self.directory / here
        directory.mkdir()
        self.servers.append(Server(place, directory, self._keys, open_timeout=2))
        self._things.append(self.servers[-1])

    def address(self, number: int) -> str:
        """Of a host."""
        return "198.18.1.%d" % (number + 1)

    def inventory(self, closed: bool) -> Path:
        """The inventory for the closed ports, with the one line that knocks, or for the open ones, without."""
        hosts = {
            "host%d" % number: {"ansible_host": self.address(number), "place": "%s/host%d/t" % (self.directory, number)}
            for number in range(self._count)
        }
        variables = {
            "ansible_user": "root",
            "ansible_port": HIDDEN if closed else OPEN,
            "ansible_ssh_private_key_file": "%s/user" % self._keys,
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        if closed:
            variables["knock_sequence"] = SEQUENCE
            variables["ansible_ssh_common_args"] = "{{ lookup('sesame.knock.ssh_args') }}"
        path = self.directory / ("closed.yml" if closed else "open.yml")
        path.write_text(json.dumps({"all": {"hosts": hosts, "vars": variables}}))
        return path

    def play(self, closed: bool, forks: int, hosts: int | None = None, counted: bool = False) -> Play:
        """Run a play of ten tasks on all hosts, or so many, cold: no connection is shared with an earlier one."""
        hosts = min(hosts or self._count, self._count)
        self._await_closed()
        inventory = self.inventory(closed)
        book = self.directory / "play.yml"
        book.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": TASKS}]))
        self._plays += 1
        sockets = self.directory / ("c%d" % self._plays)
        words = [sys.executable, "-m", "ansible", "playbook", "-i", str(inventory), "--forks", str(forks), str(book)]
        words += ["--limit", ",".join("host%d" % number for number in range(hosts))]
        knocks, logins = self._seen()
        began = time.monotonic()
        done = subprocess.run(
            self.controller.command(*words, *(["-vvv"] if counted else [])),
            env={**self._environment, "ANSIBLE_SSH_CONTROL_PATH_DIR": str(sockets)},
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - began
        if done.returncode:
            raise RuntimeError(done.stdout[-3000:] + done.stderr[-3000:])
        for path in sockets.glob("*"):
            subprocess.run(
                ["ssh", "-F", "none", "-O", "exit", "-S", str(path), "any"], capture_output=True, check=False
            )
        knocks, logins = (after - before for after, before in zip(self._seen(), (knocks, logins)))
        executions = done.stdout.count("SSH: EXEC")
        return Play(OURS if closed else PLAIN, seconds, hosts, len(TASKS), knocks, logins, executions if counted else 0)

    def _seen(self) -> tuple[int, int]:
        return sum(server.knocks for server in self.servers), sum(server.logins for server in self.servers)

    def _await_closed(self) -> None:
        for number in range(self._count):
            with self.controller:
                _knocker.wait_closed(_knocker.resolve(self.address(number)), HIDDEN)

    def remove(self) -> None:
        """End and remove all of it."""
        for thing in reversed(self._things):
            if isinstance(thing, Namespace):
                pids = subprocess.run(["ip", "netns", "pids", thing.name], capture_output=True, text=True, check=False)
                subprocess.run(["kill", "-KILL", *pids.stdout.split()], capture_output=True, check=False)
            thing.remove()
        shutil.rmtree(self.directory, ignore_errors=True)
