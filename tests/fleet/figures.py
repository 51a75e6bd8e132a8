# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The measured figures of docs/fleet.md: `make fleet-figures`, as root, on a machine that does nothing else.

Ansible's own work is counted in seconds of a processor, since the hosts share the machine with it: what their tasks
cost here, other machines do in a real fleet.
"""

from __future__ import annotations

import contextlib
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Callable

from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template

from ..netns.lab import clean_up_when_ended
from .conftest import HOSTS
from .controller import ONE_LINE, Controller, Task
from .fleet import Fleet

RAW: Task = {"ansible.builtin.raw": "true"}
TASKS = 10
KNOCK_PROXY = Path(__file__).parents[2] / "roles" / "knock_client" / "files" / "knock-proxy"


def controller_seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Processor seconds of the commands that this work starts and waits for, and how long it takes."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime), time.monotonic() - begin


class Memory:
    """The memory that each process of Ansible has for itself (Pss), at its highest."""

    def __init__(self) -> None:
        self.most: dict[int, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError, StopIteration):
                    if b"ansible\0playbook" not in (process / "cmdline").read_bytes():
                        continue
                    lines = (process / "smaps_rollup").read_text().splitlines()
                    size = int(next(line for line in lines if line.startswith("Pss:")).split()[1])
                    self.most[int(process.name)] = max(size, self.most.get(int(process.name), 0))


def knock_milliseconds(fleet: Fleet) -> tuple[float, float]:
    """Medians of a login on a host with a door, and of one on a host without."""
    profile = fleet.directory / "profile.json"
    profile.touch(mode=0o600)
    profile.write_text('{"sequence": "%s"}' % fleet.hosts[0].sequence)
    options = ["-F", "none", "-i", str(fleet.key), "-o", "UserKnownHostsFile=%s" % fleet.known_hosts]
    proxy = ["-o", "ProxyCommand=%s %s %%h %%p" % (KNOCK_PROXY, profile), "-o", "ProxyUseFdpass=yes"]
    times: dict[str, list[float]] = {"knocked": [], "plain": []}
    for _ in range(30):
        for kind, host, more in (("knocked", fleet.hosts[0], proxy), ("plain", fleet.plain, [])):
            begin = time.monotonic()
            command = fleet.controller.command("ssh", *options, *more, "root@" + host.address, "true")
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
            times[kind].append((time.monotonic() - begin) * 1000)
    return statistics.median(times["knocked"]), statistics.median(times["plain"])


def line_milliseconds() -> float:
    """Processor time that a task's fork needs for the one line of group_vars, which loads the lookup: the median."""
    init_plugin_loader([])
    variables = {"inventory_hostname": "web1", "knock_sequence": "4242,1717:udp,3131"}

    def template(text: str) -> None:
        Templar(loader=DataLoader(), variables=variables).template(trust_as_template(text))

    template("{{ inventory_hostname }}")  # what Ansible itself has loaded before it forks
    times = []
    for _ in range(30):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            begin = time.process_time()
            template(ONE_LINE)
            os.write(writer, str(time.process_time() - begin).encode())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(writer)
        with os.fdopen(reader) as said:
            times.append(float(said.read()) * 1000)
    return statistics.median(times[1:])  # the first one writes the profile


def main() -> None:
    clean_up_when_ended()
    fleet = Fleet(HOSTS)
    try:
        begin = time.monotonic()
        fleet.build()
        print("%d hosts are up after %.1f s" % (HOSTS, time.monotonic() - begin))
        print("a login: %.0f ms with its knock, %.0f ms without" % knock_milliseconds(fleet))
        controller = Controller(fleet)
        forks = "--forks %d" % HOSTS

        def play(count: int) -> None:
            controller.play(fleet.hosts, *[RAW] * count, options=forks).succeeds()
            controller.hang_up()

        with Memory() as memory:
            one, wall_one = controller_seconds(lambda: play(1))
            many, wall_many = controller_seconds(lambda: play(1 + TASKS))
        sizes = sorted(memory.most.values())
        print("a play of one task: %.1f s, %.2f processor seconds a host" % (wall_one, one / HOSTS))
        print(
            "each further task: %.1f s, %.3f processor seconds a host"
            % ((wall_many - wall_one) / TASKS, (many - one) / TASKS / HOSTS)
        )
        print("of a task, what evaluating ssh_args costs: %.1f ms of a processor" % line_milliseconds())
        print(
            "memory: a fork %.1f MB (median), Ansible itself %.0f MB" % (sizes[len(sizes) // 2] / 1e3, sizes[-1] / 1e3)
        )
        print("%d processors, Python %s, load %.1f" % (os.cpu_count() or 1, sys.version.split()[0], os.getloadavg()[0]))
    finally:
        fleet.remove()


if __name__ == "__main__":
    main()
