# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the fault tests are given: the outcome of each fault; and the table that a whole run writes."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

from .campaign import Campaign, Row
from .hosts import docker
from .table import renew
from .test_faults import EVERYTHING


@pytest.fixture(scope="session")
def campaign(request: pytest.FixtureRequest) -> Iterator[Campaign]:
    """All the faults that this session asks for, begun at once."""
    wanted = [item.callspec.params["row"] for item in request.session.items if hasattr(item, "callspec")]
    running = Campaign(row for row in wanted if isinstance(row, Row))
    try:
        running.start()
        yield running
    finally:
        running.end()
        if EVERYTHING and not any(row.lacks for row in running.outcomes):
            renew(running)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    try:
        docker("version")
    except (OSError, AssertionError):
        for item in items:
            if item.path.parent == Path(__file__).parent:
                item.add_marker(pytest.mark.skip(reason="needs Docker"))
