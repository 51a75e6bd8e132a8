# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One fleet for all tests, and for each test some of its hosts whose doors are closed."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Callable, Iterator

import pytest

from .controller import Controller
from .fleet import Fleet, Host

HOSTS = int(os.environ.get("SESAME_FLEET_HOSTS", "50"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid():
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """Fifty hosts, each with a closed port 22."""
    made = Fleet(HOSTS)
    try:
        made.build()
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="session")
def turns(fleet: Fleet) -> Iterator[Host]:
    """The hosts one after the other, and from the first again: whose turn it is was at rest for long."""
    return itertools.cycle(fleet.hosts)


@pytest.fixture
def take(turns: Iterator[Host]) -> Callable[[int], list[Host]]:
    """Give hosts whose port 22 is closed, over IPv4 and IPv6."""

    def some(count: int) -> list[Host]:
        hosts = list(itertools.islice(turns, count))
        assert not any(host.is_open(family) for host in hosts for family in ("ipv4", "ipv6"))
        return hosts

    return some


@pytest.fixture
def web(take: Callable[[int], list[Host]]) -> Host:
    """One host whose port 22 is closed."""
    return take(1)[0]


@pytest.fixture
def controller(fleet: Fleet) -> Iterator[Controller]:
    made = Controller(fleet)
    yield made
    made.remove()


@pytest.fixture(params=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest, controller: Controller) -> str:
    """The hosts are reached through this family."""
    controller.family = request.param
    return controller.family
