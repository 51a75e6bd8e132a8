# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""site.yml goes through a fleet in batches, and one host that does not come back keeps it from the next ones."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]


def touched(tmp_path: Path, *options: str, **variables: Any) -> list[str]:
    """The hosts that site.yml has tried to connect to: nobody is at their addresses."""
    hosts = {"web%d" % number: {"ansible_host": "198.18.255.%d" % number} for number in range(1, 5)}
    known = {
        "knock_sequence": "20113:tcp,11873:udp,28391:tcp",
        "knock_firewall_allowlist": ["198.18.200.0/24"],
        "ansible_ssh_common_args": "-o ConnectTimeout=1",
        **variables,
    }
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": known}}))
    command = ["ansible-playbook", "-i", str(inventory), *options, str(ROOT / "playbooks" / "site.yml")]
    run = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)
    return re.findall(r"^(web\d) +: .*unreachable=1", run.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("options", "variables", "expected"),
    [
        ([], {}, ["web1"]),
        ([], {"knock_serial": [2, "100%"]}, ["web1", "web2"]),
        (["-e", "knock_serial=75%"], {"knock_serial": 1}, ["web1", "web2", "web3"]),
    ],
    ids=["one-first", "from-the-inventory", "from-the-command-line"],
)
def test_the_first_that_does_not_come_back_is_the_last_that_is_touched(
    tmp_path: Path, options: list[str], variables: dict[str, Any], expected: list[str]
) -> None:
    assert touched(tmp_path, *options, **variables) == expected


def test_a_batch_ends_what_it_has_begun_and_is_the_last_one_if_a_host_is_missing(tmp_path: Path) -> None:
    # The play as it is, but for what it does to a host
    first, play = yaml.safe_load((ROOT / "playbooks" / "site.yml").read_text())
    play["tasks"] = [play["tasks"][0], {"ansible.builtin.ping": None}, play["tasks"][-1]]
    first["tasks"] = first["tasks"][-1:]
    (tmp_path / "site.yml").write_text(yaml.safe_dump([first, play]))
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    hosts = {"web1": {"ansible_host": "198.18.255.1"}, "web2": here, "web3": here}
    known = {"knock_serial": [2, "100%"], "ansible_ssh_common_args": "-o ConnectTimeout=1"}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": known}}))
    command = ["ansible-playbook", "-i", str(tmp_path / "hosts.yml"), str(tmp_path / "site.yml")]
    run = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)
    assert run.returncode != 0
    assert "web1 has not come back, so web3 and those after have not been touched" in run.stdout
    assert re.search(r"^web2 +: ok=2 .*failed=0", run.stdout, re.MULTILINE)
    assert re.search(r"^web3 +: ok=0 .*failed=1", run.stdout, re.MULTILINE)
