#!/usr/bin/python
# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what decides over new connections on a host before we change anything."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: firewall_info
author:
  - The sesame.knock authors (@sesame-knock)
version_added: 0.1.0
short_description: Read what decides over new connections on a host
description:
  - Tells which firewall runs, which rules of others are saved, which ports are sent elsewhere before C(INPUT) sees
    them, and where sshd listens. Changes nothing, and is content with a host that has no iptables yet.
options:
  ports:
    description:
      - The ports to protect, such as V(22/tcp) or V(60000-60010/udp).
      - Without any, these are all ports on which sshd listens, except the second port that this collection made.
      - V(22/tcp) where sshd does not say.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Changes nothing, with or without it.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: See what is there
  sesame.knock.firewall_info:
    ports: [22/tcp]
  register: found
"""

RETURN = r"""
ports:
  description: The ports to protect, given or found.
  returned: always
  type: list
  elements: str
  sample: [22/tcp]
tools:
  description: Whether iptables, ip6tables and netfilter-persistent are installed.
  returned: always
  type: bool
backend:
  description:
    - Which firewall suits the host, V(iptables) or V(nftables).
    - V(nftables) where our rules are of nftables, or there is no iptables but nftables.service runs or is enabled.
  returned: always
  type: str
ours:
  description: The backends, V(iptables) or V(nftables), that hold rules of ours, live or saved.
  returned: always
  type: list
  elements: str
nftables:
  description: What is known for the backend V(nftables).
  returned: always
  type: dict
  contains:
    tools:
      description: Whether nft is installed.
      type: bool
    refuses:
      description: The same as RV(refuses), for the input chains of others in all tables of nftables.
      type: dict
ufw:
  description: Whether ufw is active.
  returned: always
  type: bool
firewalld:
  description: Whether firewalld is running.
  returned: always
  type: bool
published:
  description: Protected ports that DNAT, REDIRECT or Docker takes away before C(INPUT).
  returned: always
  type: list
  elements: dict
  contains:
    ports:
      description: The protected port.
      type: str
    rule:
      description: The rule that takes it away.
      type: str
    container:
      description: The Docker container that publishes it; empty if none is known.
      type: str
saved:
  description: The saved rules that are not ours, by family (V(v4), V(v6)).
  returned: always
  type: dict
  contains:
    v4:
      description: The same keys as V(v6).
      type: dict
      contains:
        file:
          description: The path.
          type: str
        summary:
          description: One line for each rule, chain policy or set of chains that is not ours and can be kept.
          type: list
          elements: str
        tables:
          description: The same, table name to C(chains) (name to policy) and C(rules).
          type: dict
        left_out:
          description:
            - One line for each rule or chain that was only there at the moment of saving and must not be loaded at
              boot, such as fail2ban's bans, Docker's chains, and the hole of a knock to one of O(ports).
          type: list
          elements: str
refuses:
  description:
    - By family, how C(INPUT) refuses what no rule accepts, live or in the saved file. Our own rules do not count.
    - V(drop), V(reject), or empty if it lets it in.
  returned: always
  type: dict
  sample: {v4: drop, v6: ""}
allowed:
  description: The networks that our live rules let through to O(ports) without a knock, by family.
  returned: always
  type: dict
  sample: {v4: [198.18.0.7/32], v6: []}
mark:
  description: The bit of the packet mark that our live rules let through, such as V(0x1000); empty without such rules.
  returned: always
  type: str
base_chains:
  description:
    - Filter chains at the input hook of nftables that are neither ours nor those of iptables.
    - Each packet has to pass them too, whatever our rules say.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: What messages call it.
      type: str
      sample: The nftables chain inet filter input
    family:
      description: V(ip), V(ip6) or V(inet).
      type: str
    table:
      description: The table.
      type: str
    chain:
      description: The chain.
      type: str
    priority:
      description: Its priority.
      type: int
    policy:
      description: V(accept) or V(drop).
      type: str
    rules:
      description: How many rules it has.
      type: int
    families:
      description: V(v4), V(v6), or both.
      type: list
      elements: str
    refuses:
      description: Those of O(ports) to which nobody gets past this chain.
      type: list
      elements: str
other_iptables:
  description:
    - The rules of the other one of iptables-nft and iptables-legacy, by family, where it has any.
    - Each packet has to pass these too.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: What messages call it.
      type: str
      sample: INPUT of iptables-legacy
    command:
      description: The command that shows them.
      type: str
      sample: iptables-legacy-save
    families:
      description: V(v4) or V(v6), as a list.
      type: list
      elements: str
    rules:
      description: How many there are.
      type: int
    refuses:
      description: Those of O(ports) to which nobody gets past them.
      type: list
      elements: str
