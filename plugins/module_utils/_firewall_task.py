# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The arguments of `sesame.knock.firewall`: for the action (on the controller) and the module (on the host)."""

from __future__ import annotations

from typing import Any

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "state": {
        "type": "str",
        "choices": ["present", "applied", "confirmed", "reverted", "absent"],
        "default": "present",
    },
    "rules_v4": {"type": "str"},
    "rules_v6": {"type": "str"},
    "rules_nft": {"type": "str"},
    "guard": {"type": "str"},
    "revert_after": {"type": "int", "default": 120},
    "gates": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str", "required": True},
            "ports": {"type": "list", "elements": "str", "required": True},
            "allow": {"type": "list", "elements": "str", "required": True},
            "knock": {"type": "bool", "required": True},
        },
    },
    "mark": {"type": "str", "default": "0x1000"},
    "rehearse": {"type": "bool", "default": True},
    "token": {"type": "str", "no_log": False},
    "prove": {"type": "bool", "default": True},
    "host": {"type": "str"},
    "port": {"type": "int"},
    "sequence": {"type": "raw", "no_log": True},
    "close_sequence": {"type": "raw", "no_log": True},
    "open_timeout": {"type": "int", "default": 10},
    "native": {"type": "bool", "default": True},
}
CHECKS: dict[str, list[Any]] = {
    "required_if": [("state", state, ("rules_v4", "rules_nft"), True) for state in ("present", "applied")],
    "required_together": [("rules_v4", "rules_v6")],
    "mutually_exclusive": [("rules_v4", "rules_nft")],
}

ON_THE_CONTROLLER = ("prove", "host", "port", "sequence", "close_sequence", "open_timeout", "native")
"""What the host needs not know: it is not sent there."""
