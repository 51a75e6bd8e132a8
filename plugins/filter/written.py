# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter for templates: `written` writes a value that its reader takes for exactly this one, or names the variable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.sesame.knock.plugins.plugin_utils._inventory.written import KINDS, NotWritable


def written(value: Any, kind: str, variable: str) -> str:
    """Write a value of this kind."""
    try:
        return KINDS[kind](value)
    except NotWritable as error:
        raise AnsibleFilterError("%s: %s" % (variable, error)) from None


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filter."""
        return {"written": written}
