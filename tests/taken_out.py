# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A file of a copy of the project, with something taken out of it: what tests that can fail have to notice."""

from __future__ import annotations

from pathlib import Path


def take_out(path: Path, old: str, new: str) -> None:
    """Replace what is there exactly once; else the product has changed, and this would take nothing out."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, "%r is %d times in %s" % (old, text.count(old), path.name)
    path.write_text(text.replace(old, new), encoding="utf-8")
