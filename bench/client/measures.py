# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is measured, and how: the ways take turns, so that what disturbs the machine disturbs all of them."""

from __future__ import annotations

import os
import queue
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from sesame_knock import _knocker
from sesame_knock._sequence import parse_sequence
from tests.netns.lab import SERVER

from .. import place as places
from .fleet import Fleet
from .place import HIDDEN, OPEN, SEQUENCE, LoginPlace
from .results import ARTICLE, OURS, PLAIN, WAYS, Line, Results, Timed

PATIENCE = 60
"""Seconds until a login counts as failed."""


class Effort(NamedTuple):
    """How much is done; short efforts show that everything still works, and measure badly."""

    logins: int
    reaches: int
    copies: int
    size: int
    """Bytes of a copy."""
    line_logins: int
    at_once: int
    """Logins over a bad line at the same time."""
    hosts: int
    plays: int
    forks: int


FULL = Effort(logins=15, reaches=50, copies=15, size=10**9, line_logins=500, at_once=25, hosts=50, plays=5, forks=50)
QUICK = Effort(logins=2, reaches=5, copies=1, size=10**7, line_logins=20, at_once=10, hosts=2, plays=1, forks=2)
FEW = 5
"""Hosts of a play that is not timed."""
LINES = ((20.0, 2.0), (150.0, 2.0))
"""Milliseconds that a round trip takes longer, and percent of the frames that are lost in each direction."""


