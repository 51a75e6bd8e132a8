# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Protected ports that the host sends elsewhere (DNAT, REDIRECT, Docker): a real one behind it, and a real daemon."""

from __future__ import annotations

import errno
import secrets
import socket
from pathlib import Path
from typing import Any, Iterator

import pytest

from ..lab import (
    CLIENT,
    CLIENT6,
    GUARD,
    KNOCKS,
    PATIENCE,
    SERVER,
    SERVER6,
    SSH,
    STRANGER,
    STRANGER6,
    Lab,
    Namespace,
    Patience,
    eventually,
    run,
)
from .administrator import ByNft
from .firewall_host import TWO_BACKENDS, FirewallHost

BACKEND, BACKEND6 = "198.18.1.9", "fd00:5e5a:1::9"
INSIDE = 2022
"""The port that the backend serves: not the one that is protected."""

PROTECT: dict[str, Any] = {"knock_firewall_published": "protect", "knock_firewall_allowlist": [CLIENT, CLIENT6]}
NOBODY: dict[str, Any] = {**PROTECT, "knock_firewall_allowlist": []}

DOORS = SSH.format(open_timeout=600).replace("[options]", "[options]\n    Published = yes")
SHORT = SSH.format(open_timeout=1.5).replace("[options]", "[options]\n    Published = yes")
WITH_GUARD = DOORS.replace("[options]", "[options]\n    Guard = DIR/guard.conf")

BOTH = pytest.mark.parametrize(
    ("server", "client", "stranger"), [(SERVER, CLIENT, STRANGER), (SERVER6, CLIENT6, STRANGER6)], ids=["ipv4", "ipv6"]
)


