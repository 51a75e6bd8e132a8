# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`knock`: C knock's options and output, plus profiles that keep the sequence off the command line, and `--wait`."""

from __future__ import annotations

import getopt
import re
import sys

from ._knocker import OPEN_BEFORE, KnockError, Target, knock, resolve, wait_open
from ._profile import Profile, ProfileError, read_profile
from ._sequence import Knock, SequenceError, parse_sequence
from .account import OPENED, SENT, WAS_OPEN, Account
from .names import names, read_named

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it takes longer than knocking
    from typing import Any, Sequence

USAGE = """\
usage: knock [options] <host> <port[:proto]> [port[:proto]] ...
       knock [options] <profile>
       knock [options] --profile <file> [host]
options:
  -u, --udp            make all ports hits use UDP (default is TCP)
  -d, --delay <t>      wait <t> milliseconds between port hits
  -4, --ipv4           Force usage of IPv4
  -6, --ipv6           Force usage of IPv6
  -p, --profile <file> take the sequence from a file, so that no list of processes shows it
  -l, --list           list the profiles that have a name
  -w, --wait [port]    repeat the knock until this port is open (default: the profile's, or 22)
  -c, --check          look, knock, look: --wait, but a port that was open without a knock is status 7
  -t, --timeout <s>    give up waiting after <s> seconds
  -j, --json           say how it went as one JSON object
  -v, --verbose        be verbose
  -V, --version        display version
  -h, --help           this help

example:  knock myserver.example.com 123:tcp 456:udp 789:tcp
          knock --wait web1

exit status: 0 done, 1 usage, 3 unknown host, 4 no route, 5 the port stays closed, 7 it was open without a knock
"""
VERSION = "knock (sesame.knock) 0.1.0"
SHORT = "ud:46p:lw:ct:jvVh"
LONG = ["udp", "delay=", "ipv4", "ipv6", "profile=", "list", "wait=", "check", "timeout=", "json"]
LONG += ["verbose", "version", "help"]

SSH = 22
WAS_OPEN_STATUS = 7
"""The exit status of --check at a port that was open before the knock."""

# `--wait` and its abbreviations, and a cluster of letters that ends with -w, as words of their own.
_WAIT = re.compile("--w(a(i(t)?)?)?|-[u46lcjvVh]*w")
_DEFAULT = "default"


class UsageError(Exception):
    """What is wrong with the command line."""


class Order:
    """What the command line asks for."""

    def __init__(self) -> None:
        self.host = ""
        self.profile: Profile = Profile(())
        self.secret = False
        """Are the ports not to be shown? They came from a profile."""
        self.port = 0
        """The port that shall open; 0 to knock without a look."""
        self.check = False
        self.list = False
        self.json = False
        self.verbose = False


def main(arguments: Sequence[str]) -> int:
    """Run the command; the result is its exit status."""
    order = Order()
    try:
        if not parse(arguments, order):
            return 0
        return list_profiles(order) if order.list else run(order)
    except UsageError as error:
        return fail(order, str(error), 1, USAGE)
    except (ProfileError, SequenceError) as error:
        return fail(order, str(error), 1)
    except KnockError as error:
        return fail(order, str(error), error.status)
    except KeyboardInterrupt:
        return 130


def fail(order: Order, message: str, status: int, usage: str = "") -> int:
    """Say what went wrong, to people or to a program, and give the exit status."""
    if order.json:
        print_json({"error": message or "give a host and its ports, or the name of a profile", "status": status})
    else:
        print("%s%s" % ("knock: %s\n" % message if message else "", usage), end="", file=sys.stderr)
    return status


def parse(arguments: Sequence[str], order: Order) -> bool:
    """Read the command line; False when it only asked for help or the version."""
    words = _give_wait_its_port(arguments)
    order.json = "--json" in words or "-j" in words  # so that a word that is none is told as JSON too
    try:
        options, rest = getopt.gnu_getopt(words, SHORT, LONG)
    except getopt.GetoptError as error:
        raise UsageError(error.msg) from None
    udp, path, delay, timeout, family, wait = False, "", None, None, None, ""
    order.json = any(option in ("-j", "--json") for option, _value in options)
    for option, value in options:
        if option in ("-h", "--help"):
            print(USAGE, end="")
            return False
        if option in ("-V", "--version"):
            print(VERSION)
            return False
        if option in ("-u", "--udp"):
            udp = True
        elif option in ("-4", "--ipv4"):
            family = "ipv4"
        elif option in ("-6", "--ipv6"):
            family = "ipv6"
        elif option in ("-v", "--verbose"):
            order.verbose = True
        elif option in ("-l", "--list"):
            order.list = True
        elif option in ("-c", "--check"):
            order.check = True
        elif option in ("-p", "--profile"):
            path = value
        elif option in ("-d", "--delay"):
            delay = _number("delay", value, 0, 60000) / 1000
        elif option in ("-t", "--timeout"):
            timeout = _number("timeout", value, 0, 3600)
        elif option in ("-w", "--wait"):
            wait = value
    if order.list:
        if rest:
            raise UsageError("--list takes no host and no ports")
        return True
    profile = _profile(rest, path, udp, order)
    order.profile = profile._replace(
        delay=profile.delay if delay is None else delay,
        timeout=profile.timeout if timeout is None else timeout,
        family=family or profile.family,
    )
    if wait == _DEFAULT or (order.check and not wait):
        order.port = profile.port or SSH
    elif wait:
        order.port = int(_number("wait", wait if wait.isdecimal() else "'%s'" % wait, 1, 65535))
    return True


