# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Command doors: runs start and stop commands, one pair per door and address, and journals what is open.

A pair goes through three phases: its start command runs, it is open until a deadline, its stop command runs. The phases
follow each other, so the two commands never run at the same time, and a knock while a pair is open only extends it.
Unless its start command has failed: then the knocker is still outside, and the whole pair runs anew. With the option
Classic = pairs each completed knock has a pair of its own, which knows nothing of the others, as in C knockd.
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import json
import math
import os
import shutil
import signal
import socket
import time
from enum import Enum
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from .log import Log
from .model import Door

JOURNAL = "open-doors.json"
RETRY = 5.0
"""Seconds until a stop command that could not even be started is tried again."""


class CommandsError(Exception):
    """The state directory cannot be used; the message says why."""


class _Phase(Enum):
    STARTING = "starting"
    OPEN = "open"
    STOPPING = "stopping"


class _Key(NamedTuple):
    """What makes two knocks the same pair; the command too, since two sections may have one name."""

    address: str
    door: str
    start: str
    number: int = 0
    """Tells pairs apart that are open side by side, with Classic = pairs."""


class _Pair:
    """One start command and, if there is one, the stop command that has to follow."""

    def __init__(self, key: _Key, stop: Optional[str], timeout: float) -> None:
        self.key = key
        self.stop = stop
        self.timeout = timeout
        self.phase = _Phase.STARTING
        self.deadline = 0.0
        self.pid = 0
        self.failed = False
        """Whether the start command said that it has not opened."""
        self.again: Optional[Tuple[Optional[str], float]] = None
        """A knock that has to wait for the stop command: stop and timeout of the pair that follows."""