class Gateway(FirewallHost):
    """A host with another one behind it, as a container is behind its host."""

    def build(self) -> None:
        lab = self.lab
        self.backend = lab._keep(Namespace("knock-b-" + secrets.token_hex(4)))
        self.backend.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0")
        lab.server.ip("link", "add", "inside", "type", "veth", "peer", "name", "eth0", "netns", self.backend.name)
        for namespace, name, end in ((lab.server, "inside", "1"), (self.backend, "eth0", "9")):
            namespace.ip("link", "set", name, "up")
            namespace.ip("address", "add", "198.18.1.%s/24" % end, "dev", name)
            namespace.ip("address", "add", "fd00:5e5a:1::%s/64" % end, "dev", name, "nodad")
        self.backend.ip("route", "add", "default", "via", "198.18.1.1")
        self.backend.ip("-6", "route", "add", "default", "via", "fd00:5e5a:1::1")
        lab.server.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        with self.backend:
            self.inside = lab._keep(
                socket.create_server(("", INSIDE), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
            )
        self.inside.settimeout(PATIENCE)

    def publish(self, chain: str = "PREROUTING") -> None:
        to = {"iptables": "%s:%d" % (BACKEND, INSIDE), "ip6tables": "[%s]:%d" % (BACKEND6, INSIDE)}
        for command, address in to.items():
            self.somebody(
                f"{command} -t nat -A {chain} -p tcp --dport 22 -j DNAT --to-destination {address}",
            )

    def somebody(self, script: str) -> None:
        """What others do on the host; they bring iptables where it has none, as a container of Kubernetes does."""
        if isinstance(self.admin, ByNft):
            run(*self.lab.server.command("sh", "-ec", script))
        else:
            self.sh(script)

    def each(self, rule: str) -> None:
        """The same rule of somebody in both families."""
        self.somebody("iptables %s; ip6tables %s" % (rule, rule))

    def session(self, server: str, source: str) -> tuple[socket.socket, socket.socket]:
        """Both ends of a connection that ends behind the host."""
        near = self.lab.connect(server, source)
        patience = Patience()
        while not near and not patience.is_over:  # a busy machine may take longer than one connection waits
            near = self.lab.connect(server, source)
        assert near
        far = self.lab._keep(self.inside.accept()[0])
        far.settimeout(PATIENCE)
        assert far.getpeername()[0].rpartition(":ffff:")[2] in (source, "::ffff:" + source)
        return near, far


def hear_each_other(near: socket.socket, far: socket.socket) -> bool:
    near.sendall(b"there")
    heard = far.recv(5)
    far.sendall(b"back")
    return heard == b"there" and near.recv(4) == b"back"


def gateway(lab: Lab, directory: Path, backend: str, publishes: bool = True) -> Iterator[Gateway]:
    made = Gateway(lab, directory, backend)
    try:
        made.build()
        if publishes:
            made.publish()
        yield made
    finally:
        made.remove()


@pytest.fixture(params=TWO_BACKENDS)
def host(request: pytest.FixtureRequest, lab: Lab, tmp_path: Path) -> Iterator[Gateway]:
    """A host without rules, that publishes port 22 of a host behind it, and one of the backends."""
    yield from gateway(lab, tmp_path, request.param)


# --- who gets through ------------------------------------------------------------------------------------------------


@BOTH
def test_without_it_a_published_port_is_open_to_all(host: Gateway, server: str, client: str, stranger: str) -> None:
    host.apply(**{**PROTECT, "knock_firewall_published": "stop"})
    host.session(server, stranger)


@BOTH
def test_the_allowlist_gets_through_and_a_stranger_does_not(
    host: Gateway, server: str, client: str, stranger: str
) -> None:
    host.apply(**PROTECT)
    assert hear_each_other(*host.session(server, client))
    assert not host.lab.is_open(server, source=stranger)


@BOTH
def test_a_knock_opens_the_way_to_the_knocker_only(host: Gateway, server: str, client: str, stranger: str) -> None:
    host.apply(**NOBODY)
    host.lab.daemon(DOORS)
    assert not host.lab.is_open(server, source=stranger)
    host.lab.knock(*KNOCKS, to=server, source=stranger)
    host.lab.opens(server, source=stranger)
    assert not host.lab.is_open(server, source=client)


def test_a_range_of_ports_is_opened_too(host: Gateway) -> None:
    host.apply(**NOBODY)
    host.lab.daemon(DOORS.replace("22/tcp", "20-25/tcp"))
    host.lab.knock(*KNOCKS)
    host.lab.opens()
    assert not host.lab.is_open(source=STRANGER)


def test_a_daemon_that_is_not_told_opens_input_only(host: Gateway) -> None:
    host.apply(**NOBODY)
    daemon = host.lab.daemon(DOORS.replace("Published = yes", "Published = no"))
    host.lab.knock(*KNOCKS)
    daemon.await_log("OPEN SESAME")
    assert not host.lab.is_open()
    daemon.reload(DOORS)
    assert host.lab.is_open()
    daemon.reload(DOORS.replace("Published = yes", ""))
    assert not host.lab.is_open()


@BOTH
def test_a_session_outlives_its_door(host: Gateway, server: str, client: str, stranger: str) -> None:
    host.apply(**NOBODY)
    host.lab.daemon(SHORT)
    host.lab.knock(*KNOCKS, to=server, source=stranger)
    eventually(lambda: host.lab.is_open(server, source=stranger), "the way opens")
    host.inside.accept()[0].close()
    session = host.session(server, stranger)
    host.lab.closes(server, source=stranger)
    assert hear_each_other(*session)


@BOTH
def test_a_session_from_before_lives_on_also_when_conntrack_forgets_it(
    host: Gateway, server: str, client: str, stranger: str
) -> None:
    session = host.session(server, stranger)
    host.apply(**NOBODY)
    assert not host.lab.is_open(server, source=stranger)
    assert hear_each_other(*session)
    host.run("conntrack", "-F")
    assert hear_each_other(*session)


@BOTH
def test_a_mark_of_somebody_else_opens_nothing(host: Gateway, server: str, client: str, stranger: str) -> None:
    host.apply(**NOBODY)
    host.each("-t mangle -A PREROUTING -j MARK --set-mark 0xffffffff")
    assert not host.lab.is_open(server, source=stranger)
    host.lab.daemon(DOORS)
    assert not host.lab.is_open(server, source=stranger)


@BOTH
def test_whoever_accepts_before_us_in_forward_opens_nothing(
    host: Gateway, server: str, client: str, stranger: str
) -> None:
    host.apply(**PROTECT)
    host.confirm()
    host.each("-I FORWARD -j ACCEPT")  # as Docker and podman do when they start
    assert not host.lab.is_open(server, source=stranger)
    assert host.lab.is_open(server, source=client)
    assert not host.apply(**PROTECT)["changed"]


@BOTH
def test_we_open_nothing_that_forward_refuses(host: Gateway, server: str, client: str, stranger: str) -> None:
    host.apply(**PROTECT)
    host.each("-P FORWARD DROP")
    assert not host.lab.is_open(server, source=client)


@BOTH
def test_the_host_itself_gets_through(host: Gateway, server: str, client: str, stranger: str) -> None:
    host.publish("OUTPUT")
    host.apply(**NOBODY)
    host.run("timeout", "5", "bash", "-c", "exec 3<>/dev/tcp/%s/22" % server)
    host.inside.accept()[0].close()


@BOTH
def test_other_published_ports_and_routed_connections_stay_as_they_are(
    host: Gateway, server: str, client: str, stranger: str
) -> None:
    to, backend = (BACKEND, BACKEND) if server == SERVER else ("[%s]" % BACKEND6, BACKEND6)
    command = "iptables" if server == SERVER else "ip6tables"
    host.somebody(f"{command} -t nat -A PREROUTING -p tcp --dport 80 -j DNAT --to-destination {to}:{INSIDE}")
    host.lab.client.ip("route", "add", backend, "via", server)
    with host.backend:
        host.lab._keep(socket.create_server(("", 2222), family=socket.AF_INET6, dualstack_ipv6=True))
    host.apply(**NOBODY, knock_firewall_ports=["22/tcp", "2222/tcp", "%d/tcp" % INSIDE])
    assert host.lab.is_open(server, source=stranger, port=80), "another published port"
    assert host.lab.is_open(backend, source=stranger, port=2222), "a connection that this host only routes"


@BOTH
def test_a_port_that_is_redirected_to_another_one_is_protected_too(
    host: Gateway, server: str, client: str, stranger: str
) -> None:
    host.each("-t nat -F PREROUTING")
    host.each("-t nat -A PREROUTING -p tcp --dport 22 -j REDIRECT --to-ports 2222")
    host.lab.sshd(2222)
    host.apply(**PROTECT)
    host.each("-t mangle -A PREROUTING -j MARK --set-mark 0xffffffff")
    assert host.lab.is_open(server, source=client)
    assert not host.lab.is_open(server, source=stranger)
    host.lab.daemon(DOORS)
    host.lab.knock(*KNOCKS, to=server, source=stranger)
    host.lab.opens(server, source=stranger)


@pytest.mark.parametrize("whose", ["host", "ours"])
def test_where_all_else_is_dropped_a_redirected_port_opens_to_those_who_may(host: Gateway, whose: str) -> None:
    host.each("-t nat -F PREROUTING")
    host.each("-t nat -A PREROUTING -p tcp --dport 22 -j REDIRECT --to-ports 2222")
    if whose == "host":
        host.admin.drop_by_default()
        if isinstance(host.admin, ByNft):  # nothing of ours can overrule another base chain
            host.sh("nft add rule inet filter input tcp dport 2222 accept")
    host.lab.sshd(2222)
    host.apply(**PROTECT, knock_firewall_policy="accept" if whose == "host" else "drop")
    assert host.lab.is_open(source=CLIENT)
    assert not host.lab.is_open(source=STRANGER)


def test_a_native_rule_of_nftables_is_no_way_round(host: Gateway) -> None:
    host.each("-t nat -F PREROUTING")
    host.lab.nft(
        "table ip mine { chain pre { type nat hook prerouting priority -100; tcp dport 22 dnat to %s:%d; }; }"
        % (BACKEND, INSIDE)
    )
    host.apply(**PROTECT)
    host.session(SERVER, CLIENT)
    assert not host.lab.is_open(source=STRANGER)


@BOTH
def test_udp_is_protected_as_well(host: Gateway, server: str, client: str, stranger: str) -> None:
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    host.somebody(f"iptables -t nat -A PREROUTING -p udp --dport 60000:60010 -j DNAT --to-destination {BACKEND}")
    host.somebody(f"ip6tables -t nat -A PREROUTING -p udp --dport 60000:60010 -j DNAT --to-destination {BACKEND6}")
    with host.backend:
        mosh = host.lab._keep(socket.socket(family, socket.SOCK_DGRAM))
    mosh.bind((BACKEND6 if ":" in server else BACKEND, 60003))
    mosh.settimeout(1)
    host.apply(**PROTECT, knock_firewall_ports=["22/tcp", "60000-60010/udp"])
    for source, gets_through in ((client, True), (stranger, False)):
        with host.lab.client, socket.socket(family, socket.SOCK_DGRAM) as caller:
            caller.bind((source, 0))
            caller.sendto(b"hello", (server, 60003))
        try:
            assert mosh.recvfrom(5)[1][0] == source
            assert gets_through
        except TimeoutError:
            assert not gets_through


# --- how it is spelled -----------------------------------------------------------------------------------------------


@pytest.fixture
def bare(request: pytest.FixtureRequest, lab: Lab, tmp_path: Path) -> Iterator[Gateway]:
    """A host that publishes nothing yet, with another one behind it."""
    yield from gateway(lab, tmp_path, request.param, publishes=False)


IN_NFT = """table ip mine {
    set p { type inet_service; elements = { 22, 80 }; }
    map m { type inet_service : ipv4_addr; elements = { 22 : BACKEND }; }
    map pair { type ipv4_addr . inet_service : ipv4_addr; elements = { SERVER . 22 : BACKEND }; }
    map v { type inet_service : verdict; elements = { 22 : jump x }; }
    map services { type ipv4_addr . inet_proto . inet_service : verdict; elements = { SERVER . tcp . 22 : goto x }; }
    map others { type ipv4_addr . inet_proto . inet_service : verdict; elements = { SERVER . tcp . 443 : goto x }; }
    set grows { type inet_service; size 9; flags dynamic; elements = { 22 }; }
    map empty { type inet_service : verdict; }
    chain x { meta l4proto tcp dnat to BACKEND:2022; }
    chain pre { type nat hook prerouting priority -100; policy accept; RULE; }
}"""
TO_2022 = "meta l4proto tcp dnat to BACKEND:2022"

SENT = {
    "port": "tcp dport 22 dnat to BACKEND:2022",
    "map": "dnat to tcp dport map { 22 : BACKEND }",
    "named_map": "dnat to tcp dport map @m",
    "map_of_pairs": "dnat to ip daddr . tcp dport map @pair",
    "map_of_ports": "meta l4proto tcp dnat to BACKEND:tcp dport map { 22 : 2022 }",
    "set": "tcp dport @p dnat to BACKEND:2022",
    "verdict_map": "tcp dport vmap { 22 : jump x }",
    "named_verdict_map": "tcp dport vmap @v",
    "services": "ip daddr . meta l4proto . th dport vmap @services",
    "jump_by_port": "tcp dport 22 jump x",
    "jump": "jump x",
    "no_port": "iifname eth0 ip daddr SERVER dnat to BACKEND",
    "no_address": TO_2022,
    "by_turns": TO_2022.replace("BACKEND:2022", "numgen inc mod 2 map { 0 : BACKEND, 1 : BACKEND } : 2022"),
    "pair": "meta l4proto . th dport { tcp . 22, udp . 53 } dnat to BACKEND",
    "not_another": "tcp dport != 80 dnat to BACKEND:2022",
    "greater": "tcp dport > 20 dnat to BACKEND:2022",
    "some_bits": "tcp dport & 0xff == 22 dnat to BACKEND:2022",
    "redirect": "tcp dport 22 redirect to :2222",
    "redirect_by_map": "meta l4proto tcp redirect to :tcp dport map { 22 : 2222 }",
    "redirect_all": "meta l4proto tcp redirect to :2222",
    "one_source_stays": "ip saddr 198.18.0.77 accept; " + TO_2022,
    "iptables": "COMMAND -p tcp --dport 22 -j DNAT --to-destination BACKEND:2022",
    "iptables_jump": "COMMAND -p tcp --dport 22 -j X; MORE X -p tcp -j DNAT --to-destination BACKEND:2022",
    "iptables_no_port": "COMMAND -d SERVER -j DNAT --to-destination BACKEND",
    "iptables_range": "COMMAND -p tcp --dport :30 -j REDIRECT --to-ports 2222",
    "iptables_not": "COMMAND -p tcp ! --dport 80 -j REDIRECT --to-ports 2222",
    "netmap": "COMMAND -p tcp --dport 22 -j NETMAP --to BACKEND",
    "beside_iptables": "COMMAND -p tcp --dport 99 -j REDIRECT; nft -f - <<END\n"
    "table ip nat {\nchain mine {\ntype nat hook prerouting priority -101\n" + TO_2022 + "\n}\n}\nEND",
    "among_iptables": "COMMAND -p tcp --dport 99 -j X; nft add rule ip nat X dnat to tcp dport map '{ 22 : BACKEND }';"
    "nft add rule ip nat PREROUTING tcp dport 22 jump X",
    "dynamic_set": "tcp dport @grows dnat to BACKEND:2022",
    "legacy": "LEGACY -p tcp --dport 22 -j DNAT --to-destination BACKEND:2022",
}
KEPT = {
    "not_it": "tcp dport != 22 redirect to :2222",
    "not_these": "tcp dport != { 22, 80 } redirect to :2222",
    "another": "tcp dport @p tcp dport != 22 dnat to BACKEND",
    "another_service": "ip daddr . meta l4proto . th dport vmap @others",
    "empty": "tcp dport vmap @empty",
    "udp": "udp dport 22 dnat to BACKEND",
    "accepted_before": "tcp dport 22 accept; " + TO_2022,
    "returned_before": "tcp dport vmap { 22 : return }; " + TO_2022,
    "another_address": "ip daddr 198.18.0.77 dnat to BACKEND",
    "not_local": "fib daddr type != local tcp dport 22 dnat to BACKEND",
    "iptables_not_it": "COMMAND -p tcp ! --dport 22 -j REDIRECT --to-ports 2222",
    "iptables_another_jump": "COMMAND -p tcp --dport 443 -j X; MORE X -p tcp -j DNAT --to-destination BACKEND",
    "iptables_accepted": "COMMAND -p tcp --dport 22 -j ACCEPT; MORE PREROUTING -p tcp -j REDIRECT --to-ports 2222",
    "output": "COMMAND_OUT -p tcp --dport 22 -j DNAT --to-destination BACKEND",
}
UNREAD = {"some_bits", "returned_before"}
"""What may be so or not, as far as we can read."""


def spell(host: Gateway, rule: str) -> None:
    for word, value in (("BACKEND", BACKEND), ("SERVER", SERVER), ("MORE", "iptables -t nat -A")):
        rule = rule.replace(word, value)
    if rule.startswith(("COMMAND", "LEGACY")):
        begin = {"LEGACY": "iptables-legacy -t nat -A PREROUTING", "COMMAND": "iptables -t nat -A PREROUTING"}
        begin["COMMAND_OUT"] = "iptables -t nat -A OUTPUT"
        word, rest = rule.split(" ", 1)
        host.somebody("iptables -t nat -N X; %s %s" % (begin[word], rest))
    else:
        rules = IN_NFT.replace("BACKEND", BACKEND).replace("SERVER", SERVER).replace("RULE", rule.replace("; ", "\n"))
        host.lab.nft(rules.replace("; ", "\n").replace(";", "\n").replace("{ type nat", "{\ntype nat"))


def meets_input(host: Gateway) -> bool:
    """Whether a stranger's connection to port 22 comes to the host's INPUT as such."""
    host.lab.nft("table inet witness { chain in { type filter hook input priority 300; tcp dport 22 counter; }; }")
    try:
        host.lab.is_open(source=STRANGER)
        return "packets 0" not in host.run("nft", "list", "table", "inet", "witness")
    finally:
        host.run("nft", "delete", "table", "inet", "witness")


BY_WHOM = [("nft" if "COMMAND" in rule else "native", name) for name, rule in {**SENT, **KEPT}.items()]
BY_WHOM += [("native", name) for name in ("iptables", "iptables_jump", "netmap")]
BY_WHOM += [("nft", name) for name in ("map", "no_port")]


@pytest.mark.parametrize(("bare", "name"), BY_WHOM, indirect=["bare"])
def test_what_is_sent_elsewhere_is_found_however_it_is_spelled_and_closed(bare: Gateway, name: str) -> None:
    bare.lab.sshd(2222)
    with bare.backend:
        for port in (22, 443):
            bare.lab._keep(socket.create_server((BACKEND, port), backlog=64))
    spell(bare, SENT.get(name) or KEPT[name])
    assert meets_input(bare) == (name in KEPT), "the kernel's word"
    found = bare.module("firewall_info", ports=["22/tcp"])["published"]
    if name not in UNREAD:
        assert [item["ports"] for item in found[:1]] == ["22/tcp"] * (name in SENT), found
    assert found or name in KEPT, "what cannot be read counts"
    bare.apply(**PROTECT)
    assert bare.lab.is_open(source=CLIENT)
    assert not bare.lab.is_open(source=STRANGER)


PRE = "chain pre {\ntype nat hook prerouting priority -100\n%s\n}\n}"


@pytest.mark.parametrize("bare", TWO_BACKENDS, indirect=True)
@pytest.mark.parametrize(
    "rules",
    [
        "table ip6 mine {\nchain x {\ndnat to BACKEND6\n}\n" + PRE % "tcp dport 22 jump x",
        "table inet mine {\n" + PRE % "meta l4proto tcp dnat ip6 to BACKEND6",
        "table inet mine {\n" + PRE % "dnat ip6 to tcp dport map { 22 : BACKEND6 }",
        "ip6tables -t nat -A PREROUTING -d SERVER6 -j DNAT --to-destination BACKEND6",
    ],
)
def test_the_same_by_ipv6(bare: Gateway, rules: str) -> None:
    with bare.backend:
        bare.lab._keep(socket.create_server((BACKEND6, 22), family=socket.AF_INET6, backlog=64))
    rules = rules.replace("BACKEND6", BACKEND6).replace("SERVER6", SERVER6)
    (bare.somebody if rules.startswith("ip6tables") else bare.lab.nft)(rules)
    assert {item["ports"] for item in bare.module("firewall_info", ports=["22/tcp"])["published"]} == {"22/tcp"}
    assert bare.lab.is_open(SERVER6, source=STRANGER6)
    bare.apply(**PROTECT)
    assert bare.lab.is_open(SERVER6, source=CLIENT6)
    assert not bare.lab.is_open(SERVER6, source=STRANGER6)


# --- the daemon's guard ----------------------------------------------------------------------------------------------


def refusal(lab: Lab, server: str, source: str) -> int:
    with lab.client, socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET) as caller:
        caller.settimeout(2)
        caller.bind((source, 0))
        return caller.connect_ex((server, 22))


