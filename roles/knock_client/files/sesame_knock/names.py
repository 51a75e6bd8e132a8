# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Profiles by their names: `web1` is ~/.config/sesame-knock/web1.json."""

from __future__ import annotations

import os

from ._profile import Profile, ProfileError, read_profile

SUFFIX = ".json"
# More names in a message would hide what it says.
_MOST_NAMES = 20


def folder() -> str:
    """Give the folder of this user's profiles; the role writes into ~/.config, also for who has moved theirs."""
    base = os.environ.get("XDG_CONFIG_HOME") or ""
    path = os.path.join(base, "sesame-knock")
    if os.path.isabs(base) and os.path.isdir(path):
        return path
    return os.path.expanduser("~/.config/sesame-knock")


def names() -> list[str]:
    """Give the names of all profiles."""
    try:
        found = os.listdir(folder())
    except OSError:
        return []
    return sorted(file[: -len(SUFFIX)] for file in found if file.endswith(SUFFIX) and _is_name(file[: -len(SUFFIX)]))


def read_named(name: str) -> Profile:
    """Read the profile of this name, which is a file of the folder and of no other place."""
    known = names()
    if name in known:
        return read_profile(os.path.join(folder(), name + SUFFIX))
    shown = ", ".join(known[:_MOST_NAMES])
    if len(known) > _MOST_NAMES:
        shown += " and %d more" % (len(known) - _MOST_NAMES)
    there = "there are " + shown if known else "there is none"
    raise ProfileError("no profile has the name %s: %s in %s" % (name, there, folder()))


def _is_name(text: str) -> bool:
    """Can people type it, and terminals show it?"""
    return text.isprintable() and not set(text) & set("/ ") and text[:1] not in ("", ".", "-")