class Commands:
    """The pairs that are under way. Times are of the monotonic clock; `reap`, `expire` are called by the loop."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._pairs: Dict[_Key, _Pair] = {}
        self._running: Dict[int, _Pair] = {}
        self._deadlines: List[Tuple[float, _Key]] = []
        self._journal: Optional[_Journal] = None
        self._numbers = itertools.count(1)
        self._finishing = False
        self.classic = False
        """Whether each completed knock has a pair of its own (Classic = pairs)."""

    def recover(self, now: float, directory: str) -> None:
        """Takes over what an earlier daemon has left open: overdue stop commands run with the next `expire`."""
        self._journal = _Journal(directory, self._log)
        for key, stop, remaining, timeout in self._journal.read():
            # A clock that was set back must not keep a door open for longer than it was meant to be.
            self._wait(_Pair(self._unused(key), stop, timeout), now + min(max(remaining, 0.0), timeout))

    def open(self, now: float, source: bytes, door: Door) -> None:
        """A knocker has completed a command door."""
        address = socket.inet_ntop(socket.AF_INET if len(source) == 4 else socket.AF_INET6, source)
        start, stop = commands_for(door, address)
        if not start:
            return
        key = _Key(address, door.name, start)
        pair = self._pairs.get(key)
        if pair is None or self.classic:
            self._start(now, _Pair(self._unused(key), stop, door.cmd_timeout))
        elif pair.phase is _Phase.OPEN and pair.failed:
            pair.again = (stop, door.cmd_timeout)
            self._stop(now, pair)
        elif pair.phase is _Phase.OPEN and now + door.cmd_timeout > pair.deadline:
            pair.timeout = door.cmd_timeout
            self._wait(pair, now + door.cmd_timeout)
            self._write_journal(now)
        elif pair.phase is _Phase.STOPPING:
            pair.again = (stop, door.cmd_timeout)

    def open_pairs(self, now: float) -> List[Tuple[str, str, float]]:
        """What is open now: address, the door's name, and the seconds until its stop command."""
        return [
            (key.address, key.door, pair.deadline - now)
            for key, pair in self._pairs.items()
            if pair.phase is _Phase.OPEN and pair.stop
        ]

    def reap(self, now: float) -> None:
        """Takes in the commands that have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            pair = self._running.pop(pid, None)
            if pair is None:
                continue
            if status:
                address, door = pair.key.address, pair.key.door
                self._log.say("%s: command returned %s" % (door, _ending(status)), "error", address, door)
            self._ended(now, pair, failed=bool(status))

    def expire(self, now: float) -> None:
        """Runs the stop commands whose time has come."""
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, key = heapq.heappop(self._deadlines)
            pair = self._pairs.get(key)
            if pair and pair.phase is _Phase.OPEN and pair.deadline == deadline:
                self._log.door("close", key.address, key.door, "command timeout")
                self._stop(now, pair)

    def next_deadline(self) -> Optional[float]:
        """When `expire` has something to do."""
        return self._deadlines[0][0] if self._deadlines else None

    def finish(self, now: float) -> bool:
        """Stops all that is open at once; says whether all has ended. Called until it has."""
        first, self._finishing = not self._finishing, True
        for pair in list(self._pairs.values()):
            pair.again = None
            if pair.phase is _Phase.OPEN:
                self._stop(now, pair)
            elif pair.phase is _Phase.STARTING and pair.stop and first:
                _terminate(pair.pid)  # its stop command has to run now, and never beside it
        return not any(pair.stop for pair in self._pairs.values())

    def close(self) -> None:
        """Lets the next daemon have the journal."""
        if self._journal:
            self._journal.close()

    def _start(self, now: float, pair: _Pair) -> None:
        pair.phase = _Phase.STARTING
        self._pairs[pair.key] = pair
        if pair.stop:
            # Before the command: if we die meanwhile, the next daemon knows that there is something to stop.
            pair.deadline = now + pair.timeout
            self._write_journal(now)
        if not self._run(pair, pair.key.start):
            self._ended(now, pair, failed=True)

    def _unused(self, key: _Key) -> _Key:
        return key._replace(number=next(self._numbers)) if key in self._pairs else key

    def _stop(self, now: float, pair: _Pair) -> None:
        pair.phase = _Phase.STOPPING
        if not self._run(pair, pair.stop or ""):
            self._wait(pair, now + RETRY)

    def _ended(self, now: float, pair: _Pair, failed: bool) -> None:
        if pair.phase is _Phase.STARTING and pair.stop:
            # Also after a failure: a start command may have done half of its work.
            pair.failed = failed
            self._wait(pair, now if self._finishing else now + pair.timeout)
        else:
            del self._pairs[pair.key]
            if pair.again:
                self._start(now, _Pair(pair.key, *pair.again))
        if pair.stop:
            self._write_journal(now)

    def _wait(self, pair: _Pair, deadline: float) -> None:
        pair.phase = _Phase.OPEN
        pair.deadline = deadline
        self._pairs[pair.key] = pair
        heapq.heappush(self._deadlines, (deadline, pair.key))

    def _run(self, pair: _Pair, command: str) -> bool:
        address, door = pair.key.address, pair.key.door
        said = "%s: running command" % door
        self._log.say("%s: %s" % (said, command), "command", address, door, told=said)
        try:
            # A session of its own: what the command leaves running does not get our terminal's signals.
            # Every descriptor of ours is close-on-exec; Python ignores SIGPIPE, commands do not expect that.
            pair.pid = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", command],
                os.environ,
                setsid=True,
                setsigdef=[signal.SIGPIPE],
                file_actions=[(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)],
            )
        except (OSError, ValueError) as error:  # too long; or with a NUL
            reason = getattr(error, "strerror", error)
            self._log.say("%s: cannot run the command: %s" % (door, reason), "error", address, door)
            return False
        self._running[pair.pid] = pair
        return True

    def _write_journal(self, now: float) -> None:
        if self._journal:
            self._journal.write(now, [pair for pair in self._pairs.values() if pair.stop])


def commands_for(door: Door, address: str) -> Tuple[Optional[str], Optional[str]]:
    """The start and the stop command of a door for an address; None or empty: nothing to run."""
    start, stop = door.start_command, door.stop_command
    if ":" in address:
        start = start if door.start_command_6 is None else door.start_command_6
        stop = stop if door.stop_command_6 is None else door.stop_command_6
    return start and start.replace("%IP%", address), stop and stop.replace("%IP%", address)


class _Journal:
    """The file that says which stop commands are due, and when. Its deadlines are wall-clock: it outlives a boot."""

    def __init__(self, directory: str, log: Log) -> None:
        self._path = os.path.join(directory, JOURNAL)
        self._directory = directory
        self._log = log
        self._written = True
        try:
            self._lock = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise CommandsError("cannot use State_Dir %s: %s" % (directory, error.strerror)) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._lock, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._lock)
            raise CommandsError("another knockd (process %s) uses State_Dir %s" % (holder, directory)) from error
        os.ftruncate(self._lock, 0)
        os.write(self._lock, b"%d\n" % os.getpid())

    def read(self) -> List[Tuple[_Key, str, float, float]]:
        """What was open, as (key, stop command, seconds that remain, timeout)."""
        found = []
        try:
            with open(self._path, encoding="utf-8") as file:
                entries = json.load(file)
            if not isinstance(entries, list):
                raise ValueError("it holds no list")
            for number, entry in enumerate(entries, 1):
                try:
                    found.append(_read_entry(entry))
                except (ValueError, TypeError, KeyError, OverflowError) as error:
                    self._lost("entry %d of %s" % (number, self._path), error)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, RecursionError) as error:
            self._lost(self._path, error)
        return found

    def _lost(self, what: str, error: Exception) -> None:
        """Keeps what cannot be understood for the operator: the next write replaces the file."""
        kept = self._path + ".bad"
        try:
            with open(self._path, "rb") as file, open(kept, "wb", opener=_private) as copy:
                shutil.copyfileobj(file, copy)
        except OSError:
            kept = "nowhere"
        self._log.say(
            "cannot read %s, what it says is open stays open: %s; a copy is in %s" % (what, _reason(error), kept)
        )

    def write(self, now: float, pairs: List[_Pair]) -> None:
        """Replaces the file, so that a crash leaves either the old or the new one."""
        entries = [
            {
                "address": pair.key.address,
                "door": pair.key.door,
                "start": pair.key.start,
                "stop": pair.stop,
                "deadline": round(time.time() + pair.deadline - now, 3),
                "timeout": pair.timeout,
            }
            for pair in pairs
        ]
        try:
            with open(self._path + ".new", "w", encoding="utf-8", opener=_private) as file:
                json.dump(entries, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(self._path + ".new", self._path)
            directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
            self._written = True
        except OSError as error:
            if self._written:
                self._log.say("cannot write %s: %s" % (self._path, error.strerror))
            self._written = False

    def close(self) -> None:
        os.close(self._lock)


def _read_entry(entry: Any) -> Tuple[_Key, str, float, float]:
    """An entry of the journal; ValueError, TypeError, KeyError or OverflowError if it is none."""
    texts = [entry[name] for name in ("address", "door", "start", "stop")]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a text is missing")
    deadline, timeout = float(entry["deadline"]), float(entry["timeout"])
    if not (math.isfinite(deadline) and math.isfinite(timeout)):
        raise ValueError("a time is no number")
    address, door, start, stop = texts
    return _Key(address, door, start), stop, deadline - time.time(), timeout


def _reason(error: Exception) -> str:
    """What is wrong, in one line and without a command."""
    if isinstance(error, KeyError):
        return "%s is missing" % error
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _terminate(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass


def _ending(status: int) -> str:
    if os.WIFSIGNALED(status):
        return "signal %d" % os.WTERMSIG(status)
    return "non-zero status code (%d)" % os.WEXITSTATUS(status)
