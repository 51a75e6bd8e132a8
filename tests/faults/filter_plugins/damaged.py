# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter `damaged`, for play_broken.yml: text with each pattern replaced, which has to be there."""

from __future__ import annotations

import re
from typing import Callable


def damaged(text: str, damage: list[tuple[str, str]]) -> str:
    for pattern, replacement in damage:
        text, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        if not count:
            raise ValueError("nothing in the rules is %s" % pattern)
    return text


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., str]]:
        return {"damaged": damaged}
