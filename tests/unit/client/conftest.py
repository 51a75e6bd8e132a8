# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Doors, profiles, and commands that run from this checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .door import Door

ROOT = Path(__file__).parents[3]
FILES = ROOT / "roles" / "knock_client" / "files"


@pytest.fixture
def make_door() -> Iterator[Callable[..., Door]]:
    made: list[Door] = []

    def make(**options: Any) -> Door:
        made.append(Door(**options))
        return made[-1]

    yield make
    for door in made:
        door.remove()


@pytest.fixture
def door(make_door: Callable[..., Door]) -> Door:
    return make_door()


@pytest.fixture
def write_profile(tmp_path: Path) -> Callable[..., Path]:
    def write(**values: Any) -> Path:
        path = tmp_path / "profile.json"
        path.write_text(json.dumps(values))
        path.chmod(0o600)
        return path

    return write


@pytest.fixture
def name_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a profile that has a name."""
    folder = tmp_path / "config" / "sesame-knock"
    folder.mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder.parent))

    def write(name: str, **values: Any) -> Path:
        path = folder / (name + ".json")
        path.write_text(json.dumps(values))
        path.chmod(0o600)
        return path

    return write


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `knock` or `knock-proxy` from the checkout."""

    def run(name: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        words = [str(FILES / name), *map(str, arguments)]
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, **options)

    return run


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The runtime directory of this test; its path has a blank and a percent sign."""
    base = tmp_path / "run 100%"
    base.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
    return base / "sesame-knock"


@pytest.fixture
def ansible(tmp_path: Path, runtime: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command of the real ansible, which finds the collection in this checkout."""
    tree = tmp_path / "collections" / "ansible_collections" / "sesame"
    tree.mkdir(parents=True)
    (tree / "knock").symlink_to(ROOT)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
        "ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections"),
        "ANSIBLE_HOME": str(tmp_path / "ansible"),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
        "ANSIBLE_HOST_KEY_CHECKING": "false",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_PIPELINING": "true",
    }

    def run(name: str, *arguments: object, world: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
        words = [str(Path(sys.executable).parent / name), *map(str, arguments)]
        if world:  # commands of root that make its own view of the files, first
            root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
            words = ["unshare", *root, "--mount", "sh", "-ec", world + '\nexec "$@"', "sh", *words]
        return subprocess.run(
            words,
            env={**environment, **extra},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run
