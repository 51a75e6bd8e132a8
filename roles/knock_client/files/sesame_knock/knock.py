# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`knock`: C knock's options and output, plus profiles that keep the sequence off the command line, and `--wait`."""

from __future__ import annotations

import getopt
import sys
import time
from typing import Sequence

from ._knocker import KnockError, knock, resolve, wait_open
from ._profile import Profile, ProfileError, read_profile
from ._sequence import Knock, SequenceError, parse_sequence

USAGE = """\
usage: knock [options] <host> <port[:proto]> [port[:proto]] ...
       knock [options] --profile <file> <host>
options:
  -u, --udp            make all ports hits use UDP (default is TCP)
  -d, --delay <t>      wait <t> milliseconds between port hits
  -4, --ipv4           Force usage of IPv4
  -6, --ipv6           Force usage of IPv6
  -p, --profile <file> take the sequence from a file, so that no list of processes shows it
  -w, --wait <port>    repeat the knock until this port is open
  -t, --timeout <s>    give up waiting after <s> seconds
  -v, --verbose        be verbose
  -V, --version        display version
  -h, --help           this help

example:  knock myserver.example.com 123:tcp 456:udp 789:tcp

exit status: 0 done, 1 usage, 3 unknown host, 4 no route, 5 the port stays closed
"""
VERSION = "knock (sesame.knock) 0.1.0"
LONG = ["udp", "delay=", "ipv4", "ipv6", "profile=", "wait=", "timeout=", "verbose", "version", "help"]


class UsageError(Exception):
    """What is wrong with the command line."""


class Order:
    """What the command line asks for."""

    def __init__(self) -> None:
        self.host = ""
        self.profile: Profile = Profile(())
        self.secret = False
        """Are the ports not to be shown? They came from a profile."""
        self.wait = 0
        self.verbose = False


def main(arguments: Sequence[str]) -> int:
    """Run the command; the result is its exit status."""
    try:
        order = parse(arguments)
        if order is None:
            return 0
        run(order)
    except UsageError as error:
        print("%s%s" % ("knock: %s\n" % error if str(error) else "", USAGE), end="", file=sys.stderr)
        return 1
    except (ProfileError, SequenceError) as error:
        print("knock: %s" % error, file=sys.stderr)
        return 1
    except KnockError as error:
        print("knock: %s" % error, file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return 130
    return 0


def parse(arguments: Sequence[str]) -> Order | None:
    """Read the command line; None when it only asked for help or the version."""
    try:
        options, rest = getopt.gnu_getopt(list(arguments), "ud:46p:w:t:vVh", LONG)
    except getopt.GetoptError as error:
        raise UsageError(error.msg) from None
    order = Order()
    udp, path, delay, timeout, family = False, "", None, None, None
    for option, value in options:
        if option in ("-h", "--help"):
            print(USAGE, end="")
            return None
        if option in ("-V", "--version"):
            print(VERSION)
            return None
        if option in ("-u", "--udp"):
            udp = True
        elif option in ("-4", "--ipv4"):
            family = "ipv4"
        elif option in ("-6", "--ipv6"):
            family = "ipv6"
        elif option in ("-v", "--verbose"):
            order.verbose = True
        elif option in ("-p", "--profile"):
            path = value
        elif option in ("-d", "--delay"):
            delay = _number("delay", value, 60000) / 1000
        elif option in ("-t", "--timeout"):
            timeout = _number("timeout", value, 3600)
        elif option in ("-w", "--wait"):
            order.wait = int(_number("wait", value, 65535)) or 22
    if not rest:
        raise UsageError("")
    order.host, ports = rest[0], rest[1:]
    if bool(ports) == bool(path):
        raise UsageError("ports and a profile exclude each other" if ports else "")
    if path:
        profile, order.secret = read_profile(path), True
    else:
        knocks = parse_sequence(ports)
        profile = Profile((tuple(Knock(item.port, "udp") for item in knocks) if udp else knocks,))
    order.profile = profile._replace(
        delay=profile.delay if delay is None else delay,
        timeout=profile.timeout if timeout is None else timeout,
        family=family or profile.family,
    )
    return order


def run(order: Order) -> None:
    """Knock, once or until the port is open."""
    profile = order.profile
    if profile.jump:  # never ignored: this knock would open the door to the wrong address
        raise ProfileError(
            "the knock of this profile leaves from its jump host, as ssh does: knock by ssh, or from there"
        )
    target = resolve(order.host, profile.family, profile.bind)

    def tell(item: Knock) -> None:
        if order.verbose:
            port = "" if order.secret else ":%d" % item.port
            print("hitting %s %s%s" % (item.protocol, target.address, port), flush=True)

    if not order.wait:
        for sequence in profile.sequences:
            knock(target, sequence, profile.delay, tell)
        return
    begin = time.monotonic()
    wait_open(target, order.wait, profile.sequences, profile.delay, profile.timeout, tell)
    if order.verbose:
        print("port %d of %s is open after %.0f ms" % (order.wait, target, (time.monotonic() - begin) * 1000))


def _number(name: str, value: str, largest: float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1
    if not 0 <= number <= largest:
        raise UsageError("--%s %s is not a number from 0 to %d" % (name, value, largest))
    return number
