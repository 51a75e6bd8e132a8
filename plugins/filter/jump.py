# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter for jump hosts: `jump_words` writes the words of a person's ssh that lead to one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.sesame.knock.plugins.module_utils._jump import JumpError, parse_jumps, words_for_person
from ansible_collections.sesame.knock.plugins.plugin_utils._inventory.written import NotWritable, check_host


def jump_words(value: Any, host: str, hostvars: Mapping[str, Any], known: Sequence[str]) -> list[str]:
    """Write the words of ssh for the `knock_jump` of a host."""
    try:
        for jump in parse_jumps(value):
            if jump in hostvars:
                check_host(jump, hostvars[jump])
        return words_for_person(value, host, hostvars, known)
    except (JumpError, NotWritable) as error:
        raise AnsibleFilterError("%s: %s" % (host, error)) from None


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filter."""
        return {"jump_words": jump_words}
