# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: C knockd's options, and --check."""

from __future__ import annotations

import argparse
import io
import os
import sys
from typing import Callable, List, NoReturn

from . import __version__, config
from .capture import CaptureError
from .commands import CommandsError
from .daemon import Daemon, Options
from .kernel import KernelError
from .log import Log
from .model import Door, Settings
from .sequence import odds

DEFAULT_PID_FILE = "/var/run/knockd.pid"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(1, "%s: %s\n" % (self.prog, message))  # argparse's own 2 means "stopped by INT" to knockd's units


def parser() -> argparse.ArgumentParser:
    made = _Parser(prog="knockd", description="Opens doors to those who knock. See knockd.conf(5).")
    add = made.add_argument
    add(
        "-i",
        "--interface",
        action="append",
        default=[],
        metavar="IF",
        help="interface to listen on: repeated, a comma list, or any (default: the file's, or eth0)",
    )
    add("-d", "--daemon", action="store_true", help="become a daemon")
    add("-c", "--config", default="/etc/knockd.conf", metavar="FILE", help="default: %(default)s")
    add("-D", "--debug", action="store_true", help="show every packet, knock ports included")
    add("-l", "--lookup", action="store_true", help="look up host names of those who came in, for the log")
    add("-p", "--pidfile", metavar="FILE", help="with -d (default: the file's, or %s)" % DEFAULT_PID_FILE)
    add("-g", "--logfile", metavar="FILE", help="default: the file's, or standard output in the foreground")
    add("-v", "--verbose", action="store_true", help="show log lines on standard output as well")
    add("-4", "--only-ip-v4", action="store_true", help="ignore IPv6")
    add("-V", "--version", action="version", version="knockd %s (sesame.knock)" % __version__)
    add("--check", action="store_true", help="check the configuration, print warnings, and end")
    return made


def main(arguments: List[str]) -> int:
    given = parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a door's name may be any bytes, in any locale
            stream.reconfigure(errors="backslashreplace")
    options = Options(
        config=os.path.abspath(given.config),
        interfaces=tuple(name.strip() for item in given.interface for name in item.split(",") if name.strip()),
        log_file=given.logfile and os.path.abspath(given.logfile),
        pid_file=given.pidfile and os.path.abspath(given.pidfile),
        only_ipv4=given.only_ip_v4,
    )
    try:
        settings = config.read(options.config)
    except config.ConfigError as error:
        return fail(error)
    for warning in settings.warnings:
        print("knockd: warning: %s" % warning, file=sys.stderr)
    if given.check:
        print("%s: %d doors, no errors" % (options.config, len(settings.doors)))
        for door in settings.doors:
            if door.sequence:
                print("%s: %s" % (door.name, odds_of(door, settings)))
        return 0

    occupy_standard_streams()
    # Before the table and the sockets: they belong to the process that makes them.
    started = daemonise() if given.daemon else lambda: None
    log = Log(foreground=not given.daemon, verbose=given.verbose, debug=given.debug)
    log.open(options.log_file or settings.log_file, settings.use_syslog)
    if given.lookup:
        log.look_up_names()
    daemon = Daemon(options, settings, log)
    pid_file = options.pid_file or settings.pid_file or DEFAULT_PID_FILE
    try:
        daemon.start()
        if given.daemon:
            write_pid(pid_file)
    except (KernelError, CommandsError, CaptureError, OSError) as error:
        return fail(error)
    started()
    daemon.run()
    log.close()
    if given.daemon:
        remove(pid_file)
    return 0


def odds_of(door: Door, settings: Settings) -> str:
    """A blind scanner's chances, with the count of stray ports, if that is on, and without; not the sequence."""
    text = "a scan of all ports in random order opens it "
    if "scans" not in settings.classic:
        text += "%s; without the count of stray ports " % odds(door.sequence, settings.strays)
    return text + odds(door.sequence, None)


def fail(error: Exception) -> int:
    print("knockd: %s" % error, file=sys.stderr)
    return 1


def occupy_standard_streams() -> None:
    """Points the streams that are closed to nowhere: else a socket of ours gets such a number, and is taken for one."""
    while True:
        null = os.open(os.devnull, os.O_RDWR)
        if null > 2:
            os.close(null)
            return
        os.set_inheritable(null, True)


def daemonise() -> Callable[[], None]:
    """Leaves the terminal. The parent ends when the returned function is called: 0; when we end before that: 1."""
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        os._exit(0 if os.read(reader, 1) else 1)
    os.setsid()
    if os.fork():  # a session leader could be given a terminal again
        os._exit(0)
    os.close(reader)
    os.chdir("/")

    def started() -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.close(null)
        os.write(writer, b"1")
        os.close(writer)

    return started


def write_pid(path: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write("%d\n" % os.getpid())


def remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # systemd's RuntimeDirectory may be gone already


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
