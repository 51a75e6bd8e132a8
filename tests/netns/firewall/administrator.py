# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the administrator of a host types for their own firewall: by iptables, or by nft where that is all there is."""

from __future__ import annotations

from typing import Callable

from ansible_collections.sesame.knock.plugins.module_utils._rules import parse

Shell = Callable[[str], str]
"""Runs a script on the host and returns its output."""


class ByIptables:
    """A host with iptables, whichever of both its alternatives name."""

    texts = {"rules_v4": "rules.v4.j2", "rules_v6": "rules.v6.j2"}
    """Options of the module to templates of the role."""
    files = ("/etc/iptables/rules.v4", "/etc/iptables/rules.v6")
    ours = "KNOCK"
    """What names our rules in `rules`."""
    prepare = """
for family in iptables ip6tables; do
    for command in $family $family-save $family-restore; do
        ln -sf "/usr/sbin/$family-$backend${command#$family}" "/etc/alternatives/$command"
    done
done
"""
    """How a host gets there; $backend is nft or legacy."""

    def __init__(self, sh: Shell) -> None:
        self._sh = sh

    def rules(self) -> str:
        """The live rules and chains of both families, table by table, without what only says that a table is there."""
        lines = []
        for command in ("iptables", "ip6tables"):
            tables = parse(self._sh(command + "-save"))
            for name in sorted(tables):
                chains = [":%s %s" % item for item in tables[name].chains.items() if item[1] != "ACCEPT"]
                lines += ["%s -t %s %s\n" % (command, name, line) for line in chains + tables[name].rules]
        return "".join(lines)

    def rules_of_others(self) -> str:
        return "".join(line for line in self.rules().splitlines(keepends=True) if self.ours not in line)

    def have_rules(self) -> None:
        """A ban list, and a rule about something else."""
        self._each("-N f2b-sshd; COMMAND -A INPUT -p tcp --dport 22 -j f2b-sshd; COMMAND -A f2b-sshd -j RETURN")
        self._each("-t nat -A POSTROUTING -o eth9 -j MASQUERADE")

    def ban(self, address: str) -> None:
        """As fail2ban does it."""
        self._each("-N f2b-sshd; COMMAND -I INPUT -p tcp -j f2b-sshd")
        command = "ip6tables" if ":" in address else "iptables"
        self._sh("%s -A f2b-sshd -s %s -j REJECT" % (command, address))

    def mark_everything(self) -> None:
        self._each("-t mangle -A PREROUTING -j MARK --set-mark 0xffffffff")

    def drop_by_default(self, but: int = 22) -> None:
        """What we accept they need not accept as well."""
        self._each("-P INPUT DROP")

    def open_all(self) -> None:
        """What our rules have to come back from."""
        self._each("-I INPUT -p tcp --dport 22 -j ACCEPT")

    def flush_ours(self) -> None:
        self._each("-F KNOCK; COMMAND -D INPUT -j KNOCK")

    def load_saved(self) -> None:
        """What a boot does with the saved rules."""
        self._sh("""
            if [ -e /etc/iptables/rules.v4 ]; then iptables-restore /etc/iptables/rules.v4; fi
            if [ -e /etc/iptables/rules.v6 ]; then ip6tables-restore /etc/iptables/rules.v6; fi
        """)

    def lose_all(self) -> None:
        """What a boot does with the live rules."""
        for table in ("filter", "mangle", "nat"):
            self._each("-t %s -F; COMMAND -t %s -X" % (table, table))

    def _each(self, arguments: str) -> None:
        for command in ("iptables", "ip6tables"):
            self._sh("%s %s" % (command, arguments.replace("COMMAND", command)))


class ByNft:
    """A host without iptables, whose owner has an /etc/nftables.conf."""

    texts = {"rules_nft": "knock_firewall.nft.j2"}
    files = ("/etc/knock_firewall.nft",)
    ours = "knock_firewall"
    prepare = """
rm -f /etc/alternatives/iptables* /etc/alternatives/ip6tables*
echo 'flush ruleset
table inet filter {
    chain input { type filter hook input priority filter; policy accept; tcp dport 25 drop; }
}' > /etc/nftables.conf
mkdir -p /etc/systemd/system/sysinit.target.wants
ln -sf /lib/systemd/system/nftables.service /etc/systemd/system/sysinit.target.wants/nftables.service
"""

    def __init__(self, sh: Shell) -> None:
        self._sh = sh

    def rules(self) -> str:
        """The live tables, but for those that a daemon has, whose order says nothing."""
        return "".join(sorted(self._tables()))

    def rules_of_others(self) -> str:
        return "".join(sorted(table for table in self._tables() if "inet knock_firewall {" not in table))

    def have_rules(self) -> None:
        self._sh("nft -f /etc/nftables.conf; nft add table ip nat")
        self._sh("nft 'add chain ip nat post { type nat hook postrouting priority 100; }'")
        self._sh("nft add rule ip nat post oifname eth9 masquerade")

    def ban(self, address: str) -> None:
        self._sh("nft add table inet f2b-table")
        self._sh("nft 'add chain inet f2b-table f2b-chain { type filter hook input priority -1; }'")
        family = "ip6" if ":" in address else "ip"
        self._sh("nft add rule inet f2b-table f2b-chain meta l4proto tcp %s saddr %s reject" % (family, address))

    def mark_everything(self) -> None:
        self._sh(
            "nft add table inet marks; nft 'add chain inet marks pre { type filter hook prerouting priority -150; }'"
        )
        self._sh("nft add rule inet marks pre meta mark set 0xffffffff")

    def drop_by_default(self, but: int = 22) -> None:
        """With SSH and some ports open to all: what drops in a chain of its own cannot be overruled by ours."""
        self._sh("nft add table inet filter")
        self._sh("nft 'add chain inet filter input { type filter hook input priority 0; policy drop; }'")
        for match in ("tcp dport { 22, %d }" % but, "udp dport 60000-60010", "icmpv6 type 1-255"):
            self._sh("nft 'add rule inet filter input %s accept'" % match)

    def flush_ours(self) -> None:
        self._sh("nft flush table inet knock_firewall")

    def open_all(self) -> None:
        self._sh("nft flush chain inet knock_firewall admit")

    def load_saved(self) -> None:
        self._sh(
            "nft -f /etc/nftables.conf; if [ -e /etc/knock_firewall.nft ]; then nft -f /etc/knock_firewall.nft; fi"
        )

    def lose_all(self) -> None:
        self._sh("nft flush ruleset")

    def _tables(self) -> list[str]:
        listing = self._sh("nft -s list ruleset")
        return ["table " + table for table in listing.split("table ")[1:] if not table.startswith("inet admitted_")]
