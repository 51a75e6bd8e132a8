# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two network namespaces without names, joined by a cable, which are gone when the process is: a host and its world.

Nothing here touches the namespace that the module runs in, and nothing outlives the module, however it ends: the
namespaces have no name, a child holds them, and the kernel kills that child when the module dies.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import resource
import shutil
import signal
import subprocess
from typing import Any, Callable, Iterator, NamedTuple, Sequence

_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_LONGEST = 60
"""Seconds after which a child is ended by its own alarm."""
_COMMAND_TAKES = 20

_SYSTEM_PATH = ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"

# Python has these two calls from 3.12 on only
_libc = ctypes.CDLL(None, use_errno=True)


class Cannot(Exception):
    """Why nothing can be tried out here, as the end of a sentence. That says nothing about any rule."""


class Refused(Exception):
    """What a command said that was given rules and did not take them."""


# --- a child that does not outlive us --------------------------------------------------------------------------------


def _die_with(parent: int) -> None:
    """Be killed when the parent is; a parent that is dead already counts too."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


class Child:
    """A forked process that does a piece of work in namespaces of its own, and answers by JSON."""

    def __init__(self, work: Callable[[], Any]) -> None:
        parent = os.getpid()
        reader, writer = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            # Whatever happens: what our caller has registered for its own end is not for us
            try:
                os.close(reader)
                _die_with(parent)
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(_LONGEST)
                with open(writer, "w", encoding="utf-8") as file:
                    json.dump(_outcome(work), file)
            finally:
                os._exit(0)
        os.close(writer)
        self._answer = open(reader, encoding="utf-8")  # noqa: SIM115 - `end` closes it

    def result(self) -> Any:
        """What the work returned, once it is done. Raises Cannot."""
        try:
            value, problem = json.loads(self._answer.read())
        except ValueError:
            raise Cannot("it did not come to its end within %d seconds" % _LONGEST) from None
        finally:
            self.end()
        if problem:
            raise Cannot(problem)
        return value

    def end(self) -> None:
        """End it, and with it its namespaces; once is enough."""
        self._answer.close()
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)  # it is there until somebody has waited for it
            os.waitpid(self._pid, 0)
            self._pid = 0


def _outcome(work: Callable[[], Any]) -> tuple[Any, str]:
    try:
        return work(), ""
    except Cannot as problem:
        return None, str(problem)
    except Exception as error:  # a mistake of ours says nothing about the rules either
        return None, "%s: %s" % (type(error).__name__, error)


# --- commands --------------------------------------------------------------------------------------------------------


def tool(name: str) -> str:
    """The path of a program of the host; empty if it is missing."""
    return shutil.which(name, path=os.environ.get("PATH", "") + _SYSTEM_PATH) or ""


_LIBRARY = """\
import sys
import nftables
status, _output, error = nftables.Nftables().cmd(sys.stdin.read())
sys.exit(error if status else 0)
"""


@functools.cache
def by_nft() -> list[str]:
    """A command that reads nft's language: nft, or else the library of our daemon; empty if there is neither."""
    if tool("nft"):
        return [tool("nft"), "-f", "-"]
    python = [tool("python3"), "-I", "-c"]
    has_library = python[0] and execute([*python, "import nftables"]).returncode == 0
    return [*python, _LIBRARY] if has_library else []


def execute(argv: Sequence[str], text: str = "", keep: Sequence[int] = ()) -> subprocess.CompletedProcess[str]:
    """Run a command that dies with us. Raises Cannot where there is no such program, or it hangs."""
    parent = os.getpid()
    try:
        # Not run_command of the module: it can neither limit a command's time nor have it die with us
        return subprocess.run(  # noqa: TID251  # pylint: disable=ansible-bad-function
            list(argv),
            input=text,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_COMMAND_TAKES,
            pass_fds=keep,
            preexec_fn=lambda: _die_with(parent),
            env={**os.environ, "LC_ALL": "C", "PATH": os.environ.get("PATH", "") + _SYSTEM_PATH},
            check=False,
        )
    except FileNotFoundError:
        raise Cannot("%s is missing" % argv[0]) from None
    except OSError as error:
        raise Cannot("%s: %s" % (argv[0], error.strerror)) from None
    except subprocess.TimeoutExpired:
        raise Cannot("%s did not end within %d seconds" % (argv[0], _COMMAND_TAKES)) from None


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """What a command that failed said, in one line."""
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines()]
    said = [line for line in lines if line and not line.startswith("#")]
    return " ".join(said)[:500] or "exit status %d" % done.returncode


# --- the two namespaces ----------------------------------------------------------------------------------------------


class Link(NamedTuple):
    """How the host hangs on its network, for one family."""

    interface: str
    """The name of the host's end."""
    address: str
    """The host's own address."""
    gateway: str
    """The other end of the cable. For IPv6 a link-local address, as routers have."""


