# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The templates and variables of role knock_firewall, as Ansible itself renders them with the role's own defaults."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ansible_collections.sesame.knock.plugins.module_utils._rules import foreign, parse, refuses

CHECKOUT = Path(__file__).parents[3]


def host_with(v4: str = "", v6: str = "") -> dict[str, Any]:
    """What the module firewall_info says of a host with these saved rules."""
    saved = {"v4": foreign(parse(v4)), "v6": foreign(parse(v6))}
    return {
        "saved": {
            family: {"tables": {name: {"chains": t.chains, "rules": t.rules} for name, t in tables.items()}}
            for family, tables in saved.items()
        },
        "refuses": {family: refuses(tables.get("filter")) for family, tables in saved.items()},
        "allowed": {"v4": [], "v6": []},
        "mark": "",
        "base_chains": [],
        "other_iptables": [],
        "backend": "iptables",
        "ours": [],
        "nftables": {"tools": True, "refuses": {"v4": "", "v6": ""}},
        "ports": ["22/tcp"],
        "sshd_ports": [22],
        "sshd_open": [],
        "escape_port": 0,
    }


@functools.cache
def _renderer(role: str = "knock_firewall") -> subprocess.Popen[str]:
    """It ends with the tests, when its input does."""
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "renderer.py"), role],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": _collections().name, "PYTHONDONTWRITEBYTECODE": "1"},
    )


@functools.cache
def _collections() -> tempfile.TemporaryDirectory[str]:
    """A place where Ansible finds the checkout by its full name; removed when the tests end."""
    place = tempfile.TemporaryDirectory()
    namespace = Path(place.name) / "ansible_collections" / "sesame"
    namespace.mkdir(parents=True)
    (namespace / "knock").symlink_to(CHECKOUT)
    return place


def _ask(renderer: subprocess.Popen[str], expression: str, variables: dict[str, Any]) -> Any:
    assert renderer.stdin
    assert renderer.stdout
    renderer.stdin.write(json.dumps({"expression": expression, "variables": variables}) + "\n")
    renderer.stdin.flush()
    answer = json.loads(renderer.stdout.readline())
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer["value"]


def evaluate(expression: str, host: dict[str, Any] | None = None, **variables: Any) -> Any:
    """What an expression is in the role, on a host that firewall_info found so, with these variables of a play."""
    return _ask(_renderer(), expression, {**variables, "__knock_firewall_host": host or host_with()})


def render(template: str, host: dict[str, Any] | None = None, **variables: Any) -> str:
    return text_of("knock_firewall", template, __knock_firewall_host=host or host_with(), **variables)


def text_of(role: str, template: str, **variables: Any) -> str:
    """Render a template of any role."""
    text = _ask(_renderer(role), "lookup('ansible.builtin.template', '%s')" % template, variables)
    assert isinstance(text, str)
    return text
