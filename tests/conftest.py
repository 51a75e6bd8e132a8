# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all tests share: they remove what they made, however they end."""

from __future__ import annotations

from .netns.lab import clean_up_when_ended


def pytest_configure() -> None:
    clean_up_when_ended()