HOST_LINK_LOCAL, GATEWAY_LINK_LOCAL = "fe80::2", "fe80::1"
_CABLE = "world"
"""The name of the world's end."""


class Scratch:
    """A host and a world. To be made in a process of its own: it moves this process to other namespaces."""

    def __init__(self, link: Link, sources: Sequence[str]) -> None:
        self._link = link
        self._version = "-6" if ":" in link.address else "-4"
        self._ip = tool("ip")
        if not self._ip:
            raise Cannot("the command ip is missing (package iproute2)")
        self.world = _new_namespace()
        self.host = _new_namespace()
        self._build(sources)

    def close(self) -> None:
        """The namespaces go when their last socket does."""
        os.close(self.world)
        os.close(self.host)

    @contextlib.contextmanager
    def at(self, namespace: int) -> Iterator[None]:
        """Sockets and commands of the block belong to this namespace."""
        _enter(namespace)
        yield

    def run(self, argv: Sequence[str], text: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command on the host."""
        with self.at(self.host):
            return execute(argv, text)

    def load(self, commands: Sequence[tuple[Sequence[str], str]]) -> None:
        """Give the host rules. Raises Refused."""
        for argv, text in commands:
            done = self.run(argv, text)
            if done.returncode != 0:
                raise Refused("%s: %s" % (os.path.basename(argv[0]), complaint(done)))

    def forget_neighbours(self) -> None:
        """Host and gateway have to find each other anew."""
        for namespace, interface in ((self.host, self._link.interface), (self.world, _CABLE)):
            with self.at(namespace):
                execute([self._ip, self._version, "neigh", "flush", "dev", interface])

    def introduce_neighbours(self) -> None:
        """Host and gateway know each other without asking."""
        ends = (
            (self.host, self._link.interface, self._link.gateway, self._hardware_address(self.world, _CABLE)),
            (self.world, _CABLE, self._link.address, self._hardware_address(self.host, self._link.interface)),
        )
        for namespace, interface, address, hardware in ends:
            self._batch(namespace, ["neigh replace %s lladdr %s dev %s nud permanent" % (address, hardware, interface)])

    def _hardware_address(self, namespace: int, interface: str) -> str:
        with self.at(namespace):
            return str(json.loads(execute([self._ip, "-j", "link", "show", interface]).stdout)[0]["address"])

    def _build(self, sources: Sequence[str]) -> None:
        interface, address, gateway = self._link
        width, nodad = ("128", " nodad") if self._version == "-6" else ("32", "")
        # No address is made by itself, and none waits until it is known to be unique: each counts at once
        self._batch(
            self.world,
            ["link set lo up"]
            + ["link add %s type veth peer name %s netns /proc/self/fd/%d" % (_CABLE, interface, self.host)]
            + ["link set %s addrgenmode none" % _CABLE, "link set %s up" % _CABLE],
        )
        self._batch(
            self.host,
            ["link set lo up", "link set %s addrgenmode none" % interface, "link set %s up" % interface]
            + ["addr add %s/%s dev %s%s" % (address, width, interface, nodad)]
            + (["addr add %s/64 dev %s nodad" % (HOST_LINK_LOCAL, interface)] if nodad else [])
            + ["route add default via %s dev %s onlink" % (gateway, interface)],
        )
        # On lo, so that the world asks for the host as a router does: from the address of its own
        self._batch(
            self.world,
            ["addr add %s/%s dev %s%s" % (gateway, "64" if nodad else "32", _CABLE, nodad)]
            + ["addr add %s/%s dev lo%s" % (source, width, nodad) for source in sources]
            + ["route add %s/%s dev %s" % (address, width, _CABLE)],
        )

    def _batch(self, namespace: int, lines: Sequence[str]) -> None:
        with self.at(namespace):
            done = execute(
                [self._ip, self._version, "-batch", "-"], "".join(line + "\n" for line in lines), (self.host,)
            )
        if done.returncode != 0:
            raise Cannot("the kernel refuses what a scratch network needs: ip: %s" % complaint(done))


def _new_namespace() -> int:
    """Leave for a new network namespace, and hold it."""
    if _libc.unshare(_CLONE_NEWNET):
        raise Cannot("the kernel refuses a network namespace: %s" % os.strerror(ctypes.get_errno()))
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET):
        raise Cannot("the kernel refuses to enter a network namespace: %s" % os.strerror(ctypes.get_errno()))


def allow_many_sockets() -> None:
    """As many open files as this process may have without asking anybody."""
    dummy, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = 16384 if most == resource.RLIM_INFINITY else min(most, 16384)
    resource.setrlimit(resource.RLIMIT_NOFILE, (enough, most))
