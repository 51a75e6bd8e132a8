# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The control socket: one line asks, one line answers, and no client can hold up or swell the daemon."""

from __future__ import annotations

import json
import selectors
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knockd.console import read_close, read_open
from knockd.control import BACKLOG, CLIENTS, PATIENCE, REQUEST, Control, ControlError
from knockd.model import Door, PortRange
from knockd.sequence import parse_sequence


class Loop:
    """An event loop with nothing but a control socket in it, and clients beside it."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "control")
        self.selector = selectors.DefaultSelector()
        self.answer: object = "fine"
        self.asked: list[dict[str, Any]] = []
        self.control = Control(self.selector, self._answer)
        self.control.listen(self.path)
        self.clients: list[socket.socket] = []

    def _answer(self, request: dict[str, Any]) -> object:
        self.asked.append(request)
        return self.answer

    def turn(self) -> None:
        """Handle all that waits now."""
        while events := self.selector.select(0):
            for key, _events in events:
                key.data(key.fileobj)

    def client(self, data: bytes = b"") -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(10)
        client.connect(self.path)
        self.clients.append(client)
        client.sendall(data)
        self.turn()
        return client

    def said(self, data: bytes, hang_up: bool = False) -> dict[str, Any]:
        """The answer to these bytes."""
        client = self.client(data)
        if hang_up:
            client.shutdown(socket.SHUT_WR)
        self.turn()
        answer: dict[str, Any] = json.loads(rest(client))
        return answer

    def close(self) -> None:
        self.control.close()
        for client in self.clients:
            client.close()
        self.selector.close()


def rest(client: socket.socket) -> bytes:
    """All that the daemon sends until it hangs up."""
    data = b""
    try:
        while more := client.recv(65536):
            data += more
    except ConnectionResetError:
        pass  # it did not even read what we have said
    return data


def is_gone(client: socket.socket) -> bool:
    """Whether the daemon has hung up."""
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True
    except BlockingIOError:
        return False


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    made = Loop(tmp_path)
    yield made
    made.close()


def test_a_request_is_answered_and_the_connection_ends(loop: Loop) -> None:
    loop.answer = {"doors": ["ssh"]}
    assert loop.said(b'{"command":"status"}\n') == {"ok": {"doors": ["ssh"]}}
    assert loop.asked == [{"command": "status"}]
    assert loop.control.next_deadline() is None


def test_a_request_may_come_in_pieces(loop: Loop) -> None:
    client = loop.client(b'{"comma')
    client.sendall(b'nd":"status"}\n')
    loop.turn()
    assert json.loads(rest(client)) == {"ok": "fine"}


def test_what_the_daemon_refuses_is_an_error(tmp_path: Path) -> None:
    loop = Loop(tmp_path)

    def refuse(_request: dict[str, Any]) -> object:
        raise ControlError("no: not today")

    loop.control._answer = refuse
    assert loop.said(b'{"command":"open"}\n') == {"error": "no: not today"}
    loop.close()


@pytest.mark.parametrize(
    "garbage", [b"\n", b"status\n", b"[]\n", b"{}\n", b'{"command":1}\n', b"\xff\xfe\0\n", b"[" * 4000 + b"\n"]
)
def test_garbage_is_one_clear_error(loop: Loop, garbage: bytes) -> None:
    assert loop.said(garbage) == {"error": 'the request is no JSON object with a "command"'}
    assert not loop.asked


def test_too_long_a_request_is_an_error_as_soon_as_it_is(loop: Loop) -> None:
    assert "longer than %d bytes" % REQUEST in loop.said(b"x" * (REQUEST + 1))["error"]
    assert "longer than %d bytes" % REQUEST in loop.said(b"x" * (REQUEST + 1) + b"\n")["error"]


def test_half_a_request_is_an_error_when_its_client_hangs_up(loop: Loop) -> None:
    assert "error" in loop.said(b'{"command":', hang_up=True)


def test_who_says_nothing_is_let_go(loop: Loop) -> None:
    client = loop.client()
    deadline = loop.control.next_deadline()
    assert deadline is not None and deadline <= time.monotonic() + PATIENCE
    loop.control.expire(deadline - 1)
    assert not is_gone(client)
    loop.control.expire(deadline)
    assert is_gone(client)
    assert loop.control.next_deadline() is None


def test_who_does_not_take_the_answer_is_let_go(loop: Loop) -> None:
    loop.answer = "x" * 5_000_000
    client = loop.client(b'{"command":"status"}\n')
    deadline = loop.control.next_deadline()
    assert deadline is not None, "the answer is too long for one turn"
    loop.control.expire(deadline)
    assert len(rest(client)) < 5_000_000


def test_a_long_answer_arrives_whole(loop: Loop) -> None:
    loop.answer = "x" * 5_000_000
    client = loop.client(b'{"command":"status"}\n')
    client.setblocking(False)
    data = b""
    while not data.endswith(b"\n"):
        loop.turn()
        data += client.recv(1 << 20)
    assert json.loads(data) == {"ok": loop.answer}


def test_there_are_only_so_many_clients(loop: Loop) -> None:
    first = [loop.client() for _ in range(CLIENTS)]
    assert "try again" in loop.said(b'{"command":"status"}\n')["error"]
    first[0].close()
    loop.turn()
    assert loop.said(b'{"command":"status"}\n') == {"ok": "fine"}


def test_watchers_are_told_until_they_hang_up(loop: Loop) -> None:
    watcher, other = loop.client(b'{"command":"watch"}\n'), loop.client()
    assert loop.control.next_deadline() is not None
    other.close()
    loop.turn()
    assert loop.control.next_deadline() is None, "a watcher has all the time in the world"
    loop.control.tell({"event": "open"})
    loop.control.tell({"event": "close"})
    assert watcher.recv(4096) == b'{"ok":null}\n{"event":"open"}\n{"event":"close"}\n'
    watcher.close()
    loop.turn()
    loop.control.tell({"event": "open"})
    assert not loop.control._clients


def test_a_watcher_that_does_not_keep_up_is_let_go(loop: Loop) -> None:
    slow, other = loop.client(b'{"command":"watch"}\n'), loop.client(b'{"command":"watch"}\n')
    event = {"message": "x" * 1000}
    for _ in range(100 * BACKLOG // 1000):
        loop.control.tell(event)
        assert other.recv(4096)
        waiting = max(len(client.sending) for client in loop.control._clients.values())
        assert waiting <= BACKLOG
    assert len(loop.control._clients) == 1
    assert rest(slow)


DOORS = (
    Door("ssh", parse_sequence("21001,11003,31002"), open_ports=(PortRange(22, 22, "tcp"),)),
    Door("job", parse_sequence("21003,11005,31006"), start_command="true"),
)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["198.18.0.1", "ssh", "::1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(request=st.dictionaries(st.sampled_from(["address", "door", "seconds"]), values))
def test_whatever_is_ordered_it_is_understood_or_refused(request: dict[str, Any]) -> None:
    for read in (lambda: read_open(request, DOORS), lambda: read_close(request)):
        try:
            order = read()
        except ControlError:
            continue
        assert len(order.source) in (4, 16)
        assert order.seconds is None or 0 < order.seconds < 1e9
        assert order.door in (None, DOORS[0])
