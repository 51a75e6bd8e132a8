# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The runtime directory and the profiles that are kept there: private, whole, and written once."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from sesame_knock import _runtime as runtimes

GOOD = {"sequence": "4242:tcp,1717:udp,3131"}


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
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert keep({"sequence": "1"}) != path
    assert len(list(runtime.iterdir())) == 2


def test_a_bad_profile_is_not_kept_and_a_kept_one_not_read_again(runtime: Path) -> None:
    def refuse() -> dict[str, str]:
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        runtimes.keep_profile(GOOD, refuse)
    assert not list(runtime.iterdir())
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
