# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The classic log lines, to where they are wanted: the log file, syslog, or standard output in the foreground.

Where syslog is systemd's journal, the same line goes there with fields beside it, so that nobody has to parse it:
KNOCKD_EVENT, KNOCKD_ADDRESS, KNOCKD_DOOR, and a MESSAGE_ID for each kind of event (journalctl MESSAGE_ID=...).

A log that cannot be written (full disk, removed directory, no syslog) never stops the daemon.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from typing import Any, Callable, Dict, NamedTuple, Optional, TextIO, Tuple

from . import packet

SYSLOG = "/dev/log"
JOURNAL = "/run/systemd/journal/socket"
USER, NOTICE = 1, 5  # facility and severity, as C knockd has them (syslog.h)

MESSAGE_IDS = {
    "start": "71b91abe176546868a06484ea64b59e8",
    "stop": "ce13b7d8ed4b4311932666289645b784",
    "reload": "2203666b57a440758ba51888dc69ef23",
    "listen": "1c54d987c01240279f4ecafbb1a04de1",
    "stage": "6d062eb3aa1e4d9a958f1f1a3bb54b69",
    "timeout": "6bac77e2e9d04c93854b48760ef759e0",
    "open": "9ed51c39465047eda4a0fc42a1c48d49",
    "close": "a6f05c6a23e34de2b0059078b762d339",
    "refuse": "a24c4d9be8554052a95461d7f539e95d",
    "command": "8c77192735d141aaa092349fdd4e55ef",
    "error": "c5c561ca540b4185b800db633f6180b3",
}
"""What a line can be about (KNOCKD_EVENT), and what the journal's catalogues know it by."""

PROGRESS_PER_SECOND = 200
"""Stage and timeout lines: a flood of first knocks must not fill the disk. All other lines are always written."""
ASKED_FOR = ("open",)
"""Events for which a name server is asked, with -l."""
LOOKUPS_WAITING = 1000
"""Lines that may wait for a name with -l; further ones go without."""


class _About(NamedTuple):
    """What a line is about."""

    event: str = ""
    address: str = ""
    door: str = ""


class Log:
    """Where the daemon says what happens. Every `event` is one of MESSAGE_IDS."""

    def __init__(self, foreground: bool = True, verbose: bool = False, debug: bool = False) -> None:
        self.debugging = debug
        self._foreground = foreground
        self._verbose = verbose or debug
        self._path: Optional[str] = None
        self._file: Optional[TextIO] = None
        self._use_syslog = False
        self._syslog = _Datagrams(SYSLOG)
        self._journal = _Datagrams(JOURNAL)
        self._prints_to_journal = foreground and _prints_to_journal()
        self.on_event: Callable[[Dict[str, Any]], None] = lambda _event: None
        """Told every line that is about an event, for knockctl watch."""
        self._names: Optional[_Names] = None
        self._second = 0
        self._progress = 0

    def open(self, path: Optional[str], use_syslog: bool) -> None:
        """Opens the log file, or opens it again after a rotation."""
        self._path = path
        self._use_syslog = use_syslog
        if self._file:
            try:
                self._file.close()
            except OSError:
                pass  # a full disk: the lines that wait for room are lost
            self._file = None
        if path:
            try:
                # Root's and the group's: who reads it learns who knocks, and when.
                handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
                self._file = os.fdopen(handle, "a", encoding="utf-8", errors="replace", buffering=1)
            except OSError as error:
                self._print(sys.stderr, "cannot write the log file %s: %s" % (path, error.strerror))

    def look_up_names(self) -> None:
        """From now on who comes in is logged as `IP (host)`, by a thread: a slow name server must not delay a door.

        Only an opened door makes us ask a name server; lines about the same address have the name from then on. A
        stranger may own the name server of his own address: asked for a knock, it would tell him which ports knock.
        """
        self._names = _Names(self._write)

    @property
    def looks_up_names(self) -> bool:
        return self._names is not None

    def ask_for_knocks(self, asks: bool) -> None:
        """Whether a name server is asked for every knock as well (Classic = names)."""
        if self._names:
            self._names.asks_for = tuple(MESSAGE_IDS) if asks else ASKED_FOR

    def close(self) -> None:
        if self._names:
            self._names.stop()

    def say(self, text: str, event: str = "", address: str = "", door: str = "", told: Optional[str] = None) -> None:
        """One line for the operator; `told` is what watchers see of it, who may not read the configuration."""
        about = _About(event, address, door)
        self._tell(text if told is None else told, about)
        self._write(text, about)

    def door(self, event: str, address: str, door: str, text: str) -> None:
        """`IP: door: text`, `IP: text` without a door; with the host's name after the address if that is wanted."""
        about = _About(event, address, door)
        self._tell(_line(about, text), about)
        if self._names:
            self._names.write(about, text)
        else:
            self._write(_line(about, text), about)

    def progress(self, event: str, source: bytes, door: str, words: str, *values: object) -> None:
        """Like `door`, for what anybody can cause with one packet: at most PROGRESS_PER_SECOND.

        Address and `words % values` are spelled only where they are written: a flood would pay for it with each packet.
        """
        second = int(time.monotonic())
        if second != self._second:
            if self._progress > PROGRESS_PER_SECOND:
                self.say("%d further stages and timeouts not logged" % (self._progress - PROGRESS_PER_SECOND))
            self._second, self._progress = second, 0
        self._progress += 1
        if self._progress <= PROGRESS_PER_SECOND:
            self.door(event, packet.text(source), door, words % values)

    def withheld(self, count: int) -> None:
        """So many that `progress` was not even told of."""
        self._progress += count

    def debug(self, text: str) -> None:
        """What only -D shows; the one place where ports of knocks appear."""
        if self.debugging:
            self.say(text)

    def _tell(self, text: str, about: _About) -> None:
        if about.event:
            self.on_event({"time": round(time.time(), 3), **about._asdict(), "message": text})

    def _write(self, text: str, about: _About) -> None:
        if self._file:
            try:
                if os.fstat(self._file.fileno()).st_nlink == 0:
                    self.open(self._path, self._use_syslog)  # someone has removed it
                if self._file:
                    self._file.write("%s %s\n" % (time.strftime("[%Y-%m-%d %H:%M]"), text))
            except (OSError, ValueError):
                pass  # a full disk; or the other thread has just closed it for a new one
        prints = self._foreground and (self._verbose or not (self._file or self._use_syslog))
        if self._use_syslog or (prints and self._prints_to_journal):
            # The journal, else any other syslog; standard output that is the journal anyway needs no second copy.
            if self._journal.send(entry(text, about)):
                prints = prints and not self._prints_to_journal
            elif self._use_syslog:
                self._syslog.send(("<%d>knockd: %s" % (USER << 3 | NOTICE, text)).encode(errors="replace"))
        if prints:
            self._print(sys.stdout, text)

    @staticmethod
    def _print(stream: TextIO, text: str) -> None:
        try:
            print(text.encode(errors="replace").decode(), file=stream, flush=True)
        except (OSError, ValueError):
            pass  # nobody reads it any more


