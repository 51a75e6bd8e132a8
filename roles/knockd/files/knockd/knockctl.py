# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""knockctl(8): asks the daemon who is in, lets somebody in or out, and watches. All it knows is the control socket."""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import sys
import time
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

from . import __version__

SOCKET = "/run/knockd/control"
PATIENCE = 10.0
"""Seconds; the daemon answers in a millisecond, and is busier than it should ever be after that."""

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"([0-9]{1,9})(s|m|h|d|)")

EPILOG = """\
examples:
  knockctl                                       who is in, and how the daemon is
  knockctl open 198.51.100.7 for 10m             from the console, for somebody whose knock does not arrive
  knockctl close 198.51.100.7
  knockctl watch
"""


class AskError(Exception):
    """What the daemon refuses, or why it cannot be asked; with the cure."""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="knockctl",
        description="Talks to knockd(8).",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("-s", "--socket", default=SOCKET, metavar="PATH", help="where knockd listens (%(default)s)")
    made.add_argument("--json", action="store_true", help="print what the daemon answers, for programs")
    made.add_argument("-V", "--version", action="version", version="knockctl %s (sesame.knock)" % __version__)
    commands = made.add_subparsers(dest="command", metavar="COMMAND")
    add = commands.add_parser
    # An option that was given before the command must survive the command's own default.
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    add("status", parents=[as_json], help="doors, who is in, counters (the default)")
    opening = add("open", parents=[as_json], help="let an address in without a knock")
    opening.add_argument("address", metavar="ADDRESS")
    opening.add_argument(
        "rest",
        nargs="*",
        metavar="[DOOR] [for TIME]",
        help="the native door, if there is more than one; how long: 90s, 10m, 2h (default: the door's open_timeout)",
    )
    closing = add("close", parents=[as_json], help="end what an address has; its connections live on")
    closing.add_argument("address", metavar="ADDRESS")
    add("watch", parents=[as_json], help="print what happens, until Ctrl-C")
    return made


