# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Elements of the table's sets as nfnetlink messages.

libnftables reads the whole ruleset of the host again for each command: 5 ms beside 5,000 foreign chains. What happens
for a knocker goes to the kernel by these messages instead, in tens of microseconds, whatever else the host filters.
"""

from __future__ import annotations

from itertools import groupby
from struct import Struct
from typing import Iterable, List, NamedTuple

from .netlink import NLM_F_CREATE, attribute, nested, request

# linux/netfilter/nfnetlink.h and nf_tables.h
NETLINK_NETFILTER = 12
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 16, 17
NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_NEWSETELEM, NFT_MSG_GETSETELEM, NFT_MSG_DELSETELEM = (NFNL_SUBSYS_NFTABLES << 8 | kind for kind in (12, 13, 14))
NFPROTO_INET = 1
NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_LIST_ELEM = 1, 2, 3, 1
NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_TIMEOUT, NFTA_SET_ELEM_USERDATA, NFTA_SET_ELEM_KEY_END = 1, 4, 6, 10
NFTA_DATA_VALUE = 1
UDATA_COMMENT = 0  # libnftnl/udata.h: NFTNL_UDATA_SET_ELEM_COMMENT

NFGENMSG = Struct(">BBH")  # family, version, resource
_TIMEOUT = Struct(">Q")

COMMENT_BYTES = 127  # NFTNL_UDATA_COMMENT_MAXLEN without its end
PER_MESSAGE = 256
"""Elements in one message: a list of them is an attribute, and its length has 16 bits."""


class Element(NamedTuple):
    """One element of a set of our table."""

    set: str
    key: bytes
    """The fields one after the other, each filled up to 4 bytes."""
    end: bytes = b""
    """The last key of a range; empty for a single one."""
    timeout: int = 0
    """Milliseconds; 0 for as long as the table lives."""
    comment: bytes = b""


def add(table: bytes, elements: Iterable[Element]) -> List[bytes]:
    """The messages that add these; those that are there already stay as they are (and, from kernel 6.12, extend)."""
    return _messages(NFT_MSG_NEWSETELEM, NLM_F_CREATE, table, elements)


def delete(table: bytes, elements: Iterable[Element]) -> List[bytes]:
    """The messages that remove these, wherever they are there or not: deleting what is not there would be an error."""
    bare = [element._replace(timeout=0, comment=b"") for element in elements]
    return add(table, bare) + _messages(NFT_MSG_DELSETELEM, 0, table, bare)


def renew(table: bytes, elements: Iterable[Element]) -> List[bytes]:
    """The messages after which these are there with their own timeout, which adding alone does not give them."""
    elements = list(elements)
    return delete(table, elements) + add(table, elements)


def get(table: bytes, element: Element) -> bytes:
    """The message that asks for this one."""
    return _message(NFT_MSG_GETSETELEM, 0, table, [element])


def batch(messages: Iterable[bytes]) -> bytes:
    """All of these or none: a transaction."""
    ends = NFGENMSG.pack(0, 0, NFNL_SUBSYS_NFTABLES)
    return b"".join([request(NFNL_MSG_BATCH_BEGIN, 0, ends), *messages, request(NFNL_MSG_BATCH_END, 0, ends)])


def _messages(kind: int, flags: int, table: bytes, elements: Iterable[Element]) -> List[bytes]:
    made = []
    for _set, group in groupby(elements, lambda element: element.set):
        same = list(group)
        for first in range(0, len(same), PER_MESSAGE):
            made.append(_message(kind, flags, table, same[first : first + PER_MESSAGE]))
    return made


def _message(kind: int, flags: int, table: bytes, elements: List[Element]) -> bytes:
    return request(
        kind,
        flags,
        NFGENMSG.pack(NFPROTO_INET, 0, 0)
        + attribute(NFTA_SET_ELEM_LIST_TABLE, table + b"\0")
        + attribute(NFTA_SET_ELEM_LIST_SET, elements[0].set.encode() + b"\0")
        + nested(NFTA_SET_ELEM_LIST_ELEMENTS, b"".join(map(_element, elements))),
    )


def _element(element: Element) -> bytes:
    body = nested(NFTA_SET_ELEM_KEY, attribute(NFTA_DATA_VALUE, element.key))
    if element.end:
        body += nested(NFTA_SET_ELEM_KEY_END, attribute(NFTA_DATA_VALUE, element.end))
    if element.timeout:
        body += attribute(NFTA_SET_ELEM_TIMEOUT, _TIMEOUT.pack(element.timeout))
    if element.comment:
        text = element.comment + b"\0"
        body += attribute(NFTA_SET_ELEM_USERDATA, bytes((UDATA_COMMENT, len(text))) + text)
    return nested(NFTA_LIST_ELEM, body)
