# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What we say will be there after a change is what the kernel has after it, with both iptables."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ansible_collections.sesame.knock.plugins.module_utils._rules import Table, after, delta, parse

from ...unit.firewall.rendering import render
from ..lab import CLIENT, CLIENT6
from .firewall_host import BOTH_IPTABLES, FirewallHost

pytestmark = pytest.mark.parametrize("host", BOTH_IPTABLES, indirect=True)

COMMANDS = {"v4": "iptables", "v6": "ip6tables"}
RULESETS = 40
BUILT_IN = {
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}
OURS = {"mangle": ("KNOCK-MARK",), "filter": ("KNOCK", "KNOCK-ADMIT", "KNOCK-ESCAPE")}


def some_rules(chance: random.Random, table: str, family: str) -> str:
    """A table as an administrator, fail2ban, command doors and older runs of ours leave it."""
    one, many = ("198.18.0.9/32", "198.18.0.0/24") if family == "v4" else ("fd00:5e5a::9/128", "fd00:5e5a::/64")
    ours = [chain for chain in OURS[table] if chance.random() < 0.6]
    targets = ["ACCEPT", "DROP", "RETURN", "other", "NFLOG --nflog-group 1"]
    jumps = [chain for chain in ours if chain == OURS[table][0]] * 3
    matches = ["", "-s %s " % one, "! -s %s " % one, "-s %s " % many, "-p tcp -m tcp --dport 22 "]
    matches += ["-i lo ", '-m comment --comment "a -j KNOCK b" ', "-p udp -m multiport --dports 53,60000:60010 "]
    lines = ["*" + table]
    lines += [":%s %s [0:0]" % (chain, chance.choice(["ACCEPT", "ACCEPT", "DROP"])) for chain in BUILT_IN[table]]
    lines += [":%s - [0:0]" % chain for chain in ["other", *ours]]
    for dummy in range(chance.randrange(9)):
        chain = chance.choice(["INPUT", "INPUT", "INPUT", "FORWARD"])
        lines.append(
            "-A %s %s-j %s" % (chain, chance.choice(matches), chance.choice(targets + jumps * (chain == "INPUT")))
        )
    for chain in ["other", *ours]:
        for dummy in range(chance.randrange(3)):
            lines.append("-A %s %s-j %s" % (chain, chance.choice(matches), chance.choice(targets[:3])))
    return "\n".join([*lines, "COMMIT", ""])


def some_candidate(chance: random.Random, family: str) -> dict[str, Table]:
    if chance.random() < 0.2:
        return {}  # ours are to go
    escape = chance.choice([0, 2222])
    variables: dict[str, Any] = {"knock_firewall_allowlist": [CLIENT, CLIENT6], "knock_firewall_escape_port": escape}
    return parse(render("rules.%s.j2" % family, **variables))


def by_chain(tables: dict[str, Table]) -> dict[str, dict[str, tuple[str, list[str]]]]:
    """Without what only says that a table or a chain of the kernel is there."""
    told = {}
    for name, table in tables.items():
        chains = {chain: (policy, table.rules_of(chain)) for chain, policy in table.chains.items()}
        assert sum(len(rules) for dummy, rules in chains.values()) == len(table.rules), "every rule is in a chain"
        told[name] = {chain: content for chain, content in chains.items() if content != ("ACCEPT", [])}
    return {name: chains for name, chains in told.items() if chains}


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_what_we_expect_after_a_change_is_what_the_kernel_has(host: FirewallHost, family: str) -> None:
    command = COMMANDS[family]
    chance = random.Random(4)
    changes = 0
    for dummy in range(RULESETS):
        tables = [table for table in BUILT_IN if chance.random() < 0.8]
        flushed = "".join("*%s\n:INPUT ACCEPT [0:0]\nCOMMIT\n" % table for table in BUILT_IN if table not in tables)
        text = flushed + "".join(some_rules(chance, table, family) for table in tables)
        host.run(command + "-restore", text=text)
        live = parse(host.run(command + "-save"))
        wanted = some_candidate(chance, family)
        expected, change = after(live, wanted), delta(live, wanted)
        host.run(command + "-restore", "--noflush", text=change)
        assert by_chain(expected) == by_chain(parse(host.run(command + "-save"))), text + change
        changes += bool(change)
    assert changes > RULESETS / 2


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_a_host_without_any_table_has_ours_afterwards(host: FirewallHost, family: str) -> None:
    wanted = parse(render("rules.%s.j2" % family, knock_firewall_allowlist=[CLIENT, CLIENT6]))
    expected = after({}, wanted)
    assert expected["filter"].chains["INPUT"] == "ACCEPT"
    host.run(COMMANDS[family] + "-restore", "--noflush", text=delta({}, wanted))
    assert by_chain(expected) == by_chain(parse(host.run(COMMANDS[family] + "-save"))) == by_chain(wanted)
