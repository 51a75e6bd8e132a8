# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The runtime directory and the profiles that are kept there: private, whole, and written once."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sesame_knock import _runtime as runtimes

from .conftest import FILES

GOOD = {"sequence": "4242:tcp,1717:udp,3131"}
LONG_AGO = time.time() - runtimes.KEPT - 60
LATELY = time.time() - runtimes.KEPT + 3600
OF_AN_EARLIER_VERSION = "0123456789abcdef" * 4


def keep(values: dict[str, str]) -> Path:
    """Keep what needs no check."""
    return Path(runtimes.keep_profile(values, lambda: values))


def test_a_kept_profile_is_private(runtime: Path) -> None:
    old = os.umask(0)
    try:
        path = keep(GOOD)
    finally:
        os.umask(old)
    assert path.parent == runtime
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text()) == GOOD


def test_the_same_profile_is_the_same_file_and_is_not_written_again(runtime: Path) -> None:
    path = keep(GOOD)
    before = path.stat()
    assert keep(dict(reversed(GOOD.items()))) == path
    assert path.stat().st_ino == before.st_ino
    assert keep({"sequence": "1"}) != path
    assert len(list(runtime.glob("*.json"))) == 2


def test_a_bad_profile_is_not_kept_and_a_kept_one_not_read_again(runtime: Path) -> None:
    def refuse() -> dict[str, str]:
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        runtimes.keep_profile(GOOD, refuse)
    assert not list(runtime.glob("*json*"))
    path = keep(GOOD)
    assert runtimes.keep_profile(GOOD, refuse) == str(path)


def test_a_runtime_directory_that_was_opened_up_is_closed(runtime: Path) -> None:
    runtime.mkdir(mode=0o755)
    keep(GOOD)
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o700


def test_a_link_in_the_place_of_the_runtime_directory_is_refused(runtime: Path, tmp_path: Path) -> None:
    runtime.symlink_to(tmp_path)
    with pytest.raises(runtimes.RuntimeDirectoryError, match="of your own"):
        keep(GOOD)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories away")
def test_the_runtime_directory_of_someone_else_is_not_used(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(runtime.parent, 65534, 65534)
    monkeypatch.setenv("HOME", str(runtime.parent.parent))
    assert keep(GOOD).parent == runtime.parent.parent / ".cache" / "sesame-knock"


# Names


def test_a_name_tells_nothing_of_the_sequence(runtime: Path) -> None:
    """Else the name, which is in lists of processes, could be searched for: it would be a function of it alone."""
    first, stamp = keep(GOOD).name, Path(runtimes.secret_path("4242:tcp", ".stamp")).name
    for path in runtime.iterdir():
        path.unlink()
    assert {keep(GOOD).name, Path(runtimes.secret_path("4242:tcp", ".stamp")).name}.isdisjoint({first, stamp})


def test_the_key_is_random_and_private(runtime: Path) -> None:
    keep(GOOD)
    key = runtime / "key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    first = key.read_bytes()
    key.unlink()
    keep(GOOD)
    assert len(first) == len(key.read_bytes()) == 32
    assert first != key.read_bytes()


def test_forks_that_start_at_the_same_time_make_one_key(runtime: Path) -> None:
    """The names of the same profile are one then."""
    gate = runtime.parent / "gate"
    code = "import os, time; from sesame_knock._runtime import keep_profile\n"
    code += "while not os.path.exists(%r): pass\n" % str(gate)
    code += "print(keep_profile(%r, dict))" % GOOD
    words = [sys.executable, "-c", code]
    children = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=FILES) for _ in range(16)]
    time.sleep(1)
    gate.touch()
    assert len({child.communicate(timeout=60)[0] for child in children}) == 1
    assert sorted(path.name for path in runtime.iterdir() if path.suffix != ".json") == ["key"]


