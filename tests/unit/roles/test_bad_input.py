# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input: one clear error each, from the real playbook, before a single connection to the host was tried."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
GOOD = "20113:tcp,11873:udp,28391:tcp"
ALLOWED = ["198.18.200.0/24"]

# host: (its variables, what the error names, what it must name as well)
MISTAKES: dict[str, tuple[dict[str, Any], str, str]] = {
    "no_sequence": ({}, "knock_sequence is not set for no_sequence", "lookup('sesame.knock.sequence')"),
    "empty_sequence": ({"knock_sequence": ""}, "knock_sequence is not set for empty_sequence", "vaulted"),
    "port_0": ({"knock_sequence": "20113:tcp,0:tcp"}, "knock_sequence: knock 2, '0:tcp'", "1 to 65535"),
    "port_70000": ({"knock_sequence": [20113, 70000]}, "knock_sequence: knock 2, '70000'", "1 to 65535"),
    "protocol": ({"knock_sequence": "20113:tcp,20114:sctp"}, "knock_sequence: knock 2, '20114:sctp'", "tcp and udp"),
    "own_port": ({"knock_sequence": "20113:tcp,22:tcp,28391:tcp"}, "[ssh]", "22/tcp"),
    "same_sequence": (
        {
            "knock_sequence": GOOD,
            "knockd_doors": [{"name": "web", "sequence": GOOD.split(","), "open_ports": ["443/tcp"]}],
        },
        "[web]",
        "[ssh]",
    ),
    "door_without_sequence": (
        {"knock_sequence": GOOD, "knockd_doors": [{"name": "web", "open_ports": ["443/tcp"]}]},
        "knockd_doors[0].sequence",
        "empty",
    ),
    "bad_port_to_open": ({"knock_sequence": GOOD, "knockd_open_ports": ["ssh"]}, "knockd_open_ports: ", "ssh"),
    "two_lines": ({"knock_sequence": GOOD, "knockd_tcpflags": "syn\nnonsense"}, "knockd_tcpflags: ", "nonsense"),
    "two_options": ({"knock_sequence": GOOD, "knockd_interface": "lo -c /tmp/x"}, "knockd_interface: ", "lo -c /tmp/x"),
    "a_command_of_root": (
        {"knock_sequence": GOOD, "knockd_preset": "open_close_commands", "knockd_open_ports": ["22/tcp; reboot"]},
        "knockd_open_ports: ",
        "22/tcp; reboot",
    ),
    "a_zone": (
        {"knock_sequence": GOOD, "knock_firewall_allowlist": ["fe80::1%x\n-A INPUT -j ACCEPT"]},
        "knock_firewall_allowlist: ",
        "fe80::1%x",
    ),
    "option_of_the_role": (
        {"knock_sequence": GOOD, "knockd_options": {"mark": "0x2000"}},
        "knockd_options: mark",
        "knockd_mark",
    ),
    "unknown_option": ({"knock_sequence": GOOD, "knockd_options": {"Magic": 1}}, "knockd.conf:", "Magic"),
    "unknown_preset": ({"knock_sequence": GOOD, "knockd_preset": "magic"}, "knockd_preset", "native"),
    "no_allowlist": ({"knock_sequence": GOOD, "knock_firewall_allowlist": None}, "knock_firewall_allowlist", ""),
    "empty_allowlist": (
        {"knock_sequence": GOOD, "knock_firewall_allowlist": []},
        "knock_firewall_allowlist",
        "knock_firewall_allow_empty_allowlist",
    ),
    "host_bits": (
        {"knock_sequence": GOOD, "knock_firewall_allowlist": ["198.18.200.7/24"]},
        "knock_firewall_allowlist",
        "198.18.200.0/24",
    ),
    "open_and_protected": (
        {
            "knock_sequence": GOOD,
            "knock_firewall_ports": ["22/tcp"],
            "knock_firewall_policy": "drop",
            "knock_firewall_open_ports": ["1-1023/tcp"],
        },
        "1-1023/tcp of knock_firewall_open_ports",
        "knock_firewall_ports",
    ),
    "closed_without_a_door": (
        {"knock_sequence": GOOD, "knock_firewall_ports": ["2222/tcp"], "knockd_open_ports": ["22/tcp"]},
        "opens 2222/tcp",
        "knockd_open_ports",
    ),
    "half_a_range_without_a_door": (
        {
            "knock_sequence": GOOD,
            "knock_firewall_ports": ["22/tcp", "60000-60010/udp"],
            "knockd_doors": [{"name": "ssh", "sequence": GOOD, "open_ports": ["22/tcp", "60000-60005/udp"]}],
        },
        "opens 60000-60010/udp",
        "knockd_doors",
    ),
    "closed_without_a_rule": (
        {
            "knock_sequence": GOOD,
            "knockd_preset": "start_stop_commands",
            "knock_firewall_ports": ["22/tcp", "8443/tcp"],
            "knockd_open_ports": ["22/tcp"],
        },
        "opens 8443/tcp",
        "knockd_open_ports",
    ),
    "unknown_policy": ({"knock_sequence": GOOD, "knock_firewall_policy": "reject"}, "knock_firewall_policy", "drop"),
    "not_a_network": (
        {"knock_sequence": GOOD, "knock_firewall_allowlist": ["office"]},
        "knock_firewall_allowlist",
        "office",
    ),
}


