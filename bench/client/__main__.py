# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure the client beside plain ssh and the article's way: `python -m bench.client RESULTS.json`, as root.

The exit status is 1 if an aim is missed. A full run also renews its part of docs/benchmarks.md.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.netns.lab import clean_up_when_ended

from ..place import CORES, compile_tools
from .measures import FULL, QUICK, Bench
from .report import facts, missed, table
from .results import Results

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def machine(quick: bool) -> dict[str, str]:
    """What the figures depend on."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    told = {
        "machine": "%s, %d cores" % (model[1] if model else platform.machine(), len(CORES)),
        "kernel": platform.release(),
        "load before": "%.2f: on a busy machine all figures suffer" % os.getloadavg()[0],
        "client": "%s, %s, commit %s"
        % (_said("/usr/bin/python3", "--version"), _said("ssh", "-V"), _said("git", "rev-parse", "--short", "HEAD")),
        "began": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }
    if quick:
        told["quick"] = "shows that everything works; too short to measure well"
    return told


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip().splitlines()[0]


def document(results: Results) -> None:
    """Put facts and table where docs/benchmarks.md has its marks."""
    text = DOCS.read_text()
    before, begin, rest = text.partition("<!-- what `make bench-client` has measured -->\n")
    end = rest[rest.index("<!-- until here -->") :]
    told = "\n".join("- " + fact.strip() for fact in facts(results))
    picture = "![The client beside plain ssh and the article's way](bench-client.svg)"
    DOCS.write_text("%s%s\n%s\n\n%s\n\n%s\n\n%s" % (before, begin, told, table(results), picture, end))


def main(path: Path) -> int:
    """Run all, write the results, print the table."""
    clean_up_when_ended()
    quick = bool(os.environ.get("BENCH_QUICK"))
    effort = QUICK if quick else FULL
    size = os.environ.get("BENCH_SIZE")
    if size:
        effort = effort._replace(size=round(float(size) * 10**6))
    results = Results(machine(quick))
    with tempfile.TemporaryDirectory(prefix="knock-bench-") as tools:
        compile_tools(Path(tools))
        Bench(Path(tools), effort, results, say=lambda text: print(text, flush=True)).run()
    results.save(path)
    print("", *facts(results), "", table(results), "", sep="\n")
    if effort == FULL:
        document(results)
    misses = missed(results)
    for measure in misses:
        print("MISSED: %s" % measure)
    return bool(misses)


sys.exit(main(Path(sys.argv[1])))
