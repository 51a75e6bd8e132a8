# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where logins happen: a real sshd and the real daemon at one end, ssh at the other, a cable or a bad line between.

The sshd listens twice: at port 22, which is closed without a knock, and at port 2222, which is open, for plain ssh. So
all ways in lead to the same sshd in the same run.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.netns.lab import FIREWALL, KNOCKS, SERVER, SSH, Daemon, Namespace, eventually, run

from ..place import CLIENTS, Line, Place, plus
from .results import ARTICLE, OURS, PLAIN

ROOT = Path(__file__).parents[2]
HIDDEN, OPEN = 22, 2222
OPEN_TIMEOUT = 5
"""Seconds: longer than the article's way takes from its last knock to its connect."""
SEQUENCE = ",".join(port + ":tcp" for port in KNOCKS)

# What is not here is as sshd has it by default, PerSourcePenalties above all. Many log in at a time: MaxStartups. And
# what root's own ~/.bashrc does at each login is none of our time: HOME.
SSHD = """
Port 22
Port 2222
HostKey {keys}/host
AuthorizedKeysFile {keys}/user.pub
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
MaxStartups 1000
SetEnv HOME={keys}
Subsystem sftp internal-sftp
"""


def make_keys(directory: Path) -> None:
    """A key for the hosts and one for the user."""
    directory.mkdir(mode=0o700)
    for name in ("host", "user"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name))
    public = (directory / "host.pub").read_text()
    (directory / "known").write_text("* " + public)


def install(directory: Path) -> Path:
    """Lay the collection out as an installation has it, and give its directory: the checkout gets no file of root's."""
    collection = directory / "collections" / "ansible_collections" / "sesame" / "knock"
    for part in ("meta", "plugins", "roles/knock_client"):
        shutil.copytree(ROOT / part, collection / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "galaxy.yml", collection)
    package = collection / "roles" / "knock_client" / "files" / "sesame_knock"
    run("/usr/bin/python3", "-m", "compileall", "-q", str(package))  # as role knock_client does
    return collection


class Server:
    """What one host runs: sshd, the daemon, and the firewall that closes port 22."""

    def __init__(self, namespace: Namespace, directory: Path, keys: Path, open_timeout: int = OPEN_TIMEOUT) -> None:
        self._namespace = namespace
        Path("/run/sshd").mkdir(exist_ok=True)  # where it locks its unprivileged half up
        config = directory / "sshd_config"
        config.write_text(SSHD.format(keys=keys))
        self._log = directory / "sshd.log"
        with open(self._log, "wb") as log:
            words = ("/usr/sbin/sshd", "-D", "-e", "-f", str(config))
            self._sshd = subprocess.Popen(namespace.command(*words), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        eventually(lambda: self._log.read_text().count("listening on ::") == 2, "sshd listens")
        namespace.run("nft", "-f", "-", text=FIREWALL)
        self._daemon = Daemon(namespace, directory, ("-i", "eth0"), SSH.format(open_timeout=open_timeout))

    def await_ready(self) -> None:
        """Wait until the daemon listens."""
        self._daemon.await_ready()

    @property
    def knocks(self) -> int:
        """How often the daemon has seen the whole sequence."""
        return self._daemon.log.count("OPEN SESAME")

    @property
    def logins(self) -> int:
        """How many connections sshd has let in."""
        return self._log.read_text().count("Accepted publickey")

    def remove(self) -> None:
        """End it all; what sshd has started ends with the namespace's processes."""
        self._daemon.remove()
        self._sshd.kill()
        self._sshd.wait()


class LoginPlace(Place):
    """Client, server, and what is between them."""

    def __init__(self, directory: Path, tools: Path, line: Line | None = None) -> None:
        super().__init__(directory, tools, line)
        self.keys = directory / "keys"

    def sshd(self, port: int = HIDDEN) -> None:
        """The real one, with all that closes its port."""
        make_keys(self.keys)
        self.collection = install(self.directory)
        self.server_side = self._keep(Server(self.server, self.directory, self.keys))
        self.server_side.await_ready()

    def be(self, number: int) -> None:
        """Let the client's next connections leave from this one of its addresses: its door is closed still."""
        source = plus(CLIENTS[4], number)
        self.client.ip("route", "replace", SERVER, "dev", "eth0", "src", source)

    def profile(self, number: int | None = None) -> Path:
        """A profile for knock-proxy, with one of the client's addresses to leave from if it is to have one."""
        path = self.directory / ("profile%s.json" % ("" if number is None else number))
        bind = {} if number is None else {"bind": plus(CLIENTS[4], number)}
        path.touch(mode=0o600)
        path.write_text(json.dumps({"sequence": SEQUENCE, "timeout": 20, **bind}))
        return path

    def options(self, way: str, profile: Path | None = None) -> list[str]:
        """The options of ssh and scp that lead to the server by this way; of scp's own way they say nothing."""
        options = [
            "IdentityFile=%s/user" % self.keys,
            "IdentitiesOnly=yes",
            "UserKnownHostsFile=%s/known" % self.keys,
            "BatchMode=yes",
            "ControlPath=none",
            "LogLevel=ERROR",
            "Port=%d" % (OPEN if way == PLAIN else HIDDEN),
        ]
        if way == ARTICLE:
            knocks = SEQUENCE.replace(",", " ")
            options.append("ProxyCommand=sh -c 'knock -d 100 %%h %s; sleep 1; exec nc %%h %%p'" % knocks)
        if way == OURS:
            proxy = self.collection / "roles" / "knock_client" / "files" / "knock-proxy"
            words = shlex.join([str(proxy), str(profile or self.profile())])
            options += ["ProxyCommand=%s %%h %%p" % words, "ProxyUseFdpass=yes"]
        return ["-F", "none", *(word for option in options for word in ("-o", option))]

    def login(self, way: str, *more: str, profile: Path | None = None) -> subprocess.Popen[str]:
        """Start `ssh host true`."""
        words = self.client.command("ssh", *more, *self.options(way, profile), "root@" + SERVER, "true")
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def ping(self, count: int) -> tuple[float, float]:
        """The median round trip in milliseconds, and the share of pings without an answer."""
        words = ("ping", "-n", "-i", "0.02", "-c", str(count), "-W", "1", SERVER)
        done = subprocess.run(self.client.command(*words), capture_output=True, text=True, check=False)
        times = sorted(float(value) for value in re.findall(r"time=([\d.]+) ms", done.stdout))
        return times[len(times) // 2], 1 - len(times) / count


def ansible(directory: Path, collection: Path, keys: Path) -> dict[str, str]:
    """The environment of an Ansible that has nothing of the machine's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)  # a person's Ansible keeps compiled what it imports
    runtime = directory / "run"
    runtime.mkdir(mode=0o700, exist_ok=True)
    return {
        **kept,
        "ANSIBLE_COLLECTIONS_PATH": str(collection.parents[2]),
        "ANSIBLE_HOME": str(directory / "ansible"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_PIPELINING": "true",
        "ANSIBLE_SSH_ARGS": "-F none -o ControlMaster=auto -o ControlPersist=60s -o UserKnownHostsFile=%s/known" % keys,
        "XDG_RUNTIME_DIR": str(runtime),
        "PATH": "%s:%s" % (Path(sys.executable).parent, os.environ["PATH"]),
    }
