# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure the daemon beside its peers: `python -m bench RESULTS.json`, as root, from the checkout's top directory."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.netns.lab import clean_up_when_ended, python

from .measures import FULL, QUICK, Bench
from .place import CORES, HOST, WORLD, compile_tools
from .report import table
from .results import Results


def machine(quick: bool) -> dict[str, str]:
    """What the figures depend on."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    facts = {
        "machine": "%s, %d cores" % (model[1] if model else platform.machine(), len(CORES)),
        "kernel": platform.release(),
        "pinned": "generator and clients to core %d, daemons to core %d" % (WORLD, HOST),
        "load before": "%.2f: on a busy machine all figures suffer" % os.getloadavg()[0],
        "daemon": "%s, commit %s" % (_said(python(), "--version"), _said("git", "rev-parse", "--short", "HEAD")),
        "peers": "; ".join(_said(*command) for command in (["knockd", "-V"], ["fwknopd", "-V"], ["nft", "--version"])),
        "began": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }
    if quick:
        facts["quick"] = "shows that everything works; too short to measure well"
    return facts


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip().splitlines()[0]


def main(path: Path) -> None:
    """Run all, write the results, print the table."""
    clean_up_when_ended()
    quick = bool(os.environ.get("BENCH_QUICK"))
    results = Results(machine(quick))
    with tempfile.TemporaryDirectory(prefix="knock-bench-") as tools:
        compile_tools(Path(tools))
        Bench(Path(tools), QUICK if quick else FULL, results, say=lambda text: print(text, flush=True)).run()
    results.save(path)
    print(table(results))


main(Path(sys.argv[1]))
