# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The classic log lines, to where they are wanted: the log file, syslog, or standard output in the foreground.

A log that cannot be written (full disk, removed directory, no syslog) never stops the daemon.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from typing import Callable, Dict, Optional, TextIO

SYSLOG = "/dev/log"
NOTICE = 1 << 3 | 5  # facility user, severity notice: as C knockd does (syslog.h)

PROGRESS_PER_SECOND = 200
"""Stage and timeout lines: a flood of first knocks must not fill the disk. All other lines are always written."""
LOOKUPS_WAITING = 1000
"""Lines that may wait for a name with -l; further ones go without."""


class Log:
    """Where the daemon says what happens. `write` takes a whole line, the others make one."""

    def __init__(self, foreground: bool = True, verbose: bool = False, debug: bool = False) -> None:
        self.debugging = debug
        self._foreground = foreground
        self._verbose = verbose or debug
        self._path: Optional[str] = None
        self._file: Optional[TextIO] = None
        self._use_syslog = False
        self._syslog: Optional[socket.socket] = None
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
        """From now on knocks are logged as `IP (host)`, by a thread: a slow name server must not delay a door."""
        self._names = _Names(self.say)

    def close(self) -> None:
        if self._names:
            self._names.stop()

    def say(self, text: str) -> None:
        """One line for the operator."""
        if self._file:
            try:
                if os.fstat(self._file.fileno()).st_nlink == 0:
                    self.open(self._path, self._use_syslog)  # someone has removed it
                if self._file:
                    self._file.write("%s %s\n" % (time.strftime("[%Y-%m-%d %H:%M]"), text))
            except OSError:
                pass
        if self._use_syslog:
            self._send_to_syslog(text)
        if self._foreground and (self._verbose or not (self._file or self._use_syslog)):
            self._print(sys.stdout, text)

    def door(self, address: str, text: str) -> None:
        """`IP: text`, with the host's name after the address if that is wanted."""
        if self._names:
            self._names.say(address, text)
        else:
            self.say("%s: %s" % (address, text))

    def progress(self, address: str, text: str) -> None:
        """Like `door`, for what anybody can cause with one packet: at most PROGRESS_PER_SECOND."""
        second = int(time.monotonic())
        if second != self._second:
            if self._progress > PROGRESS_PER_SECOND:
                self.say("%d further stages and timeouts not logged" % (self._progress - PROGRESS_PER_SECOND))
            self._second, self._progress = second, 0
        self._progress += 1
        if self._progress <= PROGRESS_PER_SECOND:
            self.door(address, text)

    def debug(self, text: str) -> None:
        """What only -D shows; the one place where ports of knocks appear."""
        if self.debugging:
            self.say(text)

    def _send_to_syslog(self, text: str) -> None:
        try:
            if not self._syslog:
                self._syslog = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
                self._syslog.connect(SYSLOG)
            self._syslog.send(("<%d>knockd: %s" % (NOTICE, text)).encode(errors="replace"))
        except OSError:
            if self._syslog:
                self._syslog.close()  # syslog was restarted, or is not there: the next line tries again
            self._syslog = None

    @staticmethod
    def _print(stream: TextIO, text: str) -> None:
        try:
            print(text.encode(errors="replace").decode(), file=stream, flush=True)
        except (OSError, ValueError):
            pass  # nobody reads it any more


class _Names:
    """A thread that puts host names into lines, in order."""

    def __init__(self, say: Callable[[str], None]) -> None:
        import queue
        import threading

        self._say = say
        self._known: Dict[str, str] = {}
        self._full = queue.Full
        self._lines: queue.Queue[Optional[tuple[str, str]]] = queue.Queue(LOOKUPS_WAITING)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def say(self, address: str, text: str) -> None:
        try:
            self._lines.put_nowait((address, text))
        except self._full:
            self._say("%s: %s" % (address, text))

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
            address, text = line
            self._say("%s (%s): %s" % (address, self._name(address), text))

    def _name(self, address: str) -> str:
        if address not in self._known:
            try:
                name = socket.gethostbyaddr(address)[0]
            except OSError:
                name = address
            if len(self._known) >= LOOKUPS_WAITING:
                self._known.clear()
            self._known[address] = name if name.isprintable() else address
        return self._known[address]
