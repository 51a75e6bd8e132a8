# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Profiles: private, whole or not at all, and never half understood."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from sesame_knock import _profile as profiles

GOOD = {"sequence": "4242:tcp,1717:udp,3131"}


def test_a_profile_is_what_it_says(write_profile: Callable[..., Path]) -> None:
    path = write_profile(
        sequence="1:tcp,2:udp", previous="3", delay_ms=20, timeout=4, family="ipv6", bind="::1", host="web1", port=2222
    )
    profile = profiles.read_profile(str(path))
    assert [[str(knock) for knock in knocks] for knocks in profile.sequences] == [["1/tcp", "2/udp"], ["3/tcp"]]
    assert profile[1:7] == (0.02, 4.0, "ipv6", "::1", "web1", 2222)


def test_only_the_sequence_is_required(write_profile: Callable[..., Path]) -> None:
    assert len(profiles.read_profile(str(write_profile(**GOOD))).sequences) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_profile_that_others_can_read_is_refused(write_profile: Callable[..., Path], mode: int) -> None:
    path = write_profile(**GOOD)
    path.chmod(mode)
    with pytest.raises(profiles.ProfileError, match="chmod 600"):
        profiles.read_profile(str(path))


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({}, "no sequence"),
        ({"sequence": "70000"}, "70000"),
        ({**GOOD, "jumps": "b"}, "jumps"),
        ({**GOOD, "family": "ipx"}, "family"),
        ({**GOOD, "timeout": "soon"}, "timeout"),
        ({**GOOD, "timeout": 0}, "timeout"),
        ({**GOOD, "delay_ms": -1}, "delay_ms"),
        ({**GOOD, "host": "-oProxyCommand=x"}, "host"),
        ({**GOOD, "host": "two words"}, "host"),
        ({**GOOD, "host": "es\x1bcape"}, "host"),
        ({**GOOD, "host": 7}, "host"),
        ({**GOOD, "port": 0}, "port"),
        ({**GOOD, "port": 65536}, "port"),
        ({**GOOD, "port": "22"}, "port"),
        ({**GOOD, "port": True}, "port"),
    ],
)
def test_a_mistake_is_named_with_the_file(write_profile: Callable[..., Path], values: dict, word: str) -> None:
    path = write_profile(**values)
    with pytest.raises(profiles.ProfileError, match=word) as failure:
        profiles.read_profile(str(path))
    assert str(path) in str(failure.value)
    assert "4242" not in str(failure.value)


def test_what_is_no_json_is_told_without_its_text(tmp_path: Path) -> None:
    path = tmp_path / "profile"
    path.write_text('{"sequence": "4242"')
    path.chmod(0o600)
    with pytest.raises(profiles.ProfileError, match="not JSON") as failure:
        profiles.read_profile(str(path))
    assert "4242" not in str(failure.value)


def test_a_kept_profile_is_private(runtime: Path) -> None:
    old = os.umask(0)
    try:
        path = Path(profiles.keep_profile(GOOD))
    finally:
        os.umask(old)
    assert path.parent == runtime
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text()) == GOOD


def test_the_same_profile_is_the_same_file_and_is_not_written_again(runtime: Path) -> None:
    path = Path(profiles.keep_profile(GOOD))
    before = path.stat()
    assert profiles.keep_profile(dict(reversed(GOOD.items()))) == str(path)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert profiles.keep_profile({"sequence": "1"}) != str(path)
    assert len(list(runtime.iterdir())) == 2


def test_a_bad_profile_is_not_kept(runtime: Path) -> None:
    with pytest.raises(profiles.ProfileError):
        profiles.keep_profile({"sequence": "abc"})
    assert not list(runtime.iterdir())


def test_a_runtime_directory_that_was_opened_up_is_closed(runtime: Path) -> None:
    runtime.mkdir(mode=0o755)
    profiles.keep_profile(GOOD)
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o700


def test_a_link_in_the_place_of_the_runtime_directory_is_refused(runtime: Path, tmp_path: Path) -> None:
    runtime.symlink_to(tmp_path)
    with pytest.raises(profiles.ProfileError, match="of your own"):
        profiles.keep_profile(GOOD)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories away")
def test_the_runtime_directory_of_someone_else_is_not_used(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(runtime.parent, 65534, 65534)
    monkeypatch.setenv("HOME", str(runtime.parent.parent))
    assert Path(profiles.keep_profile(GOOD)).parent == runtime.parent.parent / ".cache" / "sesame-knock"
