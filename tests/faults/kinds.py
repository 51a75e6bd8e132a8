# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kinds of hosts that faults happen to."""

from __future__ import annotations

from dataclasses import dataclass

from .backends import IPTABLES, NFTABLES, Backend


@dataclass(frozen=True, eq=False)
class Kind:
    """A Debian with a firewall."""

    name: str
    """A word, for `pytest -k`."""
    title: str
    short: str
    """The same for a column of a table."""
    suite: str
    """Debian's name of the image."""
    backend: Backend
    set_up: str = ""
    """A shell script: what its owner has done before us."""


KINDS = (
    TRIXIE := Kind("trixie", "Debian 13, iptables-nft", "13", "trixie", IPTABLES),
    BOOKWORM := Kind(
        "bookworm",
        "Debian 12, iptables-legacy",
        "12",
        "bookworm",
        IPTABLES,
        """
        apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends iptables
        for tool in iptables ip6tables; do update-alternatives --set $tool /usr/sbin/$tool-legacy; done
        """,
    ),
    # Debian's own /etc/nftables.conf, which begins with flush ruleset
    NATIVE := Kind(
        "native",
        "Debian 13, nftables",
        "13, nftables",
        "trixie",
        NFTABLES,
        """
        apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends nftables
        systemctl enable --now nftables.service
        """,
    ),
)
