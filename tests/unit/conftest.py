# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all unit tests share: where the daemon is, and how long hypothesis may search."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parents[2] / "roles/knockd/files"))

# A shared machine can be slow at any moment: the number of examples is the bound, not the time of one.
settings.register_profile("sesame", deadline=None, max_examples=200, derandomize=True, database=None)
settings.load_profile("sesame")
