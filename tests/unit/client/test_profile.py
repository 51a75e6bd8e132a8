# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Profiles: private, whole or not at all, and never half understood."""

from __future__ import annotations

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
