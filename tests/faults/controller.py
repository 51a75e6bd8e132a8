# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller: a real ansible-playbook over a real ssh, which a test can hold, kill, and log in beside."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Iterator

from sesame_knock import _knocker, _sequence

from .hosts import ALLOWED4, ALLOWED6, IPV4, IPV6, ROOT, Host, run

HERE = Path(__file__).parent
CACHE = ROOT / ".cache" / "faults"
COLLECTIONS = ROOT / ".cache" / "collections"
MUTANTS = ROOT / ".cache" / "mutants"
MARK = "SESAME_FAULT"
"""In the environment of each process of a run: Ansible's workers and ssh's masters are sessions of their own."""
SEQUENCE = "52813:tcp,14407:udp,38251:tcp,9467:tcp,29033:tcp"
PROXY = ROOT / "roles" / "knock_client" / "files" / "knock-proxy"
OPEN_SECONDS = 2
"""How long an admission lives."""
DEADLINE = 25
"""Seconds until what nobody has confirmed undoes itself."""
ALLOWLIST = (ALLOWED4 + "/32", ALLOWED6 + "/128")
MORE = ("198.19.60.0/24", "fd00:5e5a:61::/64")
"""What a second change adds to the allowlist."""
OTHER = ("198.19.61.0/24", "fd00:5e5a:62::/64")
"""What another controller adds."""


def variables(host: Host, **more: Any) -> dict[str, Any]:
    """What a user of the collection writes for such a host."""
    return {
        "ansible_host": host.ipv4,
        "ansible_user": "admin",
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_ssh_private_key_file": str(CACHE / "key"),
        "ansible_ssh_extra_args": "-o UserKnownHostsFile=%s" % (CACHE / "known_hosts"),
        "ansible_ssh_common_args": "{{ lookup('sesame.knock.ssh_args') }}",
        "knock_sequence": SEQUENCE,
        "knockd_open_timeout": OPEN_SECONDS,
        "knock_firewall_allowlist": list(ALLOWLIST),
        "knock_firewall_revert_after": DEADLINE,
        **more,
    }


def without(protection: str) -> Path:
    """Where the controller finds the collection, or a copy of it that lacks something; see mutants.py."""
    return MUTANTS / protection.replace(" ", "-") if protection else COLLECTIONS


def make_key() -> str:
    """A key for this run; returns its public half."""
    shutil.rmtree(CACHE, ignore_errors=True)
    CACHE.mkdir(parents=True, mode=0o700)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "sesame-knock-test", "-f", str(CACHE / "key"))
    return (CACHE / "key.pub").read_text().strip()


def know(host: Host) -> None:
    """Tell ssh the key of a host, which all hosts that are made from its image have."""
    key = host.run("cat", "/etc/ssh/ssh_host_ed25519_key.pub").strip()
    with open(CACHE / "known_hosts", "a", encoding="utf-8") as known:
        known.write("%s,%s %s\n" % (IPV4 % "*", IPV6 % "*", key))


class Play:
    """A running ansible-playbook."""

    def __init__(self, host: Host, playbook: Path, log: Path, collections: Path, **more: Any) -> None:
        # Short: sockets of ssh's masters have little room for their path
        self.directory = Path(tempfile.mkdtemp(prefix="sesame-"))
        self.log = log
        inventory = self.directory / "inventory.json"
        inventory.touch(mode=0o600)
        inventory.write_text(json.dumps({"all": {"hosts": {host.name: variables(host, **more)}}}))
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            MARK: str(self.directory),
            "ANSIBLE_SSH_EXECUTABLE": str(HERE / "ssh"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.directory / "cp"),
            "ANSIBLE_LOCAL_TEMP": str(self.directory / "tmp"),
            "ANSIBLE_COLLECTIONS_PATH": str(collections),
            "ANSIBLE_PIPELINING": "true",
            "ANSIBLE_NOCOLOR": "true",
            "ANSIBLE_FORCE_COLOR": "false",
        }
        with open(log, "ab") as output:
            self.process = subprocess.Popen(
                ["ansible-playbook", "-v", "-i", str(inventory), str(playbook)],
                env=environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def hold(self) -> None:
        """Hold the next ssh that is for the host."""
        (self.directory / "hold").touch()

    def wait_held(self, patience: float = 60) -> None:
        deadline = time.monotonic() + patience
        while not (self.directory / "held").exists():
            assert self.process.poll() is None, "the controller ended before its next connection: %s" % self.tail()
            assert time.monotonic() < deadline, "the controller never made another connection: %s" % self.tail()
            time.sleep(0.05)

    def release(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.directory / "hold").unlink()
        (self.directory / "go").touch()

    def wait(self, patience: float = 120) -> int:
        """Its exit status; kills it where that does not come."""
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()
            return -9

    def kill(self) -> None:
        """SIGKILL to all of it at once: the controller's power cable."""
        deadline = time.monotonic() + 20
        while self._living():
            assert time.monotonic() < deadline, "the controller does not die"
            time.sleep(0.02)
        self.process.wait(20)

    def _living(self) -> bool:
        mark = ("%s=%s" % (MARK, self.directory)).encode()
        found = False
        for process in Path("/proc").iterdir():
            if not process.name.isdigit():
                continue
            try:
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    found = True
                    os.kill(int(process.name), signal.SIGKILL)
            except (PermissionError, FileNotFoundError, ProcessLookupError):
                continue
        return found

    def remove(self) -> None:
        """Nothing of it is left, its masters included."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]


@contextlib.contextmanager
def play(host: Host, playbook: str, log: Path, collections: Path = COLLECTIONS, **more: Any) -> Iterator[Play]:
    """One run of a playbook of this folder."""
    running = Play(host, HERE / playbook, log, collections, **more)
    try:
        yield running
    finally:
        running.remove()


def succeed(host: Host, playbook: str, log: Path, **more: Any) -> None:
    """A run that has to succeed."""
    with play(host, playbook, log, **more) as running:
        assert running.wait(300) == 0, running.tail()


def logs_in(address: str, patience: float = 10) -> bool:
    """Do what a person does: knock, and log in over a new connection."""
    with tempfile.TemporaryDirectory() as directory:
        profile = Path(directory, "profile")
        profile.touch(mode=0o600)
        profile.write_text(json.dumps({"sequence": SEQUENCE, "timeout": patience}))
        command = ["ssh", "-F", "none", "-i", str(CACHE / "key"), "-l", "admin", "-o", "BatchMode=yes"]
        command += ["-o", "UserKnownHostsFile=%s" % (CACHE / "known_hosts"), "-o", "ProxyUseFdpass=yes"]
        command += ["-o", "ProxyCommand='%s' '%s' %%h %%p" % (PROXY, profile), address, "true"]
        return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


def sequence_ports() -> list[str]:
    """The words that no list of processes and no journal may show."""
    return [str(knock.port) for knock in _sequence.parse_sequence(SEQUENCE)]


def is_open(address: str) -> bool:
    """Look at the port as a stranger that has not knocked; costs sshd no connection."""
    return _knocker.is_open(_knocker.resolve(address), 22)
