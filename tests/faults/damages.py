# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person's mistake does to the text of our rules: for each file, patterns and what they are replaced by."""

from __future__ import annotations

from typing import NamedTuple

Replacements = list[list[str]]


class Damage(NamedTuple):
    """The same mistake in rules.v4, rules.v6 and the file of nftables, which has both families."""

    v4: Replacements
    v6: Replacements
    nft: Replacements


_SESSIONS = [
    [r"^-A KNOCK-ADMIT .*RELATED,ESTABLISHED.*\n", ""],
    [r"^-A KNOCK-ADMIT -p tcp .*-j REJECT.*", "-A KNOCK-ADMIT -p tcp -j REJECT --reject-with tcp-reset"],
]
"""What the article does: no ESTABLISHED rule, and each packet is refused, not only what opens a connection."""
NO_SESSIONS = Damage(
    _SESSIONS,
    _SESSIONS,
    [
        [r"^\t\tct state established,related accept\n", ""],
        [r"^\t\ttcp flags .* (reject with tcp reset)$", r"\t\tmeta l4proto tcp \1"],
    ],
)
NO_SESSIONS_6 = Damage(
    [],
    _SESSIONS,
    [
        [r"^\t\t(ct state established,related accept)$", r"\t\tmeta nfproto ipv4 \1"],
        [r"^(\t\ttcp flags .* (reject with tcp reset))$", r"\1\n\t\tmeta nfproto ipv6 meta l4proto tcp \2"],
    ],
)

_ALLOWLIST = [[r"^-A KNOCK-ADMIT -s .*\n", ""]]
NO_ALLOWLIST = Damage(_ALLOWLIST, _ALLOWLIST, [[r"^\t\tip6? saddr .* accept\n", ""]])
NO_ALLOWLIST_6 = Damage([], _ALLOWLIST, [[r"^\t\tip6 saddr .* accept\n", ""]])

NO_IPV6 = Damage(
    [],
    [[r"(?s).+", "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n"]],
    [[r"^\t\t(tcp dport \S+ goto admit)$", r"\t\tmeta nfproto ipv4 \1"]],
)
NO_SENSE_6 = Damage(
    [], [[r"-j KNOCK-ADMIT$", "-j KNOCK-ADMIT --sport"]], [[r"^(\t\tip6 saddr \S+) accept$", r"\1 --sport accept"]]
)

_KNOCK = [[r"^-A KNOCK-ADMIT -m mark .*\n", ""]]
NO_KNOCK = Damage(_KNOCK, _KNOCK, [[r"^\t\tmeta mark & .* accept\n", ""]])

_REFUSAL = [[r"^-A KNOCK-ADMIT -p tcp .*-j REJECT.*\n", ""]]
NO_REFUSAL = Damage(_REFUSAL, _REFUSAL, [[r"^\t\ttcp flags .* reject with tcp reset\n", ""]])