@BOTH
def test_the_guard_answers_and_stays_when_the_rules_are_gone(
    host: Gateway, server: str, client: str, stranger: str
) -> None:
    (host.lab.directory / "guard.conf").write_text(GUARD.format(allow="%s, %s" % (CLIENT, CLIENT6)))
    host.apply(**PROTECT)
    host.lab.daemon(WITH_GUARD)
    assert refusal(host.lab, server, stranger) == errno.ECONNREFUSED
    host.sh("nft delete table inet knock_firewall") if isinstance(host.admin, ByNft) else host.each("-t mangle -F")
    assert refusal(host.lab, server, stranger) == errno.ECONNREFUSED
    assert hear_each_other(*host.session(server, client))
    host.lab.knock(*KNOCKS, to=server, source=stranger)
    host.lab.opens(server, source=stranger)


def test_the_guard_knows_a_redirected_port(host: Gateway) -> None:
    (host.lab.directory / "guard.conf").write_text(GUARD.format(allow=CLIENT))
    host.each("-t nat -F PREROUTING")
    host.each("-t nat -A PREROUTING -p tcp --dport 22 -j REDIRECT --to-ports 2222")
    host.lab.sshd(2222)
    host.lab.daemon(WITH_GUARD)
    assert not host.lab.is_open(source=STRANGER)
    assert host.lab.is_open(source=CLIENT)


