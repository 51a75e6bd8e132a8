# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module snapshot on a host with systemd: whatever ends a run before its proof, the previous files come back."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from .test_installed import HOST, INVENTORY, bare_host, on_host

__all__ = ("bare_host",)

UNIT = """[Service]
ExecStartPre=/bin/cp /etc/toy.conf /run/toy.runs
ExecStart=/bin/sleep infinity
"""
PATHS = ["/etc/toy.conf", "/etc/toy.d", "/etc/toy.new"]
NEW = "echo new >/etc/toy.conf; echo new >/etc/toy.d/part; echo new >/etc/toy.new; chmod 644 /etc/toy.conf"


def snapshot(state: str, **arguments: Any) -> dict[str, Any]:
    """What the module answers."""
    given = json.dumps({"state": state, **arguments})
    command = ["ansible", "-i", str(INVENTORY), HOST, "-b", "-m", "sesame.knock.snapshot", "-a", given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd="/", env={**os.environ})
    answer = re.search(r"=> (\{.*\})", done.stdout, re.DOTALL)
    assert answer, done.stdout + done.stderr
    return dict(json.loads(answer[1]))


def keep() -> dict[str, Any]:
    return snapshot("kept", paths=PATHS, unit="toy.service")


@pytest.fixture
def toy() -> Iterator[None]:
    """A service that runs with its old files."""
    on_host("printf '%s' >/etc/systemd/system/toy.service" % UNIT.replace("\n", "\\n"))
    on_host("mkdir -p /etc/toy.d; rm -f /etc/toy.new; echo old >/etc/toy.conf; echo old >/etc/toy.d/part")
    on_host("chmod 600 /etc/toy.conf")
    on_host("systemctl daemon-reload; systemctl restart toy")
    try:
        yield
    finally:
        assert snapshot("absent")["kept"] is False
        on_host("systemctl stop toy; rm -rf /etc/systemd/system/toy.service /etc/toy.*; systemctl daemon-reload")


def seen() -> str:
    """Which files there are, and with which the service runs."""
    return on_host(
        "cat /etc/toy.conf /etc/toy.d/part /run/toy.runs; stat -c %a /etc/toy.conf; systemctl is-active toy;"
        "ls /etc/toy.new /var/lib/sesame-knock/previous/restore 2>/dev/null || true"
    )


OLD = "old\nold\nold\n600\nactive\n"


def test_the_snapshot_is_roots_alone_and_its_files_come_back_with_their_modes(toy: None) -> None:
    assert keep()["kept"]
    assert on_host("stat -c %a /var/lib/sesame-knock/previous") == "700\n"
    assert on_host("find /var/lib/sesame-knock/previous -type f -perm /077") == ""
    on_host(NEW + "; systemctl restart toy")
    assert snapshot("restored")["changed"]
    assert seen() == OLD


def test_the_timer_brings_them_back_and_who_comes_too_late_hears_of_it(toy: None) -> None:
    keep()
    on_host(NEW)
    snapshot("armed", seconds=1)
    on_host("systemctl restart toy")
    deadline = time.monotonic() + 60
    while seen() != OLD and time.monotonic() < deadline:
        time.sleep(0.5)
    assert seen() == OLD
    assert "put back the previous ones" in snapshot("proven")["msg"]


def test_a_run_that_ended_anywhere_before_the_proof_is_undone_by_the_next_one(toy: None) -> None:
    keep()
    on_host(NEW)  # and not even the service was restarted
    assert keep()["kept"]
    assert seen() == OLD + "/var/lib/sesame-knock/previous/restore\n"
    on_host(NEW)
    snapshot("armed", seconds=600)
    keep()
    assert seen() == OLD + "/var/lib/sesame-knock/previous/restore\n"
    assert "knockd-restore.timer" not in on_host("systemctl list-timers --all")


def test_what_is_proven_is_what_the_next_run_keeps(toy: None) -> None:
    keep()
    on_host(NEW + "; systemctl restart toy")
    snapshot("armed", seconds=600)
    assert "msg" not in snapshot("proven")
    assert "knockd-restore.timer" not in on_host("systemctl list-timers --all")
    keep()
    on_host("echo newer >/etc/toy.conf")
    snapshot("restored")
    assert seen() == "new\nnew\nnew\n644\nactive\n/etc/toy.new\n"


def test_a_boot_brings_them_back_before_they_are_used(toy: None) -> None:
    keep()
    on_host(NEW + "; systemctl enable --quiet toy 2>/dev/null || true")
    subprocess.run(["docker", "restart", "--time", "0", HOST], check=True, capture_output=True)
    deadline = time.monotonic() + 60
    while "previous" in on_host("ls /var/lib/sesame-knock || true") and time.monotonic() < deadline:
        time.sleep(0.5)
    on_host("for i in $(seq 50); do systemctl is-active --quiet toy && break; sleep 0.2; done")
    assert seen() == OLD


def test_nothing_is_kept_of_a_service_that_does_not_run(toy: None) -> None:
    on_host("systemctl stop toy")
    assert not keep()["kept"]
    assert not snapshot("restored")["changed"]
    assert on_host("ls -A /var/lib/sesame-knock/previous 2>/dev/null || true") == ""
