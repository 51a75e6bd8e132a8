# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From where the scenarios' tests look: a server as the controller sees it, and a client on the allowlist.

Everything that is about the port goes over the network, as it would for a person.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "roles" / "knock_client" / "files"))

from sesame_knock import _knocker, _sequence

SCENARIO = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
C_KNOCK = str(ROOT / ".cache" / "c-knockd" / "bin" / "knock")
PROXY = ROOT / "roles" / "knock_client" / "files" / "knock-proxy"


@functools.cache
def inventory() -> dict[str, dict[str, Any]]:
    """The variables of each host of the scenario, as they are written."""
    command = ["ansible-inventory", "-i", str(SCENARIO / "inventory"), "--list"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(shown)["_meta"]["hostvars"])


@dataclass(frozen=True)
class Server:
    """A host as the controller sees it."""

    name: str
    ipv4: str
    ipv6: str
    sequence: tuple[_sequence.Knock, ...]
    directory: Path
    port: int = 22
    """Where its sshd listens."""

    def address(self, family: str) -> str:
        """Its address: `family` is ipv4 or ipv6."""
        return self.ipv4 if family == "ipv4" else self.ipv6

    def is_open(self, address: str, port: int = 0) -> bool:
        """Look at the port, by default sshd's. It costs sshd no connection."""
        return _knocker.is_open(_knocker.resolve(address), port or self.port)

    def wait_closed(self, address: str, within: float = 30) -> None:
        """Wait until the door has closed."""
        _knocker.wait_closed(_knocker.resolve(address), self.port, within)

    def knock(self, address: str, sequence: tuple[_sequence.Knock, ...] | None = None, delay: float = 0.02) -> None:
        """Knock, and leave the daemon time to do what it does about it."""
        _knocker.knock(_knocker.resolve(address), sequence or self.sequence, delay)
        time.sleep(0.3)

    def ssh(self, address: str, *command: str, proxy: bool = True) -> list[str]:
        """The command of a person's ssh, through the knock unless told otherwise."""
        profile = self.directory / (self.name + ".profile")
        profile.touch(mode=0o600)
        profile.write_text(json.dumps({"sequence": _sequence.format_sequence(self.sequence)}))
        options = [
            "-F",
            "none",
            "-i",
            str(self.directory / "key"),
            "-l",
            "admin",
            "-p",
            str(self.port),
            "-o",
            "BatchMode=yes",
        ]
        options += ["-o", "UserKnownHostsFile=%s" % (self.directory / "known_hosts")]
        if proxy:
            options += ["-o", "ProxyUseFdpass=yes", "-o", "ProxyCommand='%s' '%s' %%h %%p" % (PROXY, profile)]
        return ["ssh", *options, address, *command]


@dataclass(frozen=True)
class Client:
    """Another machine of the same network."""

    name: str

    def banner(self, address: str, port: int = 22) -> str:
        """The first line that sshd sends, or nothing where the port is closed."""
        connect = (
            "import socket, sys; print(socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).recv(99).decode())"
        )
        command = ["docker", "exec", self.name, "python3", "-c", connect, address, str(port)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip()


def server_of(name: str) -> Server:
    """A host of the inventory."""
    known = inventory()[name]
    sequence = _sequence.parse_sequence(known["knock_sequence"])
    directory = ROOT / ".cache" / "molecule" / SCENARIO.name
    port = int(known.get("ansible_port", 22))
    return Server(name, known["ansible_host"], known["test_ipv6"], sequence, directory, port)
