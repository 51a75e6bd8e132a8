# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`knock-proxy PROFILE HOST PORT`: the ProxyCommand of ssh that knocks, connects, hands the socket over and is gone.

    ProxyCommand knock-proxy ~/.config/sesame-knock/web1.json %h %p
    ProxyUseFdpass yes

With ProxyUseFdpass, ssh reads one byte with one descriptor from the socket that is our stdout, waits for our end, and
then owns the connection: not one byte of the session comes through here. Without it, stdout is a pipe, and we relay.

What went wrong has to reach the person. But with ControlPersist, which Ansible uses, ssh throws the stderr of a
ProxyCommand away (sshconnect.c) and would only say "proxy dialer did not pass back a connection". So we hand over a
pipe in which an SSH server has already had its say and disconnected (RFC 4253, section 11.1): ssh prints the reason.

A profile with a `jump` is for a host behind a jump host: then the knock and the connection leave from there (jump.py).
"""

from __future__ import annotations

import array
import os
import select
import socket
import stat
import struct
import sys

from ._knocker import KnockError, connect, resolve
from ._profile import Profile, ProfileError, read_profile
from ._runtime import is_kept_here, renew

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it takes longer than knocking
    from typing import Sequence

STDIN, STDOUT = 0, 1
USAGE = "usage: knock-proxy PROFILE HOST PORT"


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Its exit status: 0, 2 bad arguments or profile, 3 unknown host, 4 no route, 5 stays closed, 7 the jump host.
    """
    if len(arguments) != 3 or not arguments[2].isdecimal():
        print(USAGE, file=sys.stderr)
        return 2
    path, host, port = arguments
    try:
        profile = read_profile(path)
        keep(path)
        if profile.jump:
            go_through_jump(profile, host, int(port))
            return 0
        target = resolve(host, profile.family, profile.bind)
        connection = connect(target, int(port), profile.sequences, profile.delay, profile.timeout)
    except ProfileError as error:
        tell(str(error))
        return 2
    except KnockError as error:
        tell(str(error))
        return error.status
    except KeyboardInterrupt:
        return 130
    # ssh's TCPKeepAlive reaches only connections that ssh made itself.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    try:
        if is_passing_descriptors():
            hand_over(connection.fileno())
        else:
            relay(connection)
    except ConnectionError:
        pass  # one side is gone, and ssh says so better
    except KeyboardInterrupt:
        return 130
    return 0


def keep(path: str) -> None:
    """Keep a profile that a lookup has made: ssh may be started anew for as long as a task goes on."""
    if is_kept_here(path):
        try:
            renew(path)
        except OSError:
            pass  # a disk that cannot be written now


def go_through_jump(profile: Profile, host: str, port: int) -> None:
    """Knock from the jump host, and hand over a connection through it, or become it."""
    from .jump import Jump  # which most connections do not need

    with Jump(profile) as jump:
        address = jump.knock(host, port)
        if not is_passing_descriptors():
            jump.become_connection(address, port)
        with jump.connect(address, port) as connection:
            hand_over(connection.fileno())


def is_passing_descriptors() -> bool:
    """Does ssh wait for a descriptor (ProxyUseFdpass)?"""
    return stat.S_ISSOCK(os.fstat(STDOUT).st_mode)


def hand_over(descriptor: int) -> None:
    """Give ssh the descriptor, as mm_receive_fd in OpenSSH's monitor_fdpass.c reads it: with one byte of data."""
    with socket.socket(fileno=os.dup(STDOUT)) as ssh:
        ssh.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))])


def tell(message: str) -> None:
    """Say what went wrong, through ssh where it listens to nothing else."""
    if is_passing_descriptors():
        try:
            reader, _writer = os.pipe()
            # Open for both at once, as ssh's two halves need it (Linux allows it); what ssh writes queues up behind.
            conversation = os.open("/dev/fd/%d" % reader, os.O_RDWR)
            os.write(conversation, b"SSH-2.0-knock_proxy\r\n" + disconnect("knock-proxy: " + message))
            hand_over(conversation)
            return
        except OSError:
            pass  # no such pipes here: then as any program
    print("knock-proxy: %s" % message, file=sys.stderr)


def disconnect(reason: str) -> bytes:
    """SSH_MSG_DISCONNECT, service not available, in an unencrypted packet (RFC 4253, sections 6 and 11.1)."""
    service_not_available, text = 7, reason.encode()
    payload = struct.pack(">BII", 1, service_not_available, len(text)) + text + struct.pack(">I", 0)  # and no language
    padding = 4 + -(5 + len(payload) + 4) % 8
    return struct.pack(">IB", 1 + len(payload) + padding, padding) + payload + bytes(padding)


def relay(connection: socket.socket) -> None:
    """Copy both ways until the server's side ends."""
    inputs = [STDIN, connection.fileno()]
    while connection.fileno() in inputs:
        for ready in select.select(inputs, [], [])[0]:
            data = os.read(ready, 65536) if ready == STDIN else connection.recv(65536)
            if ready == STDIN:
                connection.sendall(data)
            else:
                _write(data)
            if not data:
                inputs.remove(ready)
                if ready == STDIN:
                    connection.shutdown(socket.SHUT_WR)


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(STDOUT, data) :]
