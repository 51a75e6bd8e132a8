# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A second port for a real sshd: it is added, and no other port is ever lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..lab import SERVER, SERVER6, Lab, eventually
from .firewall_host import SshdHost

CONFIG = "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM no\n"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[SshdHost]:
    lab = Lab(tmp_path)
    try:
        lab.build()
        made = SshdHost(lab, tmp_path, "nft")
        try:
            yield made
        finally:
            made.remove()
    finally:
        lab.remove()


@pytest.mark.parametrize(
    ("lines", "before"),
    [
        ("", {22}),
        ("Port 22\n", {22}),
        ("Port 22\nPort 2022\n", {22, 2022}),
        ("ListenAddress %s\n" % SERVER, {22}),
        ("ListenAddress %s:22\nListenAddress [%s]:2022\n" % (SERVER, SERVER6), {22, 2022}),
        ("Port 443\nListenAddress 0.0.0.0\n", {443}),
    ],
    ids=["default", "named", "two", "address", "address-and-port", "another"],
)
def test_the_new_port_is_added_and_none_is_lost(host: SshdHost, lines: str, before: set[int]) -> None:
    host.start_sshd(CONFIG + lines)
    assert host.ports() == before
    answer = host.module("sshd_extra_port", port=2222)
    assert answer.get("changed"), answer
    assert host.ports() == before | {2222}
    assert not host.module("sshd_extra_port", port=2222)["changed"]


def test_it_listens_wherever_sshd_did(host: SshdHost) -> None:
    host.start_sshd(CONFIG + "ListenAddress %s:22\nListenAddress [%s]:2022\n" % (SERVER, SERVER6))
    host.module("sshd_extra_port", port=2222)
    assert host.lab.is_open(SERVER, port=2222)
    assert host.lab.is_open(SERVER6, port=2222)


def test_no_port_is_bound_twice(host: SshdHost) -> None:
    host.start_sshd(CONFIG + "Port 22\n")
    host.module("sshd_extra_port", port=2222)
    assert "Port 22\n" not in host.drop_ins()


def test_another_port_replaces_the_one_of_before(host: SshdHost) -> None:
    host.start_sshd(CONFIG)
    host.module("sshd_extra_port", port=2222)
    host.module("sshd_extra_port", port=3333)
    assert host.ports() == {22, 3333}


def test_absent_brings_back_what_was(host: SshdHost) -> None:
    host.start_sshd(CONFIG)
    host.module("sshd_extra_port", port=2222)
    answer = host.module("sshd_extra_port", state="absent")
    assert answer.get("changed"), answer
    assert host.ports() == {22}
    assert host.drop_ins() == ""
    assert not host.module("sshd_extra_port", state="absent")["changed"]


def test_check_mode_changes_nothing(host: SshdHost) -> None:
    host.start_sshd(CONFIG)
    assert host.module("sshd_extra_port", check=True, port=2222)["changed"]
    assert host.ports() == {22}
    assert host.drop_ins() == ""


@pytest.mark.parametrize(
    ("config", "port", "says"),
    [
        ("UsePAM no\n", 2222, "does /etc/ssh/sshd_config include"),
        (CONFIG, 22, "port 22 is taken"),
        (CONFIG, 70000, "70000 is not a port"),
    ],
    ids=["no-include", "taken", "no-port"],
)
def test_what_cannot_work_is_an_error_and_leaves_nothing(host: SshdHost, config: str, port: int, says: str) -> None:
    host.start_sshd(config)
    answer = host.module("sshd_extra_port", port=port)
    assert says in answer["msg"]
    eventually(lambda: host.ports() == {22}, "sshd listens as before")  # it may just start itself anew
    assert host.drop_ins() == ""


def test_a_port_of_another_program_is_left_to_it(host: SshdHost) -> None:
    host.start_sshd(CONFIG)
    host.lab.sshd(2222)
    assert "port 2222 is taken" in host.module("sshd_extra_port", port=2222)["msg"]
    assert host.drop_ins() == ""
