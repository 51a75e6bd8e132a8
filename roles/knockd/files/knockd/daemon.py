# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The event loop: who is told what, and when.

One thread, no polling: it sleeps until a packet, a link, a signal or a deadline.

A turn of the loop has parts, and none of them ends the daemon: what one throws is told once (failures.py), and the
others go on. Only the loop itself, when it can no longer ask the kernel what there is to do, ends it: then the table
goes, with every hole, and systemd starts it anew.
"""

from __future__ import annotations

import gc
import math
import os
import selectors
import signal
import socket
import time
from dataclasses import replace
from typing import Any, Callable, Dict, Iterable, NamedTuple, Optional, Tuple, TypeVar

from . import __version__, config, console, one_time
from .capture import Capture, CaptureError
from .commands import Commands
from .control import Control, ControlError
from .failures import Failures
from .kernel import KernelError, Table
from .links import Links
from .log import Log
from .lookout import Lookout
from .model import Door, Event, Opened, Settings, Stage, TimedOut
from .notify import Notifier
from .packet import Packet, text
from .strays import FLOOD
from .tracker import Tracker

T = TypeVar("T")

DEFAULT_INTERFACE = "eth0"

FEW_SEQUENCES = 3
"""One-time sequences that are left when the log begins to say so."""
PATIENCE = 10.0
"""Seconds that the last stop commands may take at the end; the journal keeps what is not done by then."""
LONGEST_SLEEP = 3600.0
"""Seconds; a deadline may be a year away, and epoll_wait(2) takes 25 days."""
REST = 0.05
"""Seconds for which the loop rests after a turn in which something failed: it may fail in each, and at once."""


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
        self._failures = Failures(log)
        self._notifier = Notifier()
        self._selector = selectors.DefaultSelector()
        self._table: Optional[Table] = None
        self._commands = Commands(log)
        self._be_classic(settings)
        self._lookout = Lookout(self._selector, log, self._refuse)
        self._control = Control(self._selector, self._answer)
        self._since = time.time()
        self._knocks = self._opened = self._refused = self._timed_out = 0
        self._second = self._firsts = self._untold = 0
        self._listening = ""
        self._stopping = False
        self._alive_at = 0.0

    def start(self) -> None:
        """Takes hold of all that the daemon needs. Raises KernelError, CommandsError, CaptureError."""
        now = time.monotonic()
        self._tracker = Tracker(self._doors, self._settings.knockers, self._settings.classic)
        self._watch_signals()
        # First the table: its guard closes, and a second daemon ends here, before it can disturb the first one.
        self._install(self._settings)
        if self._settings.state_dir:
            self._commands.recover(now, self._settings.state_dir)
        self._links = Links()
        self._selector.register(self._links, selectors.EVENT_READ, self._on_links)
        self._log.say("starting up, listening on %s" % ",".join(self._interfaces()), "start")
        self._log.say(self._tracker.guarantee())
        if self._log.looks_up_names and "names" in self._settings.classic:
            self._log.say("warning: %s" % config.NAMES)  # what --check says goes to standard error only
        versions = (4,) if self._options.only_ipv4 else (4, 6)
        self._capture = Capture(self._selector, self._doors, self._on_packets, self._log.say, versions)
        self._follow()
        for name in self._interfaces():
            if self._links.index(name) is None:
                self._log.say("%s: not there yet, waiting for it" % name)
        self._listen_for_orders()

    def run(self) -> None:
        """Serves until INT or TERM, then closes everything."""
        gc.disable()  # a third of the time under a flood; only new doors leave cycles behind, and `_use` collects those
        self._notifier.ready(self._status())
        parts = (
            *(self._expire_knockers, self._commands.expire, self._capture.on_time, self._control.expire),
            *(self._open_settled, self._feed_watchdog, self._gather),
        )
        failures = self._failures
        try:
            while not self._stopping:
                # As `_try` does, without a call for each part: this is the way of every packet.
                for key, _events in self._selector.select(self._timeout()):
                    try:
                        key.data(key.fileobj)
                    except Exception as error:
                        failures.tell(error)
                for part in parts:
                    try:
                        part(time.monotonic())  # anew: the part before may have waited for a disk
                    except Exception as error:
                        failures.tell(error)
                if failures.fresh:
                    failures.fresh = False
                    time.sleep(REST)
        finally:
            self._shut_down()

    def _try(self, work: Callable[..., T], *arguments: object) -> Optional[T]:
        """Does one part of a turn; None if that fails."""
        try:
            return work(*arguments)
        except Exception as error:
            self._failures.tell(error)
            return None

    # What wakes us.

    def _on_packets(self, packets: Iterable[Packet]) -> None:
        now = time.monotonic()
        if int(now) != self._second:
            self._begin_second(int(now))
        observe = self._tracker.observe
        if self._log.debugging:
            packets = map(self._shown, packets)
        left = iter(packets)
        while True:
            try:
                for protocol, source, destination, port, flags in left:
                    events = observe(now, source, destination, protocol, port, flags)
                    if events:
                        self._tell(now, events)
                        now = time.monotonic()  # a command or a disk may have taken its time
                return
            except Exception as error:
                self._failures.tell(error)  # those behind this packet count

    def _begin_second(self, second: int) -> None:
        """A flood of first knocks is told for the first part of each second only."""
        self._try(self._log.withheld, self._tracker.untold - self._untold)
        self._second, self._firsts, self._untold = second, 0, self._tracker.untold
        self._tracker.tells_first = True

    def _shown(self, packet: Packet) -> Packet:
        protocol, source, _destination, port, flags = packet
        self._log.debug("packet: %s port %d, protocol %d, flags %#04x" % (text(source), port, protocol, flags))
        return packet

    def _on_links(self, _links: Links) -> None:
        self._links.read()
        self._on_links_changed()

    def _on_links_changed(self) -> None:
        try:
            self._follow()
        except CaptureError as error:
            self._log.say(str(error))

    def _on_signal(self, wakeup: socket.socket) -> None:
        signals = set(wakeup.recv(4096))
        if signals & {signal.SIGINT, signal.SIGTERM}:
            self._stopping = True
        if signal.SIGCHLD in signals:
            self._try(self._commands.reap, time.monotonic())
        if signal.SIGHUP in signals:
            self._reload()

    def _expire_knockers(self, now: float) -> None:
        self._tell(now, self._tracker.expire(now))

    def _open_settled(self, now: float) -> None:
        for source, door in self._lookout.due(now):
            if door in self._doors:
                self._try(self._open, source, door)

    def _feed_watchdog(self, now: float) -> None:
        if self._notifier.interval and now >= self._alive_at:
            self._alive_at = now + self._notifier.interval
            self._notifier.alive()

    def _gather(self, _now: float) -> None:
        pause = self._capture.pause()
        if pause:
            time.sleep(pause)

    def _timeout(self) -> Optional[float]:
        due = self._alive_at if self._notifier.interval else math.inf
        for room in (self._tracker, self._commands, self._capture, self._lookout, self._control):
            try:
                deadline = room.next_deadline()
            except Exception as error:
                self._failures.tell(error)
                deadline = time.monotonic() + 1
            if deadline is not None and deadline < due:
                due = deadline
        return None if due == math.inf else min(max(0.0, due - time.monotonic()), LONGEST_SLEEP)

    # What it means.

    def _tell(self, now: float, events: Iterable[Event]) -> None:
        for event in events:
            try:
                if self._lookout.ignores(now, event.source):
                    self._tracker.drop(event.source)
                elif isinstance(event, Stage):
                    self._knocks += 1
                    if event.number == 1:
                        self._firsts += 1
                        self._tracker.tells_first = self._firsts < FLOOD
                    self._lookout.progress(now, *event)
                    self._log.progress("stage", event.source, event.door.name, "Stage %d", event.number)
                elif isinstance(event, Opened):
                    if self._lookout.completed(now, event.source, event.door):
                        self._open(event.source, event.door)
                elif isinstance(event, TimedOut):
                    self._timed_out += 1
                    self._log.progress(
                        "timeout", event.source, event.door.name, "sequence timeout (stage %d)", event.number
                    )
            except Exception as error:
                self._failures.tell(error)  # what this packet does at other doors counts

    def _refuse(self, source: bytes, door: str, why: str) -> None:
        self._refused += 1
        self._tracker.drop(source)
        self._log.progress("refuse", source, door, "%s", why)

    def _open(self, source: bytes, door: Door) -> None:
        if door.one_time_sequences and not self._use_up(door, door.one_time_sequences):
            return
        now = time.monotonic()
        try:
            if self._table and door.open_ports:
                self._table.admit(now, source, door)
            self._opened += 1
            self._log.door("open", text(source), door.name, "OPEN SESAME")
            for closed in self._doors:
                if self._table and closed.name == door.close_door and self._table.revoke(source, closed):
                    self._log.door("close", text(source), closed.name, "closed by %s" % door.name)
        except KernelError as error:
            self._log.door("error", text(source), door.name, str(error))
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
        for name in names:
            taker = self._links.taker(name)
            if taker and taker not in names:
                listening += "; %s takes the packets of %s: listen there" % (taker, name)
        if listening != self._listening:
            self._listening = listening
            self._log.say("listening on %s" % listening, "listen")
            self._notifier.status(self._status())

    def _install(self, settings: Settings) -> None:
        """Makes the table, or changes it. Command doors can do without it, if it cannot be had."""
        needed = bool(settings.guards or any(door.open_ports for door in settings.doors))
        if self._table or needed or self._lookout.wants(settings):
            try:
                table = self._table or Table()  # before the lookout listens: the first socket bears our process number
                self._table = self._installed(table, settings, self._lookout.listen(settings))
            except KernelError as error:
                if self._table or needed:
                    raise
                self._lookout.give_up(str(error))
        self._lookout.use(settings, self._table)

    def _installed(self, table: Table, settings: Settings, group: Optional[int]) -> Table:
        """The table as the settings want it; without strays, if the kernel cannot tell them."""
        rest = settings.mark, settings.doors, settings.guards
        try:
            table.install(*rest, group, settings.published)
        except KernelError as error:
            if group is None:
                raise
            table.install(*rest, published=settings.published)
            self._lookout.give_up(str(error))
        return table

    def _use(self, doors: Tuple[Door, ...]) -> None:
        self._capture.set_doors(doors)
        self._tracker.replace(doors)
        self._lookout.replace(doors)
        self._doors = doors
        gc.collect()

    def _be_classic(self, settings: Settings) -> None:
        self._commands.classic = "pairs" in settings.classic
        self._log.ask_for_knocks("names" in settings.classic)

    def _reload(self) -> None:
        self._log.say("re-reading config file: %s" % self._options.config, "reload")
        self._notifier.reloading()
        try:
            settings = config.read(self._options.config)
            self._install(settings)
            self._use(settings.doors)
            if settings.knockers != self._settings.knockers:
                self._tracker.remember(settings.knockers)
                self._log.say(self._tracker.guarantee())
            self._settings = settings
            self._tracker.classic = settings.classic
            self._be_classic(settings)
        except (config.ConfigError, KernelError, CaptureError) as error:
            self._log.say("keeping the old configuration: %s" % error)
        except Exception as error:
            self._failures.tell(error)
            self._log.say("keeping the old configuration")
        else:
            for warning in settings.warnings:
                self._log.say("warning: %s" % warning)
            self._try(self._on_links_changed)
            self._try(self._listen_for_orders)
        self._try(self._log.open, self._options.log_file or self._settings.log_file, self._settings.use_syslog)
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
            if self._table:
                self._table.expect(left.sequence)
        except (OSError, CaptureError, KernelError) as error:
            self._log.say("%s: stays shut, its sequence cannot be used up: %s" % (door.name, error))
            return False
        if left.left <= FEW_SEQUENCES:
            self._log.say("%s: %d sequences are left in %s" % (door.name, left.left, path))
        return True

    def _status(self) -> str:
        return "%d doors, listening on %s" % (len(self._doors), self._listening)

    # What knockctl asks.

    def _listen_for_orders(self) -> None:
        path = self._settings.control
        if path is None and "RUNTIME_DIRECTORY" in os.environ:  # systemd.exec(5): ours alone, and gone with us
            path = os.environ["RUNTIME_DIRECTORY"].split(":")[0] + "/control"
        try:
            self._control.listen(None if path == config.NO_CONTROL else path)
        except ControlError as error:
            self._log.say(str(error), "error")
        self._log.on_event = self._control.tell

    def _answer(self, request: Dict[str, Any]) -> object:
        now = time.monotonic()
        try:
            if request["command"] == "status":
                return self._report(now)
            if request["command"] == "open":
                return self._let_in(now, console.read_open(request, self._doors))
            if request["command"] == "close":
                return self._let_out(now, console.read_close(request))
        except KernelError as error:
            raise ControlError(str(error)) from error
        raise ControlError("unknown command %r: possible are status, open, close and watch" % request["command"])

    def _let_in(self, now: float, order: console.Order) -> object:
        assert self._table and order.door  # read_open says so
        self._table.admit(now, order.source, order.door, order.seconds)
        self._log.door("open", text(order.source), order.door.name, "opened by knockctl")
        return console.admitted(held for held in self._table.admitted(now) if held[0] == order.source)

    def _let_out(self, now: float, order: console.Order) -> object:
        held = [held for held in self._table.admitted(now) if held[0] == order.source] if self._table else []
        if self._table and self._table.revoke(order.source):
            for door in sorted({door for _source, _ports, door, _seconds in held}):
                self._log.door("close", text(order.source), door, "closed by knockctl")
        return console.admitted(held)

    def _report(self, now: float) -> Dict[str, object]:
        listening = self._capture.listening()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "since": round(self._since, 3),
            "configuration": self._options.config,
            "interfaces": listening,
            "waiting_for": [name for name in self._interfaces() if name not in listening],
            "addresses": sorted(text(address) for address in self._tracker.local),
            "guarded": [str(ports) for guard in self._settings.guards for ports in guard.ports],
            "doors": console.doors(self._doors),
            "admitted": console.admitted(self._table.admitted(now) if self._table else ()),
            "commands": console.pairs(self._commands.open_pairs(now)),
            "knockers": len(self._tracker),
            "counters": {
                "knocks": self._knocks + self._tracker.untold,
                "opened": self._opened,
                "refused": self._refused,
                "timed_out": self._timed_out,
                "forgotten": self._tracker.forgotten,
                "dropped_packets": self._capture.drops(),
            },
        }

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
        self._try(self._notifier.stopping)
        self._try(self._log.say, "shutting down", "stop")
        self._try(self._capture.close)
        if self._table:
            self._try(self._table.close)
        patience = time.monotonic() + PATIENCE
        while not self._try(self._commands.finish, time.monotonic()):
            if time.monotonic() > patience:
                self._log.say("not waiting any longer: the next start runs the stop commands that have not ended")
                break
            for key, _events in self._selector.select(0.1):
                self._try(key.data, key.fileobj)
        self._try(self._commands.close)
        self._try(self._control.close)
