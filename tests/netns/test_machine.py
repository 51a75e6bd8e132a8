# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tools start for the whole machine outlives the clone that has started it: Docker, and `make clean`.

The machine is one of the test's own: namespaces with an engine of their own, which go with the test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Iterator

import pytest

from .lab import Namespace, eventually

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not shutil.which("dockerd"), reason="needs a Docker Engine: apt install docker.io")

OWN_PLACES = """
for place in /run /var/log /var/lib/docker /var/lib/containerd; do
    mkdir -p $place
    mount -t tmpfs tmpfs $place
done
ip link set lo up
touch /run/ready
exec sleep infinity
"""


class Machine:
    """A machine without systemd, and clones on it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        own = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
        self._holder = subprocess.Popen([*own, "sh", "-ec", OWN_PLACES], stdin=subprocess.DEVNULL)
        eventually(self._is_ready, "the machine is ready")

    def _is_ready(self) -> bool:
        assert self._holder.poll() is None
        children = Path("/proc/%d/task/%d/children" % (self._holder.pid, self._holder.pid)).read_text().split()
        self._init = children[0] if children else ""
        return bool(children) and self.succeeds("test", "-e", "/run/ready")

    def remove(self) -> None:
        self._enter("sh", "-c", "docker ps --all --quiet | xargs --no-run-if-empty docker rm --force")  # their cgroups
        self._holder.kill()
        self._holder.wait()

    def _enter(self, *command: str) -> subprocess.CompletedProcess[str]:
        words = ["nsenter", "--target", self._init, "--mount", "--net", "--pid", "--", "env", *command]
        return subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)

    def succeeds(self, *command: str) -> bool:
        return self._enter(*command).returncode == 0

    def run(self, *command: str) -> str:
        done = self._enter(*command)
        assert done.returncode == 0, "%s: %s%s" % (" ".join(command), done.stdout, done.stderr)
        return done.stdout

    def clone(self, name: str) -> Path:
        """The tools of this checkout, somewhere else."""
        made = self.directory / name
        made.mkdir()
        shutil.copytree(ROOT / "tools", made / "tools")
        return made

    def start_container(self, name: str, *options: str) -> None:
        """One that does nothing; its files are the machine's, read only."""
        empty = self.directory / "empty.tar"
        with tarfile.open(empty, "w"):
            pass
        self.run("docker", "import", str(empty), "empty:latest")
        folders = [option for name in ("usr", "lib", "lib64") for option in ("-v", "/%s:/%s:ro" % (name, name))]
        options = ("-d", "--net=none", "--name", name, *options, *folders)
        self.run("docker", "run", *options, "empty", "/usr/bin/sleep", "99")

    def can_enter(self, name: str) -> bool:
        return self.succeeds("docker", "exec", name, "/usr/bin/true")

    def processes(self) -> dict[str, str]:
        """Of each process, what ties it to a place: environment, directory, open files."""
        look = "readlink $p/exe; tr '\\0' ' ' <$p/environ; ls -l $p/cwd $p/fd; echo ===="
        parts = self.run("sh", "-c", "for p in /proc/[0-9]*; do %s; done" % look).split("====\n")
        return {part.partition("\n")[0]: part for part in parts if "docker" in part or "containerd" in part}

    @property
    def containers(self) -> set[str]:
        return set(self.run("docker", "ps", "--all", "--format", "{{.Names}}").split())


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    try:
        yield made
    finally:
        made.remove()


def test_the_engine_knows_nothing_of_the_clone_that_has_started_it(machine: Machine) -> None:
    clone = machine.clone("first")
    machine.run("--chdir=%s" % clone, "XDG_RUNTIME_DIR=%s/run" % clone, "SOMETHING=%s" % clone, "tools/docker")
    machine.start_container("inside")
    seen = machine.processes()
    assert {"/usr/sbin/dockerd", "/usr/bin/containerd"} <= set(seen) and any("shim" in program for program in seen)
    assert not [what for what in seen.values() if str(machine.directory) in what]


def test_an_engine_that_was_killed_is_started_anew(machine: Machine) -> None:
    tool = str(machine.clone("first") / "tools/docker")
    machine.run(tool)
    machine.run("sh", "-c", "kill -KILL $(cat /run/docker.pid)")  # a zombie: PID 1 there waits for nobody
    eventually(lambda: not machine.succeeds("docker", "version"), "the engine has gone")
    machine.run(tool)
    assert machine.succeeds("docker", "version")


