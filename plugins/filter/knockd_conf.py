# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters for knockd.conf: `knockd_conf_text` decodes one, `knockd_conf_check` reads it, both as the daemon does;
`knockd_conf_doors` takes doors out."""

from __future__ import annotations

import base64
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ansible_collections.sesame.knock.plugins.module_utils._sequence import SequenceError, parse_sequence

_DAEMON = Path(__file__).parents[2] / "roles" / "knockd" / "files" / "knockd"
_SECTION = re.compile(r"^\s*\[([^\]]*)\]", re.MULTILINE)
_SEQUENCE = re.compile(r"^\s*sequence\s*=([^#\n]*)", re.MULTILINE | re.IGNORECASE)


def _daemon_module(name: str) -> ModuleType:
    """Import a module of the daemon, which lives in its role, under a name that cannot collide."""
    package = "sesame_knock_daemon"
    if package not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            package, _DAEMON / "__init__.py", submodule_search_locations=[str(_DAEMON)]
        )
        if spec is None or spec.loader is None:
            raise ImportError("cannot import the daemon from %s" % _DAEMON)
        sys.modules[package] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[package])
    return importlib.import_module("%s.%s" % (package, name))


def knockd_conf_text(content: str) -> str:
    """Decode a file that comes in base64. Bytes that are not UTF-8 are the same again once the text is written."""
    return base64.b64decode(content).decode("utf-8-sig", "surrogateescape")


def knockd_conf_check(text: str, name: str = "knockd.conf") -> dict[str, Any]:
    """Read a configuration as the daemon will; `errors` and `warnings` name the line, and never a sequence."""
    config = _daemon_module("config")
    try:
        settings = config.parse(str(text), name)
    except config.ConfigError as error:
        return {"errors": [str(error)], "warnings": [], "opens": {}, "commands": []}
    return {
        "errors": [],
        "warnings": list(settings.warnings),
        "opens": {door.name: [str(ports) for ports in door.open_ports] for door in settings.doors if door.open_ports},
        "commands": [door.name for door in settings.doors if door.start_command or door.start_command_6],
    }


def knockd_conf_doors(text: str, doors: list[dict[str, Any]]) -> str:
    """Take the doors out of an adopted configuration, but those with a name or a sequence that one of `doors` has."""
    names = {door["name"] for door in doors}
    sequences = {_key(door.get("sequence")) for door in doors}
    kept = []
    starts = [match.start() for match in _SECTION.finditer(text)]
    for start, end in zip(starts, starts[1:] + [len(text)]):
        section = text[start:end].strip()
        name = _SECTION.match(section)
        written = _SEQUENCE.search(section)
        replaced = written is not None and _key(written.group(1)) in sequences
        if name and name.group(1) not in {"options", *names} and not replaced:
            kept.append(section)
    return "\n\n".join(kept)


def _key(sequence: Any) -> Any:
    """What makes two sequences the same, however they are written."""
    try:
        return parse_sequence(sequence)
    except SequenceError:
        return object()


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters."""
        return {
            "knockd_conf_text": knockd_conf_text,
            "knockd_conf_check": knockd_conf_check,
            "knockd_conf_doors": knockd_conf_doors,
        }
