# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tab after `knock`, in the shells themselves: names of profiles, options, and nothing that a name could run."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sesame_knock import knock

FILES = Path(__file__).parents[3] / "roles" / "knock_client" / "files"
COMPLETION = FILES / "completion"
Write = Callable[..., Path]
OPTIONS = re.findall(r"^  -(\w), --(\w+)", knock.USAGE, re.MULTILINE)
# A function as bash calls it: COMP_WORDS are not used, so the line is enough.
ASK = 'source "$1"; COMP_LINE=$2 COMP_POINT=${#2}; _knock "$3" x y; printf "%s\\n" "${COMPREPLY[@]}"'


@pytest.fixture(autouse=True)
def profiles(name_profile: Write) -> None:
    name_profile("web1", sequence="9", host="web1.example.org")
    name_profile("web2", sequence="9", host="web2.example.org")
    name_profile("fd00::17", sequence="9", host="fd00::17")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        **{name: os.environ[name] for name in ("XDG_CONFIG_HOME", "LANG") if name in os.environ},
        "PATH": "%s:%s" % (FILES, os.environ["PATH"]),
        "HOME": str(tmp_path),
        "TERM": "dumb",
    }


def bash(line: str, setup: str = "") -> list[str]:
    words = ["bash", "--norc", "-c", setup + ASK, "bash", str(COMPLETION / "knock.bash"), line, str(FILES / "knock")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert not done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("knock we", ["web1", "web2"]),
        ("knock --wait we", ["web1", "web2"]),
        ("knock --wait 22 we", ["web1", "web2"]),
        ("knock -v -d 5 web1", ["web1"]),
        ("knock web1 we", []),
        ("knock --wait web1 we", []),
        ("knock -p file we", []),
        ("knock -t we", []),
        ("knock --ch", ["--check"]),
        ("knock web1 --j", ["--json"]),
        ("knock fd00::1", ["17"]),
        ("knock fd", ["fd00::17"]),
    ],
)
def test_bash_offers_what_fits(line: str, offered: list[str]) -> None:
    assert bash(line) == offered


def test_bash_offers_hosts_after_a_profile(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("198.18.0.7 web7\n")
    known = "HOSTFILE=%s; " % (tmp_path / "hosts")
    assert bash("knock we", known) == ["web1", "web2", "web7"]
    assert bash("knock -p file we", known) == ["web7"]


def test_bash_offers_files_for_a_profile() -> None:
    assert bash("knock -p %s/knock.fi" % COMPLETION) == [str(COMPLETION / "knock.fish")]


def test_a_whole_word_is_offered_where_colons_do_not_part_words() -> None:
    assert bash("knock fd00::1", "COMP_WORDBREAKS=' '; ") == ["fd00::17"]


def test_a_name_is_not_run(name_profile: Write, tmp_path: Path) -> None:
    name_profile("weird$(touch${IFS}%s)" % str(tmp_path / "ran").replace("/", "${PWD:0:1}"), sequence="9")
    assert len(bash("knock weird")) == 1
    assert not (tmp_path / "ran").exists()


def test_every_option_is_offered() -> None:
    assert len(OPTIONS) > 10
    assert bash("knock --") == ["--" + long for _short, long in OPTIONS]
    for short, long in OPTIONS:
        assert "-s %s -l %s " % (short, long) in (COMPLETION / "knock.fish").read_text()
        zsh = r"\{-%s\+?,--%s(=-?)?\}'\[" % (short, long)
        assert re.search(zsh, (COMPLETION / "knock.zsh").read_text()), long


def type_in(words: list[str], setup: str, keys: str, until: str, environment: dict[str, str]) -> str:
    """Type into an interactive shell, and give what it shows from the keys on, when `until` is there."""
    process, terminal = pty.fork()
    if process == 0:
        os.execvpe(words[0], words, environment)
    seen = ""

    def read_to(pattern: str) -> None:
        nonlocal seen
        deadline = time.monotonic() + 60
        while not re.search(pattern, seen):
            assert time.monotonic() < deadline, seen
            if select.select([terminal], [], [], 0.2)[0]:
                seen += os.read(terminal, 65536).decode(errors="replace")

    try:
        os.write(terminal, (setup + "; echo rea''dy\n").encode())
        read_to("ready")
        seen = ""
        os.write(terminal, keys.encode())
        read_to(until)
    finally:
        os.kill(process, 9)
        os.waitpid(process, 0)
        os.close(terminal)
    return seen


def test_tab_in_bash(environment: dict[str, str]) -> None:
    setup = "source %s/knock.bash" % COMPLETION
    type_in(
        ["bash", "--norc", "--noprofile", "-i"], setup, "knock fd\t; echo en''d\n", "knock fd00::17 ; ", environment
    )
    type_in(["bash", "--norc", "--noprofile", "-i"], setup, "knock fd00::\t\n", "knock fd00::17 ", environment)


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not here")
def test_tab_in_zsh(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "_knock").symlink_to(COMPLETION / "knock.zsh")
    subprocess.run(["zsh", "-n", str(COMPLETION / "knock.zsh")], check=True)
    setup = "fpath=(%s $fpath); autoload -Uz compinit; compinit -u -D" % tmp_path
    type_in(["zsh", "-f", "-i"], setup, "knock --wait fd\t", r"fd00\\?::17 ", environment)
    type_in(["zsh", "-f", "-i"], setup, "knock -w fd\t", r"fd00\\?::17 ", environment)
    type_in(["zsh", "-f", "-i"], setup, "knock --wait 22 fd\t", r"fd00\\?::17 ", environment)
    type_in(["zsh", "-f", "-i"], setup, "knock --che\t", "--check ", environment)
    assert "web1.example.org" in type_in(["zsh", "-f", "-i"], setup, "knock we\t\t", "web2.example.org", environment)


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not here")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("knock we", ["web1\tweb1.example.org", "web2\tweb2.example.org"]),
        ("knock --wait we", ["web1\tweb1.example.org", "web2\tweb2.example.org"]),
        ("knock --wait 22 we", ["web1\tweb1.example.org", "web2\tweb2.example.org"]),
        ("knock web1 we", []),
        ("knock --wait web1 we", []),
        ("knock -t 5 fd", ["fd00::17\tfd00::17"]),
        ("knock --jso", ["--json\tSay how it went as one JSON object"]),
    ],
)
def test_fish_offers_what_fits(environment: dict[str, str], line: str, offered: list[str]) -> None:
    subprocess.run(["fish", "--no-execute", str(COMPLETION / "knock.fish")], check=True)
    words = [
        "fish",
        "--no-config",
        "-c",
        'source "$argv[1]"; complete -C "$argv[2]"',
        str(COMPLETION / "knock.fish"),
        line,
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines() == offered, done.stderr
