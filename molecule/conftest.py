# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the scenarios' tests are given: a server as the controller sees it, and a client on the allowlist.

`host` is testinfra's, over the docker connection, because it has to see a host whose port is closed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from testinfra.host import Host

sys.path.insert(0, str(Path(__file__).parent / "shared"))

from vantage import ROOT, Client, Server, inventory, server_of


@pytest.fixture
def server(host: Host) -> Server:
    """The host under test; closed when the test begins."""
    server = server_of(host.backend.get_hostname())
    for address in (server.ipv4, server.ipv6):
        server.wait_closed(address)
    return server


@pytest.fixture(scope="session")
def allowed() -> Iterator[Client]:
    """A client whose addresses are on the allowlist."""
    known = next(iter(inventory().values()))
    network = known["test_network"]["name"]
    name = network + "-allowed"
    addresses = ["--ip", known["test_allowed"]["ipv4"], "--ip6", known["test_allowed"]["ipv6"]]
    run = ["docker", "run", "--detach", "--rm", "--name", name, "--network", network]
    run += ["--label", "sesame.knock=host", "--label", "sesame.knock.clone=%s" % ROOT]
    run += [*addresses, "--sysctl", "net.ipv6.conf.all.disable_ipv6=0", "--entrypoint", "sleep"]
    subprocess.run([*run, known["test_image"], "infinity"], check=True, capture_output=True)
    try:
        yield Client(name)
    finally:
        subprocess.run(["docker", "rm", "--force", name], check=True, capture_output=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Show the journal of the host where a test has failed."""
    report = yield
    host = getattr(item, "funcargs", {}).get("host")
    if report.failed and host is not None:
        journal = host.run("journalctl --no-pager --lines 80 --unit knockd --unit ssh --unit netfilter-persistent")
        rules = host.run("iptables-save; ip6tables-save; nft list ruleset")
        report.sections.append(("journal of %s" % host.backend.get_hostname(), journal.stdout))
        report.sections.append(("rules of %s" % host.backend.get_hostname(), rules.stdout))
    return report