@pytest.mark.parametrize("damaged", [b"", b"short"])
def test_a_damaged_key_is_made_anew(runtime: Path, damaged: bytes) -> None:
    runtime.mkdir(mode=0o700)
    (runtime / "key").write_bytes(damaged)
    assert keep(GOOD) == keep(GOOD)
    assert len((runtime / "key").read_bytes()) == 32


def test_without_hard_links_there_is_a_key_too(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert keep(GOOD) == keep(GOOD)
    assert sorted(path.name for path in runtime.iterdir() if path.suffix != ".json") == ["key"]


# What nobody uses does not stay


def age(path: Path, when: float) -> Path:
    path.touch(mode=0o600)
    os.utime(path, (when, when))
    return path


def sweep_is_due(runtime: Path) -> None:
    age(runtime / "key", time.time() - runtimes.SWEPT_EVERY - 60)


def test_what_nobody_used_for_a_week_is_removed_and_nothing_else(runtime: Path) -> None:
    kept, old = keep(GOOD), keep({"sequence": "1"})
    names = (OF_AN_EARLIER_VERSION + ".json", OF_AN_EARLIER_VERSION + ".stamp", old.stem + ".json.4711", "key.12ab")
    for name in names:
        age(runtime / name, LONG_AGO)
    age(old, LONG_AGO)
    age(kept, LATELY)
    others = [age(runtime / name, LONG_AGO) for name in ("jump-0123456789abcdef.lock", "mine.json", "keys", "compiled")]
    lately = age(runtime / (old.stem[::-1] + ".json"), LATELY)
    sweep_is_due(runtime)
    assert keep(GOOD) == kept
    assert {*runtime.iterdir()} == {kept, lately, runtime / "key", *others}


def test_whoever_uses_a_profile_keeps_it(runtime: Path) -> None:
    """Also where it was nearly too old: the lookup of a task, and the ssh that it starts."""
    kept = keep(GOOD)
    age(kept, LONG_AGO)
    sweep_is_due(runtime)
    assert keep(GOOD) == kept
    assert kept.exists()
    age(kept, LONG_AGO)
    words = [sys.executable, "-IS", str(FILES / "knock-proxy"), str(kept), "host.invalid", "22"]
    subprocess.run(words, capture_output=True, check=False)
    sweep_is_due(runtime)
    keep({"sequence": "1"})
    assert kept.exists()


def test_the_profiles_of_the_role_keep_their_time(tmp_path: Path) -> None:
    path = tmp_path / "web1.json"
    path.write_text(json.dumps(GOOD))
    age(path, LONG_AGO).chmod(0o600)
    words = [sys.executable, "-IS", str(FILES / "knock-proxy"), str(path), "host.invalid", "22"]
    assert subprocess.run(words, capture_output=True, check=False).returncode == 3
    assert path.stat().st_mtime == pytest.approx(LONG_AGO, abs=1)


def test_nothing_is_removed_while_someone_looks(runtime: Path) -> None:
    """Between the moment in which a profile is found and the one in which it is renewed, it is not removed."""
    keep(GOOD)
    old = age(runtime / (OF_AN_EARLIER_VERSION + ".json"), LONG_AGO)
    sweep_is_due(runtime)
    with (runtime / "key").open("rb") as key:
        fcntl.flock(key, fcntl.LOCK_SH)
        keep(GOOD)
        assert old.exists()
    keep(GOOD)
    assert not old.exists()


def test_a_stamp_that_is_held_is_not_removed(runtime: Path) -> None:
    keep(GOOD)
    stamp = age(runtime / (OF_AN_EARLIER_VERSION + ".stamp"), LONG_AGO)
    with stamp.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        sweep_is_due(runtime)
        keep(GOOD)
        assert stamp.exists()


def test_a_fleet_is_not_swept_for_each_host(runtime: Path) -> None:
    keep(GOOD)
    old = age(runtime / (OF_AN_EARLIER_VERSION + ".json"), LONG_AGO)
    keep({"sequence": "1"})
    assert old.exists()
