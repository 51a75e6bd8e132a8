# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Knocks from a jump host, and connects through it: what `ssh -J` does, with a knock before the last step.

A door opens to the address that knocks, so the knock has to leave from where the connection will come from. Three
programs of ssh do it, and no file is ever written on the jump host:

1. A master (ControlMaster) that logs in there, once for all connections of a minute, under a lock: fifty that start at
   the same time are one login, where sshd's MaxStartups would refuse most of fifty.
2. `python3 -IS -` there, whose program, sequences included, comes over stdin. It answers one line.
3. `ssh -W ADDRESS:PORT` through the master, to the very address that was knocked at. Its other end is for the ssh that
   waits for a descriptor.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import time
from typing import NoReturn, Optional, Sequence

from ._profile import Profile, ProfileError
from ._runtime import RuntimeDirectoryError, runtime_directory
from ._sender import COMMAND, OPTIONS, PATIENCE, FromJump, JumpFailed, answer_in, last_line, no_answer, program

STDIN, STDOUT, STDERR = 0, 1, 2
PERSIST = 60
"""Seconds that a master stays after its last connection."""
SESSIONS = 8
"""Senders that run at the same time over one master: sshd's MaxSessions is 10, forwarded connections do not count."""


class Jump:
    """One connection through a jump host."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        *self._options, self._destination = profile.jump
        self.name = self._destination.replace("ssh://", "", 1)  # for messages
        try:
            path = os.path.join(runtime_directory(), "jump-" + _digest(profile.jump))
        except RuntimeDirectoryError as error:
            raise ProfileError(str(error)) from None
        # A name of a socket has 104 bytes at most (macOS, unix(4)), of which ssh needs 17 for one that it is making.
        if len(os.fsencode(path)) > 104 - 1 - 17:
            os.chdir(os.path.dirname(path))
            path = os.path.basename(path)
        self._control = path
        self._locks = os.open(path + ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        self._children: list[int] = []

    def __enter__(self) -> Jump:
        for number in (signal.SIGHUP, signal.SIGTERM):  # ssh sends HUP when it goes away
            signal.signal(number, _interrupt)
        return self

    def __exit__(self, *_exception: object) -> None:
        self._end_children()
        os.close(self._locks)

    def knock(self, host: str, port: int) -> str:
        """Knock from the jump host until the port is open from there; give the address that it was knocked at."""
        if not _is_alive(self._control):
            lock = self._hold(range(SESSIONS, SESSIONS + 1))
            try:
                if not _is_alive(self._control):
                    self._start_master()
            finally:
                self._release(lock)
        slot = self._hold(range(SESSIONS))
        try:
            return self._send(host, port)
        finally:
            self._end_children()
            self._release(slot)

    def become_connection(self, address: str, port: int) -> NoReturn:
        """Be the connection from here on: stdin and stdout are the ssh's that waits for it."""
        words = self._ssh("-W", _socket_address(address, port))
        os.execvp(words[0], words)  # the lock goes with us

    def connect(self, address: str, port: int) -> socket.socket:
        """Give one end of a connection that lives on without us: a child that ends with it has the other end."""
        ours, theirs = socket.socketpair()
        said, stderr = os.pipe()
        words = self._ssh("-W", _socket_address(address, port))
        self._start(words, theirs.fileno(), theirs.fileno(), stderr, apart=True)
        theirs.close()
        os.close(stderr)
        # A server of ssh speaks first. So we can say why, where ssh would only see a connection end.
        self._wait_for(ours.fileno(), self._profile.timeout + PATIENCE)
        if _is_at_its_end(ours):
            raise JumpFailed(
                "the jump host %s does not connect to %s: %s. Does its sshd allow it (AllowTcpForwarding)?"
                % (self.name, _socket_address(address, port), last_line(_read_all(said)) or "no reason is given")
            )
        self._children.clear()
        return ours

    def _start_master(self) -> None:
        said, stderr = os.pipe()
        nothing = os.open(os.devnull, os.O_RDWR)
        options = ("-fN", "-o", "ControlMaster=auto", "-o", "ControlPersist=%d" % PERSIST)
        child = self._start(self._ssh(*options), nothing, nothing, stderr)
        os.close(nothing)
        os.close(stderr)
        # It goes to the background when it is in. Not waited for by reading: what the master starts may keep stderr.
        status = self._reap(child)
        os.set_blocking(said, False)
        words = _read_all(said)
        os.close(said)
        if status:
            raise JumpFailed(
                "no login at the jump host %s: %s. Does a login there work by itself, without a question?"
                % (self.name, last_line(words) or "ssh ended with status %d" % status)
            )
        if words:
            os.write(STDERR, words)  # warnings, which are for the person

    def _send(self, host: str, port: int) -> str:
        """Run the sender and give the address that it has opened."""
        profile = self._profile
        there, stdin = os.pipe()
        answer, stdout = os.pipe()
        said, stderr = os.pipe()
        order = ("wait_open", host, profile.family, port, profile.sequences, profile.delay, profile.timeout)
        child = self._start(self._ssh(command=COMMAND), there, stdout, stderr)
        for descriptor in (there, stdout, stderr):
            os.close(descriptor)
        with os.fdopen(stdin, "wb") as stream, os.fdopen(answer, "rb", 0) as heard, os.fdopen(said, "rb", 0) as errors:
            try:
                stream.write(program(*order))
                stream.close()
            except BrokenPipeError:
                pass  # its end says why
            deadline = time.monotonic() + profile.timeout + PATIENCE
            answers = b""
            while True:
                self._wait_for(heard.fileno(), deadline - time.monotonic())
                if time.monotonic() >= deadline:
                    self._end_master()  # the next one shall not wait for the same
                    raise JumpFailed(
                        "the jump host %s has not answered for %.0f s" % (self.name, profile.timeout + PATIENCE)
                    )
                part = heard.read(65536)
                answers += part
                if not part or answer_in(answers):
                    break
            found = answer_in(answers)
            if found:
                status, words = found
                if status:
                    raise FromJump(status, "from %s: %s" % (self.name, words))
                return words.split()[0]
            status = self._reap(child)
            raise no_answer(self.name, status, errors.read() or answers)

    def _ssh(self, *options: str, command: str = "") -> list[str]:
        """Give the words of an ssh to the jump host. The first value of an option counts: ours."""
        control = self._control.replace("%", "%%")
        timeout = "ConnectTimeout=%d" % max(1, round(self._profile.timeout))
        master = () if "-fN" in options else ("-o", "ControlMaster=no")
        words = ["ssh", *options, *master, "-o", 'ControlPath="%s"' % control, "-o", timeout]
        return [*words, *OPTIONS, *self._options, "--", self._destination, *([command] if command else [])]

    def _start(self, words: list[str], stdin: int, stdout: int, stderr: int, apart: bool = False) -> int:
        """Start a child; `apart` from our terminal, whose signals are for those who are seen there."""
        child = os.fork()
        if not child:
            try:
                if apart:
                    os.setsid()
                for number, descriptor in enumerate((stdin, stdout, stderr)):
                    os.dup2(descriptor, number)
                os.execvp(words[0], words)
            except OSError as error:
                os.write(STDERR, ("%s: %s\n" % (words[0], error.strerror)).encode())
            finally:
                os._exit(127)
        self._children.append(child)
        return child

    def _end_master(self) -> None:
        nothing = os.open(os.devnull, os.O_RDWR)
        self._reap(self._start(self._ssh("-O", "exit"), nothing, nothing, nothing))
        os.close(nothing)

    def _end_children(self) -> None:
        for child in list(self._children):
            os.kill(child, signal.SIGTERM)
            self._reap(child)

    def _reap(self, child: int) -> int:
        """Wait for the end of a child, and give its exit status."""
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        self._children.remove(child)
        return status

    def _hold(self, numbers: range) -> int:
        """Wait for one of these bytes of the lock file: all who use this jump host have the same. It goes with us."""
        while True:
            for number in numbers:
                try:
                    fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
                    return number
                except (BlockingIOError, PermissionError):  # fcntl(2): either of them
                    pass
            time.sleep(0.02)

    def _release(self, number: int) -> None:
        fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, number)

    def _wait_for(self, descriptor: int, seconds: float) -> None:
        """Wait until there is something to read, or time is up; end if the ssh that we work for is gone."""
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.register(STDOUT, 0)  # only its end is told
        ready = dict(poll.poll(max(0.0, seconds) * 1000))
        if STDOUT in ready and descriptor not in ready:
            raise KeyboardInterrupt


def _digest(words: Sequence[str]) -> str:
    """Name a master: by all words, because one address behind two jump hosts is two machines."""
    from hashlib import sha256

    return sha256("\0".join(words).encode()).hexdigest()[:16]


def _socket_address(address: str, port: int) -> str:
    return ("[%s]:%d" if ":" in address else "%s:%d") % (address, port)


def _is_alive(path: str) -> bool:
    """Does a master listen there?"""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(path)
        except OSError:
            return False
    return True


def _is_at_its_end(sock: socket.socket) -> bool:
    """Has the other side ended, without a word?"""
    try:
        return sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def _read_all(descriptor: int) -> bytes:
    """Read what is there, or with a blocking descriptor until its end."""
    said = b""
    while True:
        try:
            part = os.read(descriptor, 65536)
        except BlockingIOError:
            part = b""
        said += part
        if not part:
            return said


def _interrupt(_number: int, _frame: Optional[object]) -> NoReturn:
    raise KeyboardInterrupt
