# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever installs packages is told to wait for others who do; tests/netns/test_package_locks.py sees it wait."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Iterator

import yaml

ROOT = Path(__file__).parents[2]
PLACES = ("bench", "molecule", "playbooks", "plugins", "roles", "tests", "tools")
FILES = [path for place in PLACES for path in sorted((ROOT / place).rglob("*")) if path.is_file()]
OPTION = "-o DPkg::Lock::Timeout=300 "
OTHERS_LOCKS = "is not search('^E: Could not get lock /var/lib/apt/|lock /var/cache/apt/|is locked by another process')"


def tasks(tree: Any) -> Iterator[dict[str, Any]]:
    """Each mapping of a playbook or a file of tasks that installs packages."""
    if isinstance(tree, list):
        for item in tree:
            yield from tasks(item)
    elif isinstance(tree, dict):
        if {"ansible.builtin.apt", "ansible.builtin.package", "apt"} & set(tree):
            yield tree
        for value in tree.values():
            yield from tasks(value)


FOUND = [
    (str(path.relative_to(ROOT)), task)
    for path in FILES
    if path.suffix in (".yml", ".yaml")
    for document in yaml.load_all(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    for task in tasks(document)
]


def test_each_task_waits() -> None:
    assert len(FOUND) >= 10
    for path, task in FOUND:
        assert task["ansible.builtin.apt"]["lock_timeout"] == "300", "%s: %s" % (path, task.get("name"))


def test_each_task_on_a_persons_host_tries_again_where_lock_timeout_does_not_help() -> None:
    for path, task in FOUND:
        if not path.startswith("molecule/"):
            assert task["until"].endswith(OTHERS_LOCKS), path
            assert int(task["retries"]) * int(task["delay"]) == 300, path


def test_each_apt_get_waits() -> None:
    commands = [
        ("%s: %s" % (path.relative_to(ROOT), line.strip()), match[1].startswith(OPTION))
        for path in FILES
        if path != Path(__file__)
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        for match in re.finditer(r"\bapt-get[\"']?,? (?=(.*))", line)
        if not re.match(r"\s*(#|die |say )", line)  # what is told to a person
    ]
    assert len(commands) >= 10
    # One that only asks needs no lock.
    assert [line for line, waits in commands if not waits] == [
        "playbooks/tasks/packages.yml: argv: [apt-get, --simulate, autoremove]"
    ]