def run(order: Order) -> int:
    """Knock, once or until the port is open; the result is the exit status."""
    profile = order.profile
    if profile.jump:  # never ignored: this knock would open the door to the wrong address
        raise ProfileError(
            "the knock of this profile leaves from its jump host, as ssh does: knock by ssh, or from there"
        )
    say = (_to_stderr if order.json else _to_stdout) if order.verbose else None
    # Without --wait, -v prints what C knock prints, and nothing else: people parse it.
    account = Account(profile, secret=order.secret, timed=bool(order.port) or order.json, say=say)
    target = resolve(order.host, profile.family, profile.bind)
    account.resolved(target)
    if order.port:
        state = wait(order, target, account)
    else:
        state = SENT
        for sequence in profile.sequences:
            knock(target, sequence, profile.delay, account.knocked)
    if order.json:
        print_json(account.as_json(order.port, state))
    return WAS_OPEN_STATUS if order.check and state == WAS_OPEN else 0


def wait(order: Order, target: Target, account: Account) -> str:
    """Knock until the port is open, and say whether the knock was needed."""
    profile = order.profile
    opened = wait_open(target, order.port, profile.sequences, profile.delay, profile.timeout, account.knocked)
    account.note("port %d was %s before the knock" % (order.port, "open" if opened.was_open else "closed"))
    account.opened(order.port)
    if opened.was_open:
        print("knock: warning: " + OPEN_BEFORE % (order.port, target), file=sys.stderr)
    return WAS_OPEN if opened.was_open else OPENED


def list_profiles(order: Order) -> int:
    """Print each profile with its host; a profile that cannot be read is named as well, and is status 1."""
    status = 0
    found = []
    for name in names():
        try:
            profile = read_named(name)
        except ProfileError as error:
            print("knock: %s" % error, file=sys.stderr)
            status, profile = 1, Profile(())
        found.append({"name": name, "host": profile.host or None, "port": profile.port or None})
        if not order.json:
            print("%s\t%s" % (name, profile.host))
    if order.json:
        print_json({"profiles": found})
    return status


def print_json(values: dict[str, Any]) -> None:
    """Print one object, on one line."""
    import json

    print(json.dumps(values))


def _profile(rest: Sequence[str], path: str, udp: bool, order: Order) -> Profile:
    """Find out where to knock, and with what: ports, a file, or a name."""
    if path and len(rest) > 1:
        raise UsageError("ports and a profile exclude each other")
    if not rest and not path:
        raise UsageError("")
    if len(rest) > 1:
        knocks = parse_sequence(rest[1:])
        order.host = rest[0]
        return Profile((tuple(Knock(item.port, "udp") for item in knocks) if udp else knocks,))
    order.secret = True
    if path:
        profile = read_profile(path)
        order.host = rest[0] if rest else profile.host
    else:
        profile = read_named(rest[0])
        order.host = profile.host
    if not order.host:
        raise ProfileError("the profile %s names no host: knock --profile <file> <host>" % (path or rest[0]))
    return profile


def _give_wait_its_port(arguments: Sequence[str]) -> list[str]:
    """Join `--wait` and a port that follows it, since its port is optional, which getopt does not know.

    The word that follows is the port if it has nothing but digits, as no host has.
    """
    words: list[str] = []
    left = list(arguments)
    while left:
        word = left.pop(0)
        if word == "--":
            return [*words, word, *left]
        if _WAIT.fullmatch(word):
            port = left.pop(0) if left and left[0].isdecimal() else _DEFAULT
            word += "=" + port if word.startswith("--") else port
        words.append(word)
    return words


def _to_stdout(text: str) -> None:
    print(text, flush=True)


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


def _number(name: str, value: str, least: float, largest: float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1
    if not least <= number <= largest:
        raise UsageError("--%s %s is not a number from %d to %d" % (name, value, least, largest))
    return number
