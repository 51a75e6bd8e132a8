# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Holding a host exactly at one step: a library that is preloaded into its programs waits where it is told (trap.c)."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from .hosts import Host, run

LIBRARY = "/usr/local/lib/fault-trap.so"
DIRECTORY = "/run/fault"
PATIENCE = 60.0


# What an earlier trap holds goes on once the new one is set: what comes next may come at once
SET = """
    mkdir -p -m 0777 $0
    held=
    if [ -e $0/go ]; then sleep 0.1; else held=$(cut -d ' ' -f 1 $0/reached 2>/dev/null); fi
    rm -f $0/trap $0/reached $0/go
    cat >$0/new && mv $0/new $0/trap
    if [ "$held" ]; then touch $0/go.$held; fi
"""


class NeverReached(Exception):
    """The host did not come to the step."""


def build(target: Path) -> Path:
    """Compile the library."""
    source = Path(__file__).with_name("trap.c")
    run("gcc", "-O2", "-shared", "-fPIC", "-o", str(target), str(source))
    return target


def install(host: Host, library: Path) -> None:
    """Let every program of a host load the library from now on. Without a trap it does nothing."""
    run("docker", "cp", str(library), "%s:%s" % (host.name, LIBRARY))
    host.shell("chmod 0755 %s && echo %s >/etc/ld.so.preload" % (LIBRARY, LIBRARY))


class Trap:
    """One hold on one host, at the first of the moments that comes. A reboot takes it away, as /run is gone."""

    def __init__(self, host: Host, moments: tuple[str, ...]) -> None:
        self.host = host
        self.moments = moments
        lines = "".join(line + "\n" for line in moments)
        # Renamed by a shell of the host, so that nothing sees half of it
        self.host.run(
            *("sh", "-c", SET, DIRECTORY),
            text=lines,
        )

    def is_reached(self) -> bool:
        return self.host.succeeds("test", "-e", DIRECTORY + "/reached")

    def wait(self, patience: float = PATIENCE) -> int:
        """Wait until something is held, and return its process."""
        script = "for i in $(seq %d); do [ -e %s/reached ] && exec cat %s/reached; sleep 0.05; done; exit 9"
        command = ("docker", "exec", self.host.name, "sh", "-c", script % (patience * 20, DIRECTORY, DIRECTORY))
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience * 3)
        if done.returncode:
            raise NeverReached("%s never came to %s" % (self.host.name, " or ".join(self.moments)))
        time.sleep(0.05)
        return int(done.stdout.split()[0])

    def release(self) -> None:
        """Let it go on, and hold nothing any more."""
        self.host.run("sh", "-c", "rm -f $0/trap; [ ! -d $0 ] || touch $0/go", DIRECTORY)