sshd_ports:
  description: The ports that C(sshd -T) names; empty where there is no sshd or it does not say.
  returned: always
  type: list
  elements: int
sshd_open:
  description: Those of RV(sshd_ports) that O(ports) does not name, but for the second port that this collection made.
  returned: always
  type: list
  elements: int
escape_port:
  description: The second port that M(sesame.knock.sshd_extra_port) made; V(0) if there is none.
  returned: always
  type: int
sshd_error:
  description: Why C(sshd -T) does not say; empty if it does.
  returned: always
  type: str
sshd_socket:
  description: Whether systemd listens in place of sshd (ssh.socket).
  returned: always
  type: bool
"""

import json
import os
from typing import Any, Dict, Tuple

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.sesame.knock.plugins.module_utils import _nftables
from ansible_collections.sesame.knock.plugins.module_utils._base_chains import base_chains, refused_by
from ansible_collections.sesame.knock.plugins.module_utils._bytes import carried
from ansible_collections.sesame.knock.plugins.module_utils._extra_port import extra_port
from ansible_collections.sesame.knock.plugins.module_utils._files import read
from ansible_collections.sesame.knock.plugins.module_utils._published import published, published_by_nftables
from ansible_collections.sesame.knock.plugins.module_utils._rules import (
    Ports,
    RulesError,
    Table,
    foreign,
    has_own,
    parse,
    parse_ports,
    refuses,
    value_of,
    words_of,
)
from ansible_collections.sesame.knock.plugins.module_utils._saved import sort
from ansible_collections.sesame.knock.plugins.module_utils._spans import Spans, joined, of_network

FAMILIES = {"v4": ("iptables", "/etc/iptables/rules.v4"), "v6": ("ip6tables", "/etc/iptables/rules.v6")}
ENGLISH = {"LC_ALL": "C", "LANGUAGE": "C"}


class Host:
    """The host's commands, each one optional: a missing one says nothing."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module

    def has(self, command: str) -> bool:
        return self.module.get_bin_path(command, opt_dirs=["/sbin", "/usr/sbin"]) is not None

    def run(self, command: str, *arguments: str) -> tuple[int, str, str]:
        path = self.module.get_bin_path(command, opt_dirs=["/sbin", "/usr/sbin"])
        if path is None:
            return 127, "", ""
        return self.module.run_command([path, *arguments], environ_update=ENGLISH)

    def runs_unit(self, unit: str) -> bool:
        return self.run("systemctl", "is-active", "--quiet", unit)[0] == 0

    def live_rules(self, command: str) -> dict[str, Table]:
        status, out, err = self.run(command + "-save")
        if status not in (0, 127):
            raise RulesError("%s-save failed: %s" % (command, err.strip()))
        return parse(out)

    def native_rules(self) -> list[dict[str, Any]]:
        status, out, dummy = self.run("nft", "--json", "list", "ruleset")
        return json.loads(out, strict=False).get("nftables", []) if status == 0 and out.strip() else []

    def other_iptables(self, command: str) -> tuple[str, dict[str, Table]]:
        """The -save command of the backend that `command` does not use, and what it shows."""
        other = "nft" if "legacy" in self.run(command, "--version")[1] else "legacy"
        save = "%s-%s-save" % (command, other)
        status, out, dummy = self.run(save)
        return save, parse(out) if status == 0 else {}

    def addresses(self) -> dict[str, Spans]:
        """Where others reach the host, by family; a family is missing where it has none, or ip does not say."""
        out = self.run("ip", "-j", "addr", "show")[1]
        found: dict[str, Spans] = {}
        for link in json.loads(out) if out.strip() else []:
            for item in link.get("addr_info", []):
                if item.get("family") in ("inet", "inet6") and item.get("local") and item.get("scope") != "host":
                    family = "v4" if item["family"] == "inet" else "v6"
                    found[family] = joined(found.get(family, ()), of_network(item["local"]))
        return found


def saved_rules(path: str) -> dict[str, Table]:
    try:
        return parse(read(path) or "")
    except RulesError as error:
        raise RulesError(
            "%s cannot be read, so no boot loads it: %s. Mend that line, or move the file away" % (path, error)
        ) from error


