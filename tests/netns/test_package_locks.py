# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Somebody else installs packages, as a new machine does by itself: tools and roles wait for each of the locks.

Real locks, apt and dpkg, on a view of this machine's files that goes with the test; the package is one of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
import yaml

from .lab import eventually

ROOT = Path(__file__).parents[2]
HELD = 2.0
"""Seconds."""
PACKAGE = "sesame-knock-test"

FRONTEND = "/var/lib/dpkg/lock-frontend"
# fcntl(2) for dpkg and apt, flock(2) for debconf
LOCKS = {
    FRONTEND: "lockf",
    "/var/lib/dpkg/lock": "lockf",
    "/var/lib/apt/lists/lock": "lockf",
    "/var/cache/apt/archives/lock": "lockf",
    "/var/cache/debconf/config.dat": "flock",
}

OWN_FILES = """
mount -t tmpfs tmpfs "$0"
for place in etc usr var; do
    mkdir -p "$0/$place" "$0/work-$place"
    mount -t overlay overlay -o "lowerdir=/$place,upperdir=$0/$place,workdir=$0/work-$place" "/$place"
done
mkdir "$0/repository"
cd "$0/repository"
dpkg-deb --build "$1" package.deb
{ dpkg-deb --field package.deb; echo "Filename: ./package.deb"; echo "Size: $(stat -c %s package.deb)"
  echo "SHA256: $(sha256sum package.deb | cut -d ' ' -f 1)"; } >Packages
rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/* /var/lib/apt/lists/*
echo 'APT::Sandbox::User "root";' >/etc/apt/apt.conf.d/sandbox # the package lies where only root may read
echo "deb [trusted=yes] file:$0/repository ./" >/etc/apt/sources.list
touch /var/lib/apt/lists/lock
touch -d yesterday /var/lib/apt/lists # what Ansible looks at
rm -f /var/lib/apt/periodic/update-success-stamp
touch /var/ready
exec sleep infinity
"""

CONTROL = (
    """Package: %s
Version: 1
Architecture: all
Maintainer: nobody <nobody@example.com>
Description: asks debconf, as iptables-persistent does
"""
    % PACKAGE
)
ASKS = "#!/bin/sh\nset -e\n. /usr/share/debconf/confmodule\ndb_version 2.0\n"

HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "a+")
fcntl.%s(file, fcntl.LOCK_EX)
print(flush=True)
time.sleep(%f)
"""


class View:
    """This machine's files, but what is written to them."""

    def __init__(self, directory: Path) -> None:
        package, self.own = directory / "package", directory / "own"
        (package / "DEBIAN").mkdir(parents=True)
        self.own.mkdir()
        (package / "DEBIAN" / "control").write_text(CONTROL)
        (package / "DEBIAN" / "postinst").write_text(ASKS)
        (package / "DEBIAN" / "postinst").chmod(0o755)
        own = ("unshare", "--mount", "sh", "-ec", OWN_FILES, str(self.own), str(package))
        self._keeper = subprocess.Popen(own, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        eventually(self._is_ready, "the files are there")

    def _is_ready(self) -> bool:
        assert self._keeper.poll() is None
        return self.run("test", "-e", "/var/ready").returncode == 0

    def command(self, *command: str) -> list[str]:
        return ["nsenter", "--target=%d" % self._keeper.pid, "--mount", "--wd=%s" % ROOT, *command]

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*command),
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=300,
        )

    def hold(self, path: str, seconds: float = HELD) -> subprocess.Popen[bytes]:
        """Somebody who has this lock, for some time."""
        words = self.command(sys.executable, "-c", HOLD % (LOCKS[path], seconds), path)
        holder = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert holder.stdout and holder.stdout.readline() == b"\n"
        return holder

    def remove(self) -> None:
        self._keeper.kill()
        self._keeper.wait()


@pytest.fixture
def view(tmp_path: Path) -> Iterator[View]:
    made = View(tmp_path)
    try:
        yield made
    finally:
        made.remove()


def is_installed(view: View) -> bool:
    asked = view.run("dpkg-query", "--show", "--showformat=${db:Status-Status}", PACKAGE)
    return asked.stdout == "installed"


@pytest.mark.parametrize("lock", LOCKS)
def test_the_tools_wait(view: View, tmp_path: Path, lock: str) -> None:
    tool = tmp_path / "tools" / "any"
    tool.parent.mkdir()
    (tool.parent / "lib.sh").write_text((ROOT / "tools" / "lib.sh").read_text())
    tool.write_text('#!/bin/bash\nsource "$(dirname "$0")/lib.sh"\npackages %s\n' % PACKAGE)
    tool.chmod(0o755)
    with view.hold(lock) as holder:
        done = view.run(str(tool))
        assert holder.poll() == 0, "it did not wait: %s%s" % (done.stdout, done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    assert is_installed(view)


def test_the_tools_do_not_wait_for_what_is_no_lock(view: View) -> None:
    began = time.monotonic()
    done = view.run("bash", "-c", "source tools/lib.sh && apt_get install -y no-such-package-anywhere")
    assert done.returncode == 1 and "no-such-package-anywhere" in done.stderr + done.stdout
    assert time.monotonic() - began < 60


@pytest.fixture
def task() -> dict[str, Any]:
    """The task of the role, with our package."""
    tasks = yaml.safe_load((ROOT / "roles" / "knockd" / "tasks" / "install.yml").read_text())
    (found,) = (task for task in tasks if "ansible.builtin.apt" in task)
    found["ansible.builtin.apt"]["name"] = PACKAGE
    return {**found, "become": False}


def play(view: View, tmp_path: Path, task: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "play.yml"
    path.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": [task]}]))
    ansible = str(Path(sys.executable).parent / "ansible-playbook")
    python = "ansible_python_interpreter=/usr/bin/python3"
    return view.run(ansible, "-i", "localhost,", "-c", "local", "-e", python, str(path), ANSIBLE_NOCOLOR="1")


@pytest.mark.parametrize("lock", [FRONTEND, "/var/cache/apt/archives/lock", "/var/cache/debconf/config.dat"])
def test_the_roles_wait(view: View, tmp_path: Path, task: dict[str, Any], lock: str) -> None:
    with view.hold(lock) as holder:
        done = play(view, tmp_path, task)
        assert holder.poll() == 0, "it did not wait: %s%s" % (done.stdout, done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    assert is_installed(view)


def test_the_roles_do_not_wait_again_and_again(view: View, tmp_path: Path, task: dict[str, Any]) -> None:
    task["ansible.builtin.apt"]["lock_timeout"] = 1
    with view.hold(FRONTEND, 60) as holder:
        done = play(view, tmp_path, task)
        holder.kill()
    assert done.returncode == 2 and '"attempts": 1,' in done.stdout and FRONTEND in done.stdout
