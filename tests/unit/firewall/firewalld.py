# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What firewalld makes of its zones, for who reads rules and for a kernel; each file says where it is from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILES = Path(__file__).parent / "firewalld"

GETS_IN = {
    "trixie-public": (True, True),
    "trixie-public-without-ssh": (False, False),
    "trixie-drop": (False, False),
    "trixie-source": (True, False),
    "bookworm-public": (True, True),
    "bookworm-public-without-ssh": (False, False),
}
"""Whether these rules let anybody of 198.18.0.0/24, and anybody with IPv6, through to 22/tcp."""


def listing(name: str) -> list[dict[str, Any]]:
    """The `nftables` array of `nft --json list ruleset`."""
    entries: list[dict[str, Any]] = json.loads((FILES / (name + ".json")).read_text(encoding="utf-8"))["nftables"]
    return entries


def to_load(name: str) -> str:
    """The same for `nft --json --file -`: the table would go with the nft that loads it if it had an owner."""
    entries = listing(name)
    for entry in entries:
        entry.get("table", {}).pop("flags", None)
    return json.dumps({"nftables": entries})
