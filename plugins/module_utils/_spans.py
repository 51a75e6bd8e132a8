# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets of addresses or ports as spans of numbers, so that a rule can be asked about all strangers at once."""

from __future__ import annotations

from bisect import bisect_left
from ipaddress import ip_network
from typing import Tuple

Spans = Tuple[Tuple[int, int], ...]
"""Sorted, apart from each other; first and last are included."""

EVERYWHERE: dict[str, Spans] = {"v4": ((0, 2**32 - 1),), "v6": ((0, 2**128 - 1),)}
PORTS: Spans = ((0, 65535),)


def of_network(network: str) -> Spans:
    """The addresses of a network as iptables spells it. Raises ValueError."""
    found = ip_network(network, strict=False)
    return ((int(found.network_address), int(found.broadcast_address)),)


def size(spans: Spans) -> int:
    return sum(last - first + 1 for first, last in spans)


def common(left: Spans, right: Spans) -> Spans:
    if len(left) < len(right):
        left, right = right, left
    found = []
    for first, last in right:
        index = max(bisect_left(left, (first,)) - 1, 0)
        while index < len(left) and left[index][0] <= last:
            low, high = max(left[index][0], first), min(left[index][1], last)
            if low <= high:
                found.append((low, high))
            index += 1
    return tuple(found)


def without(left: Spans, right: Spans) -> Spans:
    for first, last in right:
        start = bisect_left(left, (first,))
        if start and left[start - 1][1] >= first:
            start -= 1
        stop = start
        while stop < len(left) and left[stop][0] <= last:
            stop += 1
        if start < stop:
            pieces = [(left[start][0], first - 1), (last + 1, left[stop - 1][1])]
            left = left[:start] + tuple(piece for piece in pieces if piece[0] <= piece[1]) + left[stop:]
    return left


def joined(left: Spans, right: Spans) -> Spans:
    found: list[tuple[int, int]] = []
    for first, last in sorted(left + right):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return tuple(found)