def test_after_make_clean_containers_can_be_entered_and_another_clone_goes_on(machine: Machine) -> None:
    first, second = machine.clone("first"), machine.clone("second")
    machine.run(str(first / "tools/docker"))
    machine.start_container("inside")
    machine.run(str(first / "tools/clean"))
    assert not (first / ".cache").exists()
    assert machine.can_enter("inside")
    machine.run(str(second / "tools/docker"))
    assert machine.can_enter("inside")


OLD_START = "XDG_RUNTIME_DIR=%s setsid nohup dockerd --bip 198.18.0.1/24 >/run/log 2>&1 </dev/null &"


@pytest.fixture
def old_engine(machine: Machine) -> Path:
    """A clone that has started the engine as earlier versions did."""
    clone = machine.clone("old")
    runtime = clone / ".cache" / "run"
    runtime.mkdir(parents=True)
    machine.run("sh", "-c", OLD_START % runtime)
    eventually(lambda: machine.succeeds("docker", "version"), "the engine answers")
    machine.start_container("inside")
    assert machine.can_enter("inside")
    return clone


def test_an_engine_that_lost_its_directory_to_an_earlier_clean_is_mended(machine: Machine, old_engine: Path) -> None:
    shutil.rmtree(old_engine / ".cache")
    assert not machine.can_enter("inside"), "this engine does not need what it was started with"
    machine.run(str(machine.clone("another") / "tools/docker"))
    assert machine.can_enter("inside")


def test_clean_leaves_the_directory_of_an_engine_that_needs_it(machine: Machine, old_engine: Path) -> None:
    (old_engine / ".cache" / "venv").mkdir()
    machine.run(str(old_engine / "tools/clean"))
    assert machine.can_enter("inside")
    assert list((old_engine / ".cache").rglob("*")) == [old_engine / ".cache" / "run"]


def test_an_engine_that_lost_a_directory_of_somebody_else_is_told(machine: Machine) -> None:
    lost = machine.directory / "user"
    machine.run("sh", "-c", OLD_START % lost)
    eventually(lambda: machine.succeeds("docker", "version"), "the engine answers")
    said = machine.run(str(machine.clone("any") / "tools/docker"))
    assert "XDG_RUNTIME_DIR=%s," % lost in said and not lost.exists()


def test_clean_takes_what_is_this_clones_and_leaves_what_is_anothers(machine: Machine) -> None:
    this, another = machine.clone("this"), machine.clone("another")
    machine.run(str(this / "tools/docker"))
    host = ("--label", "sesame.knock=host")
    for name, clone in (("mine", this), ("its", another), ("gone", machine.directory / "gone")):
        machine.start_container(name, *host, "--label", "sesame.knock.clone=%s" % clone)
        network = ("--internal", "--label", "sesame.knock=network", "--label", "sesame.knock.clone=%s" % clone)
        machine.run("docker", "network", "create", *network, name)
    machine.start_container("before-there-were-clones", *host)
    machine.start_container("not-ours")
    machine.start_container("being-built", "--label", "sesame.knock=base")
    machine.run(str(this / "tools/clean"))
    assert machine.containers == {"its", "not-ours", "being-built"}
    networks = set(machine.run("docker", "network", "ls", "--format", "{{.Name}}").split())
    assert networks - {"bridge", "host", "none"} == {"its"}


def test_clean_leaves_an_image_that_a_container_uses(machine: Machine) -> None:
    this = machine.clone("this")
    machine.run(str(this / "tools/docker"))
    machine.start_container("not-ours")
    for name in ("used", "unused"):
        build = "printf 'FROM empty\\nLABEL sesame.knock=image name=%s\\n' | docker build -t %s -" % (name, name)
        machine.run("DOCKER_BUILDKIT=0", "sh", "-c", build)
    machine.run("docker", "create", "--name", "theirs", "--label", "sesame.knock.clone=/", "used", "x")
    machine.run(str(this / "tools/clean"))
    assert "theirs" in machine.containers
    assert {"used", "unused"} & set(machine.run("docker", "images", "--format", "{{.Repository}}").split()) == {"used"}


def test_clean_removes_the_namespaces_of_dead_tests_only(machine: Machine) -> None:
    mine = Namespace("knock-c-00000000")
    mine.remove()
    name, _, maker = mine.name.partition(".")
    assert int(maker) == os.getpid()
    dead, alive = name + ".4194305", name + ".1"  # above the largest process ID there is: proc(5), pid_max
    for namespace in (dead, alive, "somebody-else"):
        machine.run("ip", "netns", "add", namespace)
    machine.run(str(machine.clone("this") / "tools/clean"))
    assert set(machine.run("ip", "netns", "list").split()) == {alive, "somebody-else"}
