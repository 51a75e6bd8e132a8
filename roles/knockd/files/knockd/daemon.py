# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The event loop: who is told what, and when.

One thread, no polling: it sleeps until a packet, a link, a signal or a deadline.
"""

from __future__ import annotations

import gc
import selectors
import signal
import socket
import time
from dataclasses import replace
from typing import Iterable, NamedTuple, Optional, Tuple

from . import bpf, config, one_time
from .capture import Capture, CaptureError
from .commands import Commands
from .kernel import KernelError, Table
from .links import Links
from .log import Log
from .model import Door, Event, Opened, Settings, Stage, TimedOut
from .notify import Notifier
from .packet import parse
from .tracker import Tracker

DEFAULT_INTERFACE = "eth0"

FEW_SEQUENCES = 3
"""One-time sequences that are left when the log begins to say so."""
PATIENCE = 10.0
"""Seconds that the last stop commands may take at the end; the journal keeps what is not done by then."""


class Options(NamedTuple):
    """What the command line says; it beats the configuration file."""

    config: str
    interfaces: Tuple[str, ...] = ()
    log_file: Optional[str] = None
    pid_file: Optional[str] = None
    only_ipv4: bool = False


class Daemon:
    """Everything that lives from `start` to the end of `run`."""

    def __init__(self, options: Options, settings: Settings, log: Log) -> None:
        self._options = options
        self._settings = settings
        self._doors = settings.doors
        self._log = log
        self._notifier = Notifier()
        self._selector = selectors.DefaultSelector()
        self._table: Optional[Table] = None
        self._commands = Commands(log)
        self._listening = ""
        self._stopping = False
        self._alive_at = 0.0

    def start(self) -> None:
        """Takes hold of all that the daemon needs. Raises KernelError, CommandsError, CaptureError."""
        now = time.monotonic()
        self._watch_signals()
        # First the table: its guard closes, and a second daemon ends here, before it can disturb the first one.
        self._install(self._settings)
        if self._settings.state_dir:
            self._commands.recover(now, self._settings.state_dir)
        self._tracker = Tracker(self._doors, classic=self._settings.classic)
        self._links = Links()
        self._selector.register(self._links, selectors.EVENT_READ, self._on_links)
        self._log.say("starting up, listening on %s" % ",".join(self._interfaces()))
        self._log.say(self._tracker.guarantee())
        self._capture = Capture(self._selector, bpf.pack(bpf.program(self._doors)), self._on_packets, self._log.say)
        self._follow()
        for name in self._interfaces():
            if self._links.index(name) is None:
                self._log.say("%s: not there yet, waiting for it" % name)

    def run(self) -> None:
        """Serves until INT or TERM, then closes everything."""
        gc.disable()  # a third of the time under a flood; only new doors leave cycles behind, and `_use` collects those
        self._notifier.ready(self._status())
        try:
            while not self._stopping:
                for key, _events in self._selector.select(self._timeout()):
                    key.data(key.fileobj)
                self._on_time(time.monotonic())
        finally:
            self._shut_down()

    # What wakes us.

    def _on_packets(self, tap: socket.socket) -> None:
        if tap.fileno() < 0:
            return  # closed by what was handled before it in this turn: its interface is gone
        now = time.monotonic()
        only_ipv4, debugging, observe = self._options.only_ipv4, self._log.debugging, self._tracker.observe
        for data in self._capture.packets(tap):
            packet = parse(data)
            if packet is None or (only_ipv4 and len(packet.source) != 4):
                continue
            if debugging:
                self._log.debug(
                    "packet: %s port %d, protocol %d, flags %#04x"
                    % (text(packet.source), packet.port, packet.protocol, packet.flags)
                )
            events = observe(now, *packet)
            if events:
                self._tell(now, events)

    def _on_links(self, _links: Links) -> None:
        self._links.read()
        try:
            self._follow()
        except CaptureError as error:
            self._log.say(str(error))

    def _on_signal(self, wakeup: socket.socket) -> None:
        signals = set(wakeup.recv(4096))
        if signal.SIGCHLD in signals:
            self._commands.reap(time.monotonic())
        if signal.SIGHUP in signals:
            self._reload()
        if signals & {signal.SIGINT, signal.SIGTERM}:
            self._stopping = True

    def _on_time(self, now: float) -> None:
        self._tell(now, self._tracker.expire(now))
        self._commands.expire(now)
        if self._notifier.interval and now >= self._alive_at:
            self._notifier.alive()
            self._alive_at = now + self._notifier.interval

    def _timeout(self) -> Optional[float]:
        deadlines = [self._tracker.next_deadline(), self._commands.next_deadline()]
        if self._notifier.interval:
            deadlines.append(self._alive_at)
        due = min((deadline for deadline in deadlines if deadline is not None), default=None)
        return None if due is None else max(0.0, due - time.monotonic())

    # What it means.

    def _tell(self, now: float, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, Stage):
                self._log.progress(text(event.source), "%s: Stage %d" % (event.door.name, event.number))
            elif isinstance(event, Opened):
                self._open(now, event.source, event.door)
            elif isinstance(event, TimedOut):
                self._log.progress(
                    text(event.source), "%s: sequence timeout (stage %d)" % (event.door.name, event.number)
                )

    def _open(self, now: float, source: bytes, door: Door) -> None:
        if door.one_time_sequences and not self._use_up(door, door.one_time_sequences):
            return
        try:
            if self._table and door.open_ports:
                self._table.admit(now, source, door)
            self._log.door(text(source), "%s: OPEN SESAME" % door.name)
            for closed in self._doors:
                if self._table and closed.name == door.close_door and self._table.revoke(source, closed):
                    self._log.door(text(source), "%s: closed by %s" % (closed.name, door.name))
        except KernelError as error:
            self._log.door(text(source), "%s: %s" % (door.name, error))
        self._commands.open(now, source, door)

    # What changes.

    def _interfaces(self) -> Tuple[str, ...]:
        return self._options.interfaces or self._settings.interfaces or (DEFAULT_INTERFACE,)

    def _follow(self) -> None:
        """Makes sockets and own addresses agree with the links."""
        names = self._interfaces()
        self._capture.follow(names, self._links)
        self._tracker.local = self._links.addresses(names)
        addresses = ", ".join(sorted(text(address) for address in self._tracker.local)) or "no address yet"
        listening = "%s (%s)" % (",".join(self._capture.listening()) or "no interface", addresses)
        if listening != self._listening:
            self._listening = listening
            self._log.say("listening on %s" % listening)
            self._notifier.status(self._status())

    def _install(self, settings: Settings) -> None:
        if self._table is None and (settings.guards or any(door.open_ports for door in settings.doors)):
            self._table = Table()
        if self._table:
            self._table.install(settings.mark, settings.doors, settings.guards)

    def _use(self, doors: Tuple[Door, ...]) -> None:
        self._capture.set_filter(bpf.pack(bpf.program(doors)))
        self._tracker.replace(doors)
        self._doors = doors
        gc.collect()

    def _reload(self) -> None:
        self._log.say("re-reading config file: %s" % self._options.config)
        self._notifier.reloading()
        try:
            settings = config.read(self._options.config)
            self._install(settings)
            self._use(settings.doors)
            self._tracker.classic = settings.classic
            self._settings = settings
        except (config.ConfigError, KernelError, CaptureError) as error:
            self._log.say("keeping the old configuration: %s" % error)
        else:
            for warning in settings.warnings:
                self._log.say("warning: %s" % warning)
            self._follow()
        self._log.open(self._options.log_file or self._settings.log_file, self._settings.use_syslog)
        self._notifier.ready(self._status())

    def _use_up(self, door: Door, path: str) -> bool:
        """Goes on to the door's next sequence, for good; a sequence that cannot be marked as used opens nothing."""
        try:
            left = one_time.consume(path, door.sequence)
            self._use(
                tuple(
                    replace(other, sequence=left.sequence) if other.one_time_sequences == path else other
                    for other in self._doors
                )
            )
        except (OSError, CaptureError) as error:
            self._log.say("%s: stays shut, its sequence cannot be used up: %s" % (door.name, error))
            return False
        if left.left <= FEW_SEQUENCES:
            self._log.say("%s: %d sequences are left in %s" % (door.name, left.left, path))
        return True

    def _status(self) -> str:
        return "%d doors, listening on %s" % (len(self._doors), self._listening)

    # Begin and end.

    def _watch_signals(self) -> None:
        """Signals become bytes in a socket: nothing is done inside a handler."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self._wakeup = (ours, theirs)
        self._selector.register(ours, selectors.EVENT_READ, self._on_signal)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda _number, _frame: None)
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)

    def _shut_down(self) -> None:
        self._notifier.stopping()
        self._log.say("shutting down")
        self._capture.close()
        if self._table:
            self._table.close()
        patience = time.monotonic() + PATIENCE
        while not self._commands.finish(time.monotonic()):
            if time.monotonic() > patience:
                self._log.say("not waiting any longer: the next start runs the stop commands that have not ended")
                break
            for key, _events in self._selector.select(0.1):
                key.data(key.fileobj)
        self._commands.close()


def text(address: bytes) -> str:
    """A packed address as people write it."""
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)