class Bench:
    """One run."""

    def __init__(self, tools: Path, effort: Effort, results: Results, say: Callable[[str], None]) -> None:
        self._tools = tools
        self._effort = effort
        self._results = results
        self._say = say
        self._address = 0

    def run(self) -> None:
        """Measure everything."""
        with (
            tempfile.TemporaryDirectory(prefix="knock-bench-") as directory,
            LoginPlace(Path(directory), self._tools) as place,
        ):
            self._say("%d logins by each of %d ways ..." % (self._effort.logins, len(WAYS)))
            self.logins(place)
            self._say("from the first knock to the connection, %d times ..." % self._effort.reaches)
            self.reaches(place)
            self._say("%d copies of %g MB by each way ..." % (self._effort.copies, self._effort.size / 1e6))
            self.copies(place)
        for delay, loss in LINES:
            self._say("%d logins, %g ms and %g %% ..." % (self._effort.line_logins, delay, loss))
            self.line(delay, loss)
        self._say("%d plays by each of 2 ways on %d hosts ..." % (self._effort.plays, self._effort.hosts))
        self.plays()

    def logins(self, place: LoginPlace) -> None:
        """`ssh host true`, from a new address each time, so that the door is closed."""
        for way in WAYS:
            self._log_in(place, way)  # everything is in memory, and each peer works
        for _turn in range(self._effort.logins):
            for way in WAYS:
                self._results.logins.append(Timed(way, self._log_in(place, way)))

    def _log_in(self, place: LoginPlace, way: str) -> float:
        self._new_address(place)
        profile = place.profile()
        begin = time.monotonic()
        process = place.login(way, profile=profile)
        error = process.communicate(timeout=PATIENCE)[1]
        seconds = time.monotonic() - begin
        if process.returncode:
            raise RuntimeError("%s: %s" % (way, error))
        return seconds

    def _new_address(self, place: LoginPlace) -> None:
        self._address = (self._address + 1) % 1000
        place.be(self._address)

    def reaches(self, place: LoginPlace) -> None:
        """From the first knock to the connection; the article's way some times only, as it is the same each time."""
        sequences = [parse_sequence(SEQUENCE)]
        with place.client:
            target = _knocker.resolve(SERVER)
        for turn in range(self._effort.reaches):
            self._new_address(place)
            with place.client:
                begin = time.monotonic()
                socket.create_connection((SERVER, OPEN)).close()
                middle = time.monotonic()
                _knocker.connect(target, HIDDEN, sequences).close()
                end = time.monotonic()
            self._results.reaches += [Timed(PLAIN, middle - begin), Timed(OURS, end - middle)]
            if turn % 10 == 0:
                self._results.reaches.append(Timed(ARTICLE, self._article_reaches(place)))

    def _article_reaches(self, place: LoginPlace) -> float:
        """Until nc has the server's first byte, which comes with the connection."""
        self._new_address(place)
        options = place.options(ARTICLE)
        (command,) = (word for word in options if word.startswith("ProxyCommand="))
        command = command.partition("=")[2].replace("%h", SERVER).replace("%p", str(HIDDEN))
        begin = time.monotonic()
        words = place.client.command("sh", "-c", command)
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        assert process.stdout
        first = process.stdout.read(1)
        seconds = time.monotonic() - begin
        os.killpg(process.pid, signal.SIGKILL)  # nc as well, which would wait for sshd's patience to end
        process.communicate()
        if first != b"S":
            raise RuntimeError("%s: no connection" % ARTICLE)
        return seconds

    def copies(self, place: LoginPlace) -> None:
        """scp of a file that takes no room here and is in memory there."""
        source = place.directory / "file"
        source.touch()
        os.truncate(source, self._effort.size)
        self._results.size = self._effort.size
        self._results.cipher = self._cipher(place)
        with tempfile.TemporaryDirectory(prefix="knock-bench-", dir="/dev/shm") as memory:
            for turn in range(self._effort.copies + 1):
                for way in WAYS if turn % 2 else WAYS[::-1]:
                    self._new_address(place)
                    there = Path(memory) / "file"
                    words = ("scp", *place.options(way), str(source), "root@%s:%s" % (SERVER, there))
                    begin = time.monotonic()
                    place.client.run(*words)
                    seconds = time.monotonic() - begin
                    assert there.stat().st_size == self._effort.size
                    there.unlink()
                    if turn:  # the first one warms up
                        self._results.copies.append(Timed(way, seconds))

    def _cipher(self, place: LoginPlace) -> str:
        process = place.login(PLAIN, "-o", "LogLevel=DEBUG1")
        said = re.search(r"kex: client->server cipher: (\S+)", process.communicate(timeout=PATIENCE)[1])
        assert said
        return said[1]

    def line(self, delay: float, loss: float) -> None:
        """Logins over a bad line, many at a time, each from an address whose door is closed."""
        count = self._effort.line_logins
        with (
            tempfile.TemporaryDirectory(prefix="knock-bench-") as directory,
            LoginPlace(Path(directory), self._tools, places.Line(delay, loss)) as place,
        ):
            ping, unanswered = place.ping(200)
            seconds, failures = log_in_many(place, count, self._effort.at_once)
            assert place.wire
            frames, lost = place.wire.stop()
        self._results.lines.append(Line(delay, loss, ping, unanswered, frames, lost, seconds, failures))

    def plays(self) -> None:
        """Ten tasks on all hosts, in turn over open ports by plain ssh and over closed ones by ours."""
        effort = self._effort
        with Fleet(effort.hosts) as fleet:
            for closed in (False, True):
                fleet.play(closed, effort.forks, hosts=FEW)  # everything is compiled
            for turn in range(effort.plays):
                for closed in (True, False) if turn % 2 else (False, True):  # a machine that slows down slows down both
                    self._results.plays.append(fleet.play(closed, effort.forks))
            self._results.plays.append(fleet.play(True, effort.forks, hosts=FEW, counted=True))


def log_in_many(place: LoginPlace, count: int, at_once: int) -> tuple[list[float], list[str]]:
    """Log in so often by our way; the seconds of those who got in, and what ssh said of the others."""
    seconds: list[float] = []
    failures: list[str] = []
    numbers = queue.SimpleQueue[int]()
    for number in range(count):
        numbers.put(number)
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            try:
                number = numbers.get_nowait()
            except queue.Empty:
                return
            begin = time.monotonic()
            process = place.login(OURS, profile=place.profile(number))
            try:
                error = process.communicate(timeout=PATIENCE)[1]
            except subprocess.TimeoutExpired:
                process.kill()
                error = process.communicate()[1] + "no end after %d s" % PATIENCE
            if process.returncode:
                failures.append(error.strip())
            else:
                seconds.append(time.monotonic() - begin)

    workers = [threading.Thread(target=work) for _worker in range(at_once)]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            worker.join()
    finally:  # also by a signal: the place goes when nobody uses it any more
        over.set()
        for worker in workers:
            worker.join()
    return seconds, failures