def main(arguments: List[str]) -> int:
    """Run the command; the result is its exit status."""
    asked = parser()
    given = asked.parse_args(arguments)
    request: Dict[str, Any] = {"command": given.command or "status"}
    if given.command in ("open", "close"):
        request["address"] = given.address
    if given.command == "open":
        try:
            request["door"], request["seconds"] = read_rest(given.rest)
        except ValueError as error:
            asked.error(str(error))
    try:
        answers = ask(given.socket, request)
        answer = next(answers)
        if given.command == "watch":
            watch(answers, given.json)
        elif given.json:
            print(json.dumps(answer))
        elif given.command == "open":
            print("\n".join(admissions(answer, "is let in for")))
        elif given.command == "close":
            print("\n".join(admissions(answer, "is no longer let in; it had")))
        else:
            print("\n".join(status(answer)))
        sys.stdout.flush()
        if given.command == "close" and not answer:
            raise AskError("nobody is let in from %s" % given.address)
    except AskError as error:
        print("knockctl: %s" % error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0 if given.command == "watch" else 130
    except BrokenPipeError:  # our reader has seen enough; Python would complain once more at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0


def read_rest(words: List[str]) -> Tuple[Optional[str], Optional[int]]:
    """`[DOOR] [for TIME]` as (door, seconds); raises ValueError."""
    seconds = None
    if len(words) > 1 and words[-2] == "for":
        match = _DURATION.fullmatch(words[-1])
        if not match or not int(match.group(1)):
            raise ValueError("%r is no time: write 90s, 10m, 2h or 1d" % words[-1])
        seconds = int(match.group(1)) * UNITS[match.group(2)]
        words = words[:-2]
    if len(words) > 1 or words == ["for"]:
        raise ValueError("after the address come a door and a time: open ADDRESS [DOOR] [for 10m]")
    return (words[0] if words else None), seconds


def ask(path: str, request: Dict[str, Any]) -> Iterator[Any]:
    """Yield what the daemon answers, and then what else it says. Raises AskError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as daemon:
        daemon.settimeout(PATIENCE)
        try:
            daemon.connect(path)
        except PermissionError:
            raise AskError("no permission for %s: use sudo, or join its group (adduser NAME knockctl)" % path) from None
        except (FileNotFoundError, ConnectionRefusedError):
            raise AskError("knockd does not run, or not with a socket at %s: systemctl status knockd" % path) from None
        except OSError as error:
            raise AskError("cannot ask knockd at %s: %s" % (path, error.strerror or error)) from None
        try:
            daemon.sendall(json.dumps(request).encode() + b"\n")
        except OSError:
            pass  # it may have refused without reading: its answer says why
        lines = daemon.makefile("rb")
        try:
            for line in lines:
                answer = json.loads(line)
                if "error" in answer:
                    raise AskError(plain(answer["error"]))
                yield answer.get("ok", answer)
                daemon.settimeout(None)
        except socket.timeout:
            raise AskError("knockd does not answer: journalctl -u knockd") from None
        except ConnectionResetError:
            pass
    raise AskError("knockd has ended the connection: systemctl status knockd")


# What people see.


def watch(events: Iterable[Dict[str, Any]], as_json: bool) -> None:
    """Print events as they come."""
    for event in events:
        if as_json:
            print(json.dumps(event), flush=True)
        else:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["time"]))
            print(when, plain(event["message"]), flush=True)


def admissions(answer: List[Dict[str, Any]], words: str) -> Iterator[str]:
    """A line for each door that somebody is let in by."""
    for entry in answer:
        ports = ", ".join(entry["ports"])
        yield plain("%s %s %s: %s, %s" % (entry["address"], words, span(entry["seconds"]), entry["door"], ports))


def status(answer: Dict[str, Any]) -> Iterator[str]:
    """The daemon at a glance."""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(answer["since"]))
    yield "knockd %s, process %d, since %s" % (answer["version"], answer["pid"], since)
    interfaces = ", ".join(answer["interfaces"]) or "no interface"
    yield plain("listens on %s (%s)" % (interfaces, ", ".join(answer["addresses"]) or "no address yet"))
    if answer["waiting_for"]:
        yield plain("waits for %s" % ", ".join(answer["waiting_for"]))
    if answer["guarded"]:
        yield "guards %s" % ", ".join(answer["guarded"])
    yield ""
    yield from table(
        ("DOOR", "KIND", "OPENS", "FOR"),
        (
            (
                door["name"],
                door["kind"] + (", used up" if door["used_up"] else ""),
                ", ".join(door["ports"]) or (door["closes"] and "closes " + door["closes"]) or "-",
                "-" if door["seconds"] is None else span(door["seconds"] or None),
            )
            for door in answer["doors"]
        ),
    )
    yield ""
    inside = answer["admitted"] + answer["commands"]
    if inside:
        yield from table(
            ("ADDRESS", "DOOR", "PORTS", "LEFT"),
            (
                (entry["address"], entry["door"], ", ".join(entry.get("ports", ())) or "-", span(entry["seconds"]))
                for entry in inside
            ),
        )
    else:
        yield "nobody is in"
    yield ""
    counters = ", ".join("%s %d" % (name.replace("_", " "), count) for name, count in answer["counters"].items())
    yield "knockers in progress %d; since the start: %s" % (answer["knockers"], counters)


def table(head: Tuple[str, ...], rows: Iterable[Tuple[str, ...]]) -> Iterator[str]:
    """Columns as wide as they need to be."""
    lines = [head, *(tuple(plain(cell) for cell in row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()


def span(seconds: Optional[float]) -> str:
    """A time as people say it."""
    if seconds is None:
        return "until closed"
    whole = int(seconds + 0.5)
    if whole < 120:
        return "%d s" % whole
    if whole < 7200:
        return "%d min" % (whole // 60)
    return "%d h %d min" % (whole // 3600, whole % 3600 // 60)


def plain(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
