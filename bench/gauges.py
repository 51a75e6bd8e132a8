# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel knows of a process: CPU time, memory, wake-ups, and the packets that its sockets had no room for.

Everything is read from outside, in the same way for every daemon.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import socket
import stat
import struct
import time
from pathlib import Path
from typing import Iterator, NamedTuple

SYS_PIDFD_GETFD = 438  # the same number on every architecture; kernel 5.6
SOL_PACKET, PACKET_STATISTICS = 263, 6  # linux/if_packet.h
SO_DOMAIN, SO_GET_FILTER = 39, 26  # asm-generic/socket.h

_libc = ctypes.CDLL(None, use_errno=True)


def cpu(pid: int) -> float:
    """Seconds of CPU time, user and system, of all threads: exact, where /proc/PID/stat counts in ticks."""
    return sum(int(task.joinpath("schedstat").read_text().split()[0]) for task in _tasks(pid)) / 1e9


def user(pid: int) -> float:
    """Seconds of CPU time in user mode, in ticks of 10 ms."""
    fields = Path("/proc/%d/stat" % pid).read_text().rpartition(")")[2].split()
    return int(fields[11]) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    """Bytes of memory, rings that are shared with the kernel included."""
    return _status(Path("/proc/%d" % pid), "VmRSS") << 10


def wakeups(pid: int) -> int:
    """How often its threads have gone to sleep."""
    return sum(_status(task, "voluntary_ctxt_switches") for task in _tasks(pid))


class Packets(NamedTuple):
    """What a packet socket was offered, and what of it found no room."""

    offered: int
    dropped: int


def packets(pid: int) -> Packets:
    """The sum over the process's packet sockets since this was asked last (packet(7), PACKET_STATISTICS)."""
    offered = dropped = 0
    for line in _packet_sockets(pid):
        with line:
            seen = struct.unpack_from("=II", line.getsockopt(SOL_PACKET, PACKET_STATISTICS, 12))
            offered, dropped = offered + seen[0], dropped + seen[1]
    return Packets(offered, dropped)


def listens(pid: int) -> bool:
    """Whether it has a packet socket with its filter; libpcap's first one, of one instruction, lets nothing pass."""
    found = False
    for line in _packet_sockets(pid):
        with line:
            found = found or len(line.getsockopt(socket.SOL_SOCKET, SO_GET_FILTER, 1024)) > 1  # bytes: instructions
    return found


def rest(pid: int, seconds: float, patience: float = 30) -> None:
    """Wait until it has done next to nothing for so long."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        before = cpu(pid)
        time.sleep(seconds)
        if cpu(pid) - before < 0.01 * seconds:
            return


def _tasks(pid: int) -> list[Path]:
    return list(Path("/proc/%d/task" % pid).iterdir())


def _status(process: Path, name: str) -> int:
    found = re.search(r"^%s:\s*(\d+)" % name, process.joinpath("status").read_text(), re.MULTILINE)
    assert found, name
    return int(found[1])


def _packet_sockets(pid: int) -> Iterator[socket.socket]:
    """Duplicates of its packet sockets: counters can be read only through the socket itself."""
    process = os.pidfd_open(pid)
    try:
        for name in os.listdir("/proc/%d/fd" % pid):
            copy = _libc.syscall(SYS_PIDFD_GETFD, process, int(name), 0)
            if copy < 0 and ctypes.get_errno() == errno.EBADF:
                continue  # closed meanwhile
            if copy < 0:
                raise OSError(ctypes.get_errno(), "pidfd_getfd")
            if not stat.S_ISSOCK(os.fstat(copy).st_mode):
                os.close(copy)
                continue
            line = socket.socket(fileno=copy)
            if line.getsockopt(socket.SOL_SOCKET, SO_DOMAIN) == socket.AF_PACKET:
                yield line
            else:
                line.close()
    finally:
        os.close(process)