# --- the change ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["nft", "legacy"])
def by_iptables(request: pytest.FixtureRequest, lab: Lab, tmp_path: Path) -> Iterator[Gateway]:
    """The same with one of the two iptables, whose chains lie among those of others."""
    yield from gateway(lab, tmp_path, request.param)


def test_a_revert_leaves_no_trace_among_the_rules_of_others(by_iptables: Gateway) -> None:
    host = by_iptables
    host.each("-t mangle -A FORWARD -p tcp -j TOS --set-tos 0")
    before = host.rules()
    host.apply(**PROTECT)
    assert host.rules().count(" -j KNOCK-PUBLISHED") == 2, "one jump for each family"
    assert host.revert()["changed"]
    assert host.rules() == before


def test_a_revert_puts_back_the_protection_that_a_change_has_taken_away(by_iptables: Gateway) -> None:
    host = by_iptables
    host.each("-t mangle -A FORWARD -p tcp -j TOS --set-tos 0")
    host.apply(**PROTECT)
    host.confirm()
    before = host.rules()
    host.apply(**{**PROTECT, "knock_firewall_published": "stop"})
    assert "KNOCK-PUBLISHED" not in host.rules()
    host.revert()
    assert host.rules() == before
    assert not host.lab.is_open(source=STRANGER)


