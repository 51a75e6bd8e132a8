#!/usr/bin/env python3
# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One long run of a case under atheris: `python campaign.py CASE COUNT DIRECTORY [LIBFUZZER OPTION...]`.

Coverage of the daemon's own files leads the mutations. It ends with COUNT tries done, or at the first failure, whose
input libFuzzer leaves in DIRECTORY. Inputs that reached something new stay in DIRECTORY/corpus for the next run.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

import atheris

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [os.fspath(ROOT), os.fspath(ROOT / "roles/knockd/files")]
with atheris.instrument_imports(include=["knockd"]):
    from tests.fuzz import cases

MOST_MEMORY = 100 << 20
"""Bytes that a run may grow by after its first tenth: libFuzzer's own corpus, and nothing of ours."""
SIGN_OF_LIFE = 30.0
"""Seconds."""


def resident() -> int:
    """Bytes of memory that this process holds (proc(5), statm)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def case(name: str) -> Callable[[bytes], int]:
    """What a name on the command line stands for."""
    place = Path(mkdtemp(prefix="sesame-fuzz-"))
    found: dict[str, Callable[[bytes], int]] = {
        "packets": cases.Host().packets,
        "configs": cases.configs,
        "guards": cases.guards,
        "once": cases.Once(place / "once").files,
        "control": cases.Desk(place / "control").messages,
        "netlink": cases.Wire().netlink,
    }
    return found[name]


def main(name: str, count: int, directory: Path, options: list[str]) -> None:
    corpus = directory / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    attempt = case(name)
    began = said = time.monotonic()
    done = inputs = base = 0

    def say(text: str) -> None:
        growth = (resident() - base) >> 20 if base else 0
        seconds = time.monotonic() - began
        print("%s: %d of %d in %.0f s, %d inputs, memory grew by %d MB%s"
              % (name, done, count, seconds, inputs, growth, text), flush=True)  # fmt: skip

    def one(data: bytes) -> None:
        nonlocal done, inputs, base, said
        done += attempt(data)
        inputs += 1
        if not base and done * 10 >= count:
            base = resident()
        if time.monotonic() - said > SIGN_OF_LIFE or done >= count:
            said = time.monotonic()
            assert not base or resident() - base < MOST_MEMORY, "memory grows without bound"
            if done >= count:
                say(": no failure")
                os._exit(0)  # libFuzzer takes every other way out for a crash
            say("")

    atheris.Setup(
        [name, "-max_len=600", "-len_control=0", "-print_final_stats=1", "-artifact_prefix=%s/" % directory, *options, str(corpus)], one
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
