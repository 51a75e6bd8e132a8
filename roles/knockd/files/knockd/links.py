# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Interfaces come and go: their names and addresses, followed through NETLINK_ROUTE (rtnetlink(7))."""

from __future__ import annotations

import errno
import socket
import struct
import sys
from typing import Dict, FrozenSet, Iterable, Optional, Set

from .netlink import NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, attributes, messages, request

ANY = "any"

# linux/rtnetlink.h
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100
IFLA_IFNAME, IFLA_MASTER, IFLA_LINKINFO, IFLA_INFO_SLAVE_KIND = 3, 10, 18, 4
IFA_ADDRESS, IFA_LOCAL = 1, 2

LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index


class Links:
    """What the kernel says about interfaces now; `read` takes in what it said since."""

    def __init__(self) -> None:
        self._names: Dict[int, str] = {}
        self._takers: Dict[int, int] = {}
        self._addresses: Dict[int, Set[bytes]] = {}
        self._interrupted = False
        # Subscribed before the first dump: what changes in between is told twice, never lost.
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR))
        self._load()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def index(self, name: str) -> Optional[int]:
        """The index of the interface that has this name now; 0 for `any`."""
        if name == ANY:
            return 0
        return next((index for index, known in self._names.items() if known == name), None)

    def taker(self, name: str) -> Optional[str]:
        """The bridge or bond that takes this interface's packets, so that they are heard there only; None without."""
        index = self.index(name)
        return self._names.get(self._takers.get(index, 0)) if index else None

    def addresses(self, names: Iterable[str]) -> FrozenSet[bytes]:
        """The packed addresses of these interfaces; of all for `any`."""
        wanted = set(names)
        return frozenset(
            address
            for index, addresses in self._addresses.items()
            if ANY in wanted or self._names.get(index) in wanted
            for address in addresses
        )

    def read(self) -> None:
        """Takes in all notifications that wait."""
        self._socket.setblocking(False)
        try:
            while True:
                for kind, _flags, payload in messages(self._socket.recv(65536)):
                    self._apply(kind, payload)
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self._load()  # some were lost: ask for all anew

    def _load(self) -> None:
        self._socket.setblocking(True)
        self._interrupted = True
        while self._interrupted:
            self._interrupted = False
            self._names.clear()
            self._takers.clear()
            self._addresses.clear()
            self._dump(RTM_GETLINK, LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
            self._dump(RTM_GETADDR, ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0))

    def _dump(self, kind: int, payload: bytes) -> None:
        self._socket.send(request(kind, NLM_F_DUMP, payload))
        while True:
            try:
                data = self._socket.recv(65536)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._interrupted = True
                continue
            for answer, flags, body in messages(data):
                if flags & NLM_F_DUMP_INTR:
                    self._interrupted = True
                if answer in (NLMSG_DONE, NLMSG_ERROR):
                    return
                self._apply(answer, body)

    def _apply(self, kind: int, payload: bytes) -> None:
        if kind in (RTM_NEWLINK, RTM_DELLINK) and len(payload) >= LINK.size:
            family, _type, index, _flags, _change = LINK.unpack_from(payload)
            if family != socket.AF_UNSPEC:
                return  # AF_BRIDGE: a port leaves its bridge, the interface stays
            self._takers.pop(index, None)
            if kind == RTM_DELLINK:
                self._names.pop(index, None)
                self._addresses.pop(index, None)
            else:
                found = attributes(payload[LINK.size :])
                self._names[index] = found.get(IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
                # A VRF is a master too, but leaves packets where they arrive.
                port = attributes(found.get(IFLA_LINKINFO, b"")).get(IFLA_INFO_SLAVE_KIND, b"").rstrip(b"\0")
                if IFLA_MASTER in found and port != b"vrf":
                    self._takers[index] = int.from_bytes(found[IFLA_MASTER], sys.byteorder)
        elif kind in (RTM_NEWADDR, RTM_DELADDR) and len(payload) >= ADDRESS.size:
            index = ADDRESS.unpack_from(payload)[4]
            found = attributes(payload[ADDRESS.size :])
            # On a point-to-point link IFA_ADDRESS is the peer's.
            address = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS)
            if address is None:
                return
            known = self._addresses.setdefault(index, set())
            if kind == RTM_NEWADDR:
                known.add(address)
            else:
                known.discard(address)
