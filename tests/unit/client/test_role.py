# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role knock_client in a home of the test: it makes what it says, and takes nothing else away."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .door import Door

MINE = "Host mine\n    Port 5\n"
HOSTS: dict[str, Any] = {
    "localhost": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "knock_sequence": "9,8"},
    "web1": {"ansible_host": "198.18.7.2", "ansible_port": 2222, "knock_sequence": "4242,1717:udp"},
    "web2": {"knock_sequence": [4343, 1818], "knock_sequence_previous": "4444,1919"},
    "plain": {},
}


class Home:
    """A home, and the role run in it."""

    def __init__(self, path: Path, ansible: Callable[..., subprocess.CompletedProcess[str]]) -> None:
        self.path = path
        self.bin = path / ".local" / "bin"
        self.profiles = path / ".config" / "sesame-knock"
        self.ssh_config = path / ".ssh" / "config"
        self._ansible = ansible
        self.ssh_config.parent.mkdir(parents=True, mode=0o700)
        self.ssh_config.write_text(MINE)

    def play(
        self, *arguments: str, hosts: dict[str, Any] | None = None, **variables: Any
    ) -> subprocess.CompletedProcess[str]:
        directory = self.path.parent
        one = {"hosts": "localhost", "gather_facts": False, "roles": ["sesame.knock.knock_client"], "vars": variables}
        one["vars"] = {"knock_client_prefix": "~/.local", "knock_client_python": sys.executable, **variables}
        (directory / "play.yml").write_text(json.dumps([one]))
        (directory / "hosts.yml").write_text(json.dumps({"all": {"hosts": hosts or HOSTS}}))
        return self._ansible(
            "ansible-playbook", "-i", "hosts.yml", "play.yml", *arguments, HOME=str(self.path), SUDO_USER=""
        )

    def run(self, *arguments: str, **options: Any) -> str:
        done = self.play(*arguments, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def files(self) -> set[str]:
        found = (path.relative_to(self.path) for path in self.path.rglob("*") if not path.is_dir() or path.is_symlink())
        return {str(path) for path in found if "__pycache__" not in path.parts and path.parts[0] != ".ansible"}


@pytest.fixture
def home(tmp_path: Path, ansible: Callable[..., subprocess.CompletedProcess[str]]) -> Home:
    return Home(tmp_path / "home", ansible)


def test_it_makes_what_it_says_twice_the_same_and_takes_all_of_it_away(home: Home) -> None:
    before = home.files()

    assert home.run("--check", "--diff").count("failed=0") == 1
    assert home.files() == before

    shown = home.run("--diff", "-vvv")
    # Both at once: -vvv shows times and process numbers, and one of these may be any number.
    assert not re.search(r"4242\D{1,12}1717|4343\D{1,12}1818|4444\D{1,12}1919", shown)
    assert home.ssh_config.read_text().endswith(MINE)
    profiles = {path.stem: json.loads(path.read_text()) for path in home.profiles.iterdir()}
    assert profiles == {
        "web1": {"sequence": "4242:tcp,1717:udp"},
        "web2": {"sequence": "4343:tcp,1818:tcp", "previous": "4444:tcp,1919:tcp"},
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in home.profiles.iterdir()} == {0o600}
    assert stat.S_IMODE(home.profiles.stat().st_mode) == 0o700

    assert "changed=0 " in home.run()

    home.run(hosts={name: HOSTS[name] for name in ("localhost", "web2")})
    assert [path.name for path in home.profiles.iterdir()] == ["web2.json"]
    assert "web1" not in (home.ssh_config.parent / "sesame_knock.conf").read_text()

    home.run(knock_client_state="absent")
    assert home.files() == before
    assert home.ssh_config.read_text() == MINE


def test_ssh_and_the_commands_work_from_there(home: Home, door: Door) -> None:
    home.run(
        hosts={"localhost": HOSTS["localhost"], "door": {"knock_sequence": door.sequence, "ansible_host": "127.0.0.1"}}
    )
    # ssh looks for an Include of a user in the home that passwd names, so it is given the file itself here.
    included = home.ssh_config.parent / "sesame_knock.conf"
    words = ["ssh", "-F", str(included), "-G", "door"]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "proxyusefdpass yes" in shown
    assert "hostname 127.0.0.1" in shown
    (proxy,) = (line.split(" ", 1)[1] for line in shown if line.startswith("proxycommand "))

    environment = {**os.environ, "HOME": str(home.path)}
    profile = str(home.profiles / "door.json")
    knock = [str(home.bin / "knock"), "-p", profile, "127.0.0.1", "-w", str(door.port)]
    subprocess.run(knock, check=True, env=environment)
    assert door.arrived == door.ports

    command = proxy.replace("%h", "127.0.0.1").replace("%p", str(door.port))
    process = subprocess.Popen(["/bin/sh", "-c", "exec " + command], env=environment, stdin=-1, stdout=-1)
    assert process.stdout
    assert process.stdout.readline().startswith(b"SSH-2.0-")
    process.kill()
    process.communicate()


def test_a_jump_host_is_in_the_profile_as_the_own_ssh_knows_it(home: Home) -> None:
    """Set for all hosts: the jump host is reached without itself, and by its name, for its Host has its knock."""
    hosts = {
        "localhost": HOSTS["localhost"],
        "bastion": {"ansible_host": "198.18.7.1", "knock_sequence": "1,2", "knock_jump": "bastion"},
        "relay": {"ansible_host": "198.18.7.9", "ansible_port": 2222, "ansible_user": "joe"},
        "web1": {"knock_sequence": "3,4", "knock_jump": "bastion"},
        "web2": {"knock_sequence": "3,4", "knock_jump": "relay, root@far:2022"},
        "web3": {"knock_sequence": "3,4", "knock_jump": "none"},
    }
    home.run(hosts=hosts)
    jumps = {path.stem: json.loads(path.read_text()).get("jump") for path in home.profiles.glob("*.json")}
    assert jumps == {
        "bastion": None,
        "web1": ["bastion"],
        "web2": ["-o", "ProxyCommand=ssh -p 2222 -l joe -W [%h]:%p -- 198.18.7.9", "-p", "2022", "root@far"],
        "web3": None,
    }
    assert "changed=0 " in home.run(hosts=hosts)


def test_a_command_of_someone_else_is_not_replaced_or_removed(home: Home) -> None:
    home.bin.mkdir(parents=True)
    (home.bin / "knock").write_text("C knock, built from source\n")
    done = home.play()
    assert done.returncode != 0
    assert "is not of this role" in done.stdout
    assert home.ssh_config.read_text() == MINE
    home.run(knock_client_state="absent")
    assert (home.bin / "knock").exists()


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"knock_client_hosts": ["web3"]}, "knock_client_hosts names web3"),
        ({"knock_client_hosts": ["plain"]}, "knock_client_hosts names plain"),
        ({"knock_client_state": "gone"}, "knock_client_state"),
        ({"knock_sequence": "4242,70000"}, "knock_sequence: knock 2, '70000'"),
        ({"knock_sequence": "4242,1", "knock_jump": "a b"}, "web1: knock_jump is 'a b', which is neither"),
        (
            {"knock_sequence": "4242,1", "knock_jump": "a,web2"},
            "web2 behind a. It is knocked at, so its own knock_jump",
        ),
    ],
)
def test_a_mistake_is_named_before_anything_changes(home: Home, variables: dict[str, Any], words: str) -> None:
    before = home.files()
    hosts = HOSTS
    if "knock_sequence" in variables:
        hosts, variables = {**HOSTS, "web1": variables}, {}
    done = home.play(hosts=hosts, **variables)
    assert done.returncode != 0
    assert words in done.stdout
    assert "4242" not in done.stdout
    assert home.files() == before