def allowed(live: dict[str, dict[str, Table]], native: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The sources that our chains for the protected ports name, by family; of the two backends one has such chains."""
    found: dict[str, list[str]] = {}
    for name, tables in live.items():
        rules = tables.get("filter", Table()).rules_of("KNOCK-ADMIT")
        found[name] = [source for source in (value_of(words_of(rule), "-s") for rule in rules) if source]
    for rule in (entry["rule"] for entry in native if "rule" in entry):
        if (rule["family"], rule["table"], rule["chain"]) == (_nftables.FAMILY, _nftables.NAME, "admit"):
            for match in (step["match"] for step in rule["expr"] if "match" in step):
                payload = match["left"].get("payload", {})
                if payload.get("field") == "saddr":
                    found["v4" if payload["protocol"] == "ip" else "v6"].append(network_of(match["right"]))
    return found


def live_mark(live: dict[str, dict[str, Table]], native: list[dict[str, Any]]) -> str:
    """The bit for which our live rules look; of the two backends one has such rules."""
    for tables in live.values():
        for rule in tables.get("filter", Table()).rules_of("KNOCK-ADMIT"):
            mark = value_of(words_of(rule), "--mark")
            if mark:
                return "0x%x" % int(mark.partition("/")[0], 16)
    for rule in (entry["rule"] for entry in native if "rule" in entry):
        if (rule["family"], rule["table"], rule["chain"]) == (_nftables.FAMILY, _nftables.NAME, "admit"):
            for match in (step["match"] for step in rule["expr"] if "match" in step):
                masked = match["left"].get("&", []) if isinstance(match["left"], dict) else []
                if {"meta": {"key": "mark"}} in masked and isinstance(match["right"], int):
                    return "0x%x" % match["right"]
    return ""


def network_of(value: Any) -> str:
    """A network of the listing of nft, as iptables-save spells it."""
    if isinstance(value, dict):
        return "%s/%d" % (value["prefix"]["addr"], value["prefix"]["len"])
    return "%s/%d" % (value, 128 if ":" in value else 32)


def summary_of(tables: dict[str, Table]) -> list[str]:
    lines = []
    for name, table in tables.items():
        lines += ["%s: policy of %s is %s" % (name, c, p) for c, p in table.chains.items() if p not in ("ACCEPT", "-")]
        lines += ["%s: %s" % (name, rule) for rule in table.rules]
        if not table.rules:
            lines += ["%s: chain %s" % (name, chain) for chain, policy in table.chains.items() if policy == "-"]
    return lines


Others = Dict[str, Tuple[str, Dict[str, Table]]]
"""By family: the -save command of the iptables that is not in use, and what it shows."""


def other_iptables(others: Others, ports: list[Ports]) -> list[dict[str, Any]]:
    found = []
    for family, (save, tables) in others.items():
        rules = sum(len(table.rules) for table in tables.values())
        refused = refused_by(tables.get("filter"), ports)
        if rules or refused:
            name = "INPUT of " + save.replace("-save", "")
            found.append({"name": name, "command": save, "families": [family], "rules": rules, "refuses": refused})
    return found


def published_ports(
    host: Host, live: dict[str, dict[str, Table]], others: Others, native: list[dict[str, Any]], ports: list[Ports]
) -> list[dict[str, Any]]:
    here = host.addresses()
    found = []
    known = []  # chains of nftables that a -save command has shown already; it is silent of others in its tables
    for family, tables in live.items():
        save, more = others[family]
        for each in (tables, more):
            found += published(each.get("nat"), family, ports, here.get(family, ()))
        if "nat" in (more if "-nft-" in save else tables):
            known.append("%s nat PREROUTING" % ("ip" if family == "v4" else "ip6"))
    found += published_by_nftables(native, ports, here, known)
    containers = {name: container_of(host, name) for name in dict.fromkeys(item.ports for item in found)}
    return [
        {
            "ports": item.ports,
            "rule": item.rule,
            "certain": item.is_certain,
            "container": containers[item.ports],
        }
        for item in found
    ]


def container_of(host: Host, ports: str) -> str:
    """The name of the container that `docker ps` shows with `0.0.0.0:22->8022/tcp`; empty if there is none."""
    number, dummy, protocol = ports.partition("/")
    for line in host.run("docker", "ps", "--format", "{{.Names}} {{.Ports}}")[1].splitlines():
        name, dummy, mappings = line.partition(" ")
        for mapping in mappings.split(", "):
            outside, arrow, inside = mapping.partition("->")
            if arrow and outside.rpartition(":")[2] == number and inside.endswith("/" + protocol):
                return name
    return ""


def sshd_ports(host: Host) -> tuple[list[int], str]:
    if not host.has("sshd"):
        return [], ""
    status, out, err = host.run("sshd", "-T")
    if status != 0:
        return [], carried((err or out).strip())
    ports = {int(line.split()[1]) for line in out.splitlines() if line.startswith("port ")}
    # `ListenAddress 198.18.0.1:2222` names a port that no Port line needs to name
    ports |= {int(line.rpartition(":")[2]) for line in out.splitlines() if line.startswith("listenaddress ")}
    return sorted(ports), ""


def is_protected(port: int, protected: list[Ports]) -> bool:
    return any(map(Ports(port, port, "tcp").overlaps, protected))


def backends_of_ours(families: list[dict[str, Table]], listing: list[dict[str, Any]]) -> list[str]:
    """Which backends hold rules of ours, live or saved."""
    found = ["iptables"] if any(has_own(tables) for tables in families) else []
    is_live = any(
        (entry["table"]["family"], entry["table"]["name"]) == (_nftables.FAMILY, _nftables.NAME)
        for entry in listing
        if "table" in entry
    )
    return found + (["nftables"] if is_live or os.path.exists(_nftables.FILE) else [])


def suggested_backend(host: Host, ours: list[str]) -> str:
    """What we have stays, also if the other one is installed later. nftables itself only where its owner uses it so."""
    if ours:
        return ours[-1]
    if host.has("iptables-restore"):
        return "iptables"
    uses = host.runs_unit("nftables.service") or host.run("systemctl", "is-enabled", "nftables.service")[0] == 0
    return "nftables" if host.has("nft") and uses else "iptables"


def read_host(host: Host, given: list[Ports]) -> dict[str, Any]:
    listening, error = sshd_ports(host)
    extra = extra_port()
    ports = given or [Ports(port, port, "tcp") for port in listening or [22] if port != extra]
    live = {name: host.live_rules(command) for name, (command, dummy) in FAMILIES.items()}
    native = host.native_rules()
    files = {name: saved_rules(path) for name, (dummy, path) in FAMILIES.items()}
    saved = {name: sort(foreign(tables), ports) for name, tables in files.items()}
    ours = backends_of_ours([*live.values(), *files.values()], native)
    others = {name: host.other_iptables(command) for name, (command, dummy) in FAMILIES.items()}
    return {
        "ports": [str(item) for item in ports],
        "tools": all(host.has(name) for name in ("iptables-restore", "ip6tables-restore", "netfilter-persistent")),
        "backend": suggested_backend(host, ours),
        "ours": ours,
        "nftables": {
            "tools": host.has("nft"),
            "refuses": {"v4": _nftables.refuses(native, "ip"), "v6": _nftables.refuses(native, "ip6")},
        },
        "ufw": "Status: active" in host.run("ufw", "status")[1],
        "firewalld": host.runs_unit("firewalld.service") or host.run("firewall-cmd", "--state")[0] == 0,
        "published": published_ports(host, live, others, native, ports),
        "saved": {
            name: {
                "file": FAMILIES[name][1],
                "summary": summary_of(kept),
                "tables": {table: {"chains": t.chains, "rules": t.rules} for table, t in kept.items()},
                "left_out": left_out,
            }
            for name, (kept, left_out) in saved.items()
        },
        "refuses": {
            name: refuses(foreign(live[name]).get("filter")) or refuses(saved[name].kept.get("filter"))
            for name in FAMILIES
        },
        "allowed": allowed(live, native),
        "mark": live_mark(live, native),
        "base_chains": [
            {**chain._asdict(), "name": chain.name, "families": list(chain.families)}
            for chain in base_chains(native, ports)
        ],
        "other_iptables": other_iptables(others, ports),
        "sshd_ports": listening,
        "sshd_open": [port for port in listening if port != extra and not is_protected(port, ports)],
        "escape_port": extra,
        "sshd_error": error,
        "sshd_socket": host.runs_unit("ssh.socket"),
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={"ports": {"type": "list", "elements": "str", "default": []}},
        supports_check_mode=True,
    )
    try:
        ports = [parse_ports(item) for item in module.params["ports"]]
        module.exit_json(changed=False, **read_host(Host(module), ports))
    except RulesError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
