# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One-time sequences: each opens once, whatever else is in the file."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knockd import one_time
from knockd.sequence import parse_sequence

ONE, TWO, THREE = (parse_sequence(text) for text in ("20113,11873:udp,28391", "5,9,7", "31,12,25"))
FILE = b"# for alice\n 20113,11873:udp,28391\n\n 5,9,7\n31,12,25\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "sequences"
    file.write_bytes(FILE)
    return file


def test_the_first_unused_line_counts(path: Path) -> None:
    assert one_time.supply(str(path)) == one_time.Supply(ONE, 3, ())


def test_sequences_are_used_up_in_order_and_then_there_are_none(path: Path) -> None:
    assert one_time.consume(str(path), ONE) == one_time.Supply(TWO, 2, ())
    assert one_time.consume(str(path), TWO) == one_time.Supply(THREE, 1, ())
    assert one_time.consume(str(path), THREE) == one_time.Supply((), 0, ())
    assert one_time.supply(str(path)) == one_time.Supply((), 0, ())


def test_a_used_line_has_a_hash_in_place_of_its_first_character_as_in_c_knockd(path: Path) -> None:
    one_time.consume(str(path), ONE)
    one_time.consume(str(path), THREE)
    assert path.read_bytes() == b"# for alice\n#20113,11873:udp,28391\n\n 5,9,7\n#1,12,25\n"


def test_the_file_keeps_its_owner_its_mode_and_its_links(path: Path, tmp_path: Path) -> None:
    path.chmod(0o640)
    os.link(path, tmp_path / "link")
    before = path.stat()
    one_time.consume(str(path), ONE)
    after = path.stat()
    assert (after.st_ino, after.st_mode, after.st_uid, after.st_gid) == (
        before.st_ino,
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )
    assert sorted(os.listdir(tmp_path)) == ["link", "sequences"]


@pytest.mark.parametrize("bad", [b"80:sctp,1", b"70000", b"\xff\xfe", b"1,,2", b"20113 11873 28391", b"=", b"1 2"])
def test_a_bad_line_is_skipped_with_a_warning_and_revives_nothing(path: Path, bad: bytes) -> None:
    path.write_bytes(bad + b"\n" + FILE + bad + b"\n")
    assert one_time.supply(str(path)).sequence == ONE
    left = one_time.consume(str(path), ONE)
    assert left.sequence == TWO
    assert path.read_bytes().startswith(bad + b"\n# for alice\n#20113")
    assert [warning.split(":")[1] for warning in left.warnings] == ["1", "7"]
    assert "11873" not in "".join(left.warnings)


def test_a_second_copy_of_a_used_sequence_is_used_as_well(path: Path) -> None:
    path.write_bytes(FILE + b"20113:tcp, 11873:udp ,28391:tcp # again\r\n")
    one_time.consume(str(path), ONE)
    assert one_time.consume(str(path), TWO).sequence == THREE
    assert one_time.consume(str(path), THREE).sequence == ()


def test_windows_line_ends_and_comments_do_not_matter(path: Path) -> None:
    path.write_bytes(b" 5,9,7 # bob\r\n 31,12,25\r\n")
    assert one_time.consume(str(path), TWO) == one_time.Supply(THREE, 1, ())
    assert path.read_bytes() == b"#5,9,7 # bob\r\n 31,12,25\r\n"


@pytest.mark.parametrize("content", [b"", b"\n", b"#", b"# 5,9,7", b" # 5,9,7"])
def test_a_file_without_sequences_has_none(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert one_time.supply(str(path)) == one_time.Supply((), 0, ())
    assert one_time.consume(str(path), ONE) == one_time.Supply((), 0, ())
    assert path.read_bytes() == content


def test_a_lock_that_somebody_holds_does_not_hang_the_daemon(path: Path) -> None:
    with open(path, "rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_EX)
        assert one_time.consume(str(path), ONE).sequence == TWO


def test_what_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        one_time.consume(str(tmp_path / "missing"), ONE)
    with pytest.raises(OSError, match="missing"):
        one_time.supply(str(tmp_path / "missing"))


@given(st.lists(st.one_of(st.sampled_from((b" 5,9,7", b"31,12,25", b"20113,11873:udp,28391")), st.binary(max_size=12))))
def test_no_sequence_ever_comes_twice(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(b"\n".join(lines))
    seen = []
    left = one_time.supply(str(path))
    while left.sequence:
        assert left.sequence not in seen
        seen.append(left.sequence)
        left = one_time.consume(str(path), left.sequence)
    assert left.left == 0