def _line(about: _About, text: str, host: str = "") -> str:
    """The classic line."""
    who = "%s (%s)" % (about.address, host) if host else about.address
    return ": ".join(part for part in (who, about.door, text) if part)


def entry(text: str, about: _About) -> bytes:
    """A line and what it is about in the journal's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): pure."""
    fields = {"MESSAGE": text, "PRIORITY": str(NOTICE), "SYSLOG_FACILITY": str(USER), "SYSLOG_IDENTIFIER": "knockd"}
    if about.event:
        fields["MESSAGE_ID"] = MESSAGE_IDS[about.event]
    fields.update(("KNOCKD_" + name.upper(), value) for name, value in about._asdict().items() if value)
    return b"".join(_field(name.encode(), value.encode(errors="replace")) for name, value in fields.items())


def _field(name: bytes, value: bytes) -> bytes:
    if b"\n" in value:  # else it would end there, and what follows would be a field of its own
        return name + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
    return name + b"=" + value + b"\n"


def _prints_to_journal() -> bool:
    """Whether systemd says that our standard output is the journal (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        output = os.fstat(1)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == "%d:%d" % (output.st_dev, output.st_ino)


class _Datagrams:
    """A socket of a service that takes lines; it may be restarted at any time, or not be there."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: Optional[socket.socket] = None

    def send(self, data: bytes) -> bool:
        """Says whether the service has it."""
        try:
            if not self._socket:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
                self._socket.connect(self._path)
            self._socket.send(data)
            return True
        except OSError:
            if self._socket:
                self._socket.close()
            self._socket = None  # the next line tries again
            return False


class _Names:
    """A thread that puts host names into lines, in order."""

    def __init__(self, write: Callable[[str, _About], None]) -> None:
        import queue
        import threading

        self._write = write
        self.asks_for: Tuple[str, ...] = ASKED_FOR
        self._known: Dict[str, str] = {}
        self._full = queue.Full
        self._lines: queue.Queue[Optional[tuple[_About, str]]] = queue.Queue(LOOKUPS_WAITING)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def write(self, about: _About, text: str) -> None:
        try:
            self._lines.put_nowait((about, text))
        except self._full:
            self._write(_line(about, text), about)

    def stop(self) -> None:
        """Writes what waits, but not for long."""
        try:
            self._lines.put_nowait(None)
            self._thread.join(timeout=1)
        except self._full:
            pass

    def _run(self) -> None:
        while True:
            line = self._lines.get()
            if line is None:
                return
            about, text = line
            host = self._name(about.address) if about.event in self.asks_for else self._known.get(about.address, "")
            self._write(_line(about, text, host), about)

    def _name(self, address: str) -> str:
        if address not in self._known:
            try:
                name = socket.gethostbyaddr(address)[0]
            except (OSError, ValueError):  # no name; or no address, from a journal of doors that is not ours
                name = address
            if len(self._known) >= LOOKUPS_WAITING:
                self._known.clear()
            self._known[address] = name if name.isprintable() else address
        return self._known[address]