# host: (what its line of an inventory in INI format says, the variable that the error names, what else it must name).
# That format has no lists but those of Python's spelling, so `1.2.3.4/30,::1` and `[1.2.3.4, ::1]` are strings.
LINES: dict[str, tuple[str, str, str]] = {
    "no_quotes": (
        "knock_firewall_allowlist=[198.18.200.0/24,fd00:5e5a::/64]",
        "knock_firewall_allowlist",
        'write a list, ["198.18.200.0/24", "fd00:5e5a::/64"]',
    ),
    "spaces": (
        "knock_firewall_allowlist='198.18.200.0/24 fd00:5e5a::/64'",
        "knock_firewall_allowlist",
        'write a list, ["198.18.200.0/24", "fd00:5e5a::/64"]',
    ),
    "a_name": ("knock_firewall_allowlist=office", "knock_firewall_allowlist", 'write a list, ["office"]'),
    "a_number": ("knock_firewall_allowlist=24", "knock_firewall_allowlist", "24"),
    "a_mapping": ('knock_firewall_allowlist={\\"office\\":1}', "knock_firewall_allowlist", "dict"),
    "nothing": ("knock_firewall_allowlist=''", "knock_firewall_allowlist", "knock_firewall_allow_empty_allowlist"),
    "only_commas": ("knock_firewall_allowlist=,", "knock_firewall_allowlist", "knock_firewall_allow_empty_allowlist"),
    "ports": ("knock_firewall_ports=22/tcp;2222/tcp", "knock_firewall_ports", 'write a list, ["22/tcp", "2222/tcp"]'),
    "open_ports": ("knock_firewall_open_ports=http", "knock_firewall_open_ports", 'write a list, ["http"]'),
    "escape_from": (
        "knock_firewall_escape_port=2222 knock_firewall_escape_from=home",
        "knock_firewall_escape_from",
        'write a list, ["home"]',
    ),
    "doors_ports": ("knockd_open_ports=[22/tcp]", "knockd_open_ports", 'write a list, ["22/tcp"]'),
    "doors": ("knockd_doors=web", "knockd_doors", "dict"),
}
FINE = {
    "one_network": "knock_firewall_allowlist=198.18.200.0/24",
    "two_networks": "knock_firewall_allowlist=198.18.200.0/24,fd00:5e5a::/64",
    "a_list": 'knock_firewall_allowlist=["198.18.200.0/24"]'.replace('"', '\\"'),
    "no_port": "knock_firewall_ports='' knockd_open_ports=''",
    "one_port": "knock_firewall_ports=22 knockd_open_ports=22/tcp",
    "two_ports": "knock_firewall_ports=22/tcp,2222/tcp knockd_open_ports=22/tcp,2222/tcp",
    "commands": "knockd_preset=start_stop_commands knockd_open_ports=22/tcp,2222/tcp",
    "more": "knock_firewall_policy=drop knock_firewall_open_ports=80/tcp,443/tcp knock_firewall_ports=22/tcp",
    "a_way_out": "knock_firewall_escape_port=2222 knock_firewall_escape_from=198.18.7.7",
}


@pytest.fixture(scope="module")
def run_of_lines(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """The same over an inventory in INI format."""
    common = "ansible_host=198.18.255.254 knock_sequence=%s" % GOOD
    lines = {**{name: line for name, (line, _, _) in LINES.items()}, **FINE}
    texts = ["%s %s %s" % (name, common, line) for name, line in lines.items()]
    allowed = "[all:vars]\nknock_firewall_allowlist=%s\nansible_ssh_common_args=-o ConnectTimeout=1\n" % ALLOWED[0]
    inventory = tmp_path_factory.mktemp("inventory") / "hosts"
    inventory.write_text("[all]\n%s\n%s" % ("\n".join(texts), allowed))
    command = ["ansible-playbook", "-i", str(inventory), "--forks", "4", str(ROOT / "playbooks" / "site.yml")]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)