def test_a_second_run_changes_nothing_and_the_files_say_what_is_live(by_iptables: Gateway) -> None:
    host = by_iptables
    host.apply(**PROTECT)
    host.confirm()
    again = host.apply(**PROTECT)
    assert not again["changed"]
    assert not again["diff"]
    assert not again.get("warnings")
    live = host.rules()
    host.sh("iptables-restore /etc/iptables/rules.v4; ip6tables-restore /etc/iptables/rules.v6")
    assert [line for line in host.rules().splitlines() if "KNOCK" in line] == [
        line for line in live.splitlines() if "KNOCK" in line
    ]


def test_a_jump_that_somebody_has_taken_away_comes_back(by_iptables: Gateway) -> None:
    host = by_iptables
    host.apply(**PROTECT)
    host.confirm()
    host.each("-t mangle -F POSTROUTING")
    host.session(SERVER, STRANGER)
    assert host.apply(check=True, **PROTECT)["changed"]
    host.run("knock-firewall", "check")
    assert not host.lab.is_open(source=STRANGER)
    assert not host.apply(**PROTECT)["changed"]


def test_it_is_there_from_boot_on(host: Gateway) -> None:
    host.apply(**PROTECT)
    host.confirm()
    host.reboot()
    host.publish()  # as Docker does, later
    host.session(SERVER, CLIENT)
    host.session(SERVER6, CLIENT6)
    assert not host.lab.is_open(SERVER, source=STRANGER)
    assert not host.lab.is_open(SERVER6, source=STRANGER6)


def test_absent_takes_it_all_away(host: Gateway) -> None:
    before = host.rules()
    host.apply(**PROTECT)
    host.confirm()
    assert host.module("firewall", state="absent")["changed"]
    assert host.rules() == before