@pytest.mark.parametrize("host", LINES)
def test_a_string_that_is_no_list_is_an_error_that_says_so(
    host: str, run_of_lines: subprocess.CompletedProcess[str]
) -> None:
    _, named, cure = LINES[host]
    (message,) = re.findall(r"^fatal: \[%s\]: FAILED! => (.*(?:\n .*|\n\})*)" % host, run_of_lines.stdout, re.MULTILINE)
    assert named in message
    assert cure in message.replace('\\"', '"')
    assert "No host has been touched" not in message


@pytest.mark.parametrize("host", FINE)
def test_a_string_with_commas_is_a_list(host: str, run_of_lines: subprocess.CompletedProcess[str]) -> None:
    messages = re.findall(r"^fatal: \[%s\]: (?:.*(?:\n .*|\n\})*)" % host, run_of_lines.stdout, re.MULTILINE)
    assert not [message for message in messages if "No host has been touched" not in message]


def test_hosts_of_a_client_that_are_no_list_are_an_error_that_says_so(tmp_path: Path) -> None:
    inventory, playbook = tmp_path / "hosts", tmp_path / "play.yml"
    host = "%s knock_sequence=" + GOOD
    here = "localhost ansible_connection=local knock_client_hosts=web1,web2 ansible_python_interpreter="
    inventory.write_text("\n".join([host % "web1", host % "web2", here + sys.executable, ""]))
    playbook.write_text(yaml.safe_dump([{"hosts": "localhost", "roles": ["sesame.knock.knock_client"]}]))
    command = ["ansible-playbook", "--check", "-i", str(inventory), str(playbook)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)
    (message,) = re.findall(r"^fatal: \[localhost\]: FAILED! => (.*(?:\n .*|\n\})*)", done.stdout, re.MULTILINE)
    assert "knock_client_hosts" in message
    assert 'write a list, ["web1", "web2"]' in message.replace('\\"', '"')


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """One run of site.yml over hosts that are not there, each with a mistake of its own."""
    hosts = {
        name: {
            # TEST-NET of benchmarking that nobody routes: a connection would show as unreachable
            "ansible_host": "198.18.255.254",
            "knock_firewall_allowlist": ALLOWED,
            **variables,
        }
        for name, (variables, _, _) in MISTAKES.items()
    }
    del hosts["no_allowlist"]["knock_firewall_allowlist"]
    hosts["article"] = {**hosts["port_0"], "knock_sequence": "10001:tcp,10002:tcp,10003:tcp"}
    inventory = tmp_path_factory.mktemp("inventory") / "hosts.yml"
    common = {"ansible_ssh_common_args": "-o ConnectTimeout=1"}
    inventory.write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": common}}))
    command = ["ansible-playbook", "-i", str(inventory), "--forks", "4", str(ROOT / "playbooks" / "site.yml")]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)


@pytest.mark.parametrize("host", MISTAKES)
def test_a_mistake_is_one_clear_error_before_anything_changes(host: str, run: subprocess.CompletedProcess[str]) -> None:
    _, named, cure = MISTAKES[host]
    failures = re.findall(r"^fatal: \[%s\]: (\S+) => (.*(?:\n .*|\n\})*)" % host, run.stdout, re.MULTILINE)
    assert len(failures) == 1, run.stdout + run.stderr
    status, message = failures[0]
    assert status == "FAILED!", message
    assert named in message.replace('\\"', '"')
    assert cure in message.replace('\\"', '"')
    recap = re.search(r"^%s +: .*" % host, run.stdout, re.MULTILINE)
    assert recap and "changed=0" in recap.group() and "unreachable=0" in recap.group()


def test_no_host_is_touched_as_long_as_one_has_a_mistake(run: subprocess.CompletedProcess[str]) -> None:
    # This host has none, and a connection to it would show as unreachable
    assert re.search(r"^article +: .*unreachable=0", run.stdout, re.MULTILINE)
    (message,) = re.findall(r"^fatal: \[article\]: FAILED! => .*(?:\n .*|\n\})*", run.stdout, re.MULTILINE)
    assert "No host has been touched" in message
    assert "not_a_network" in message


def test_a_weak_sequence_is_a_warning_with_the_odds_and_the_way_to_a_better_one(
    run: subprocess.CompletedProcess[str],
) -> None:
    told = re.findall(r"^ok: \[article\] => \{\n +\"msg\": \[\n(.*?)\n    \]", run.stdout, re.MULTILINE | re.DOTALL)
    assert len(told) == 1, run.stdout
    assert "[ssh]" in told[0]
    assert "opens it every time, one in random order once in 6" in told[0]
    assert "lookup('sesame.knock.sequence')" in told[0]
    assert "10001" not in told[0]


def test_no_error_shows_a_whole_sequence(run: subprocess.CompletedProcess[str]) -> None:
    shown = run.stdout + run.stderr
    assert GOOD not in shown
    assert not re.search(r"20113.{1,8}11873", shown)
