# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rehearsal: the role's own candidates pass it, each way to break them is found, and nothing of it is left."""

from __future__ import annotations

import functools
import json
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from ansible_collections.sesame.knock.plugins.module_utils._loads import iptables_load, nftables_load
from ansible_collections.sesame.knock.plugins.module_utils._rules import parse

from ...unit.firewall.rendering import host_with, render
from ..lab import SERVER, Lab, eventually
from .firewall_host import FirewallHost

SCRIPT = """
import json, sys
from ansible_collections.sesame.knock.plugins.module_utils._gates import read_gates
from ansible_collections.sesame.knock.plugins.module_utils._loads import Load
from ansible_collections.sesame.knock.plugins.module_utils._rehearsal import rehearse
asked = json.load(sys.stdin)
load = {family: Load(*commands) for family, commands in asked["load"].items()}
json.dump(rehearse(load, read_gates(asked["gates"], 0x1000))._asdict(), sys.stdout)
"""

ALLOW = ["198.51.100.0/28", "203.0.113.9/32", "2001:db8:1::/48"]
GATE = {"name": "protected", "ports": ["22/tcp"], "allow": ALLOW, "knock": True}
ROLE: dict[str, Any] = {"knock_firewall_allowlist": ALLOW}
WEB = {"name": "open", "ports": ["443/tcp"], "allow": ["0.0.0.0/0", "::/0"], "knock": False}
WHOLE_HOST: dict[str, Any] = {"knock_firewall_policy": "drop", "knock_firewall_open_ports": ["443/tcp"]}
DROP = ":INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"

ONCE = pytest.mark.parametrize("host", ["nft"], indirect=True)
"""Where it does not matter which iptables a host has."""

RELATED = "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n"

Texts = dict[str, str]


@pytest.fixture(scope="module", params=["nft", "legacy"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FirewallHost]:
    """One for all tests: a rehearsal changes nothing on it."""
    directory = tmp_path_factory.mktemp(request.param)
    lab = Lab(directory)
    try:
        lab.build()
        made = FirewallHost(lab, directory, request.param)
        try:
            yield made
        finally:
            made.remove()
    finally:
        lab.remove()


def candidate(saved: str = "", **variables: Any) -> Texts:
    """What the role would load on a host with these saved rules."""
    return dict(_rendered(saved, json.dumps({**ROLE, **variables})))


@functools.cache
def _rendered(saved: str, variables: str) -> Texts:
    found = host_with(saved, saved)
    return {family: render("rules.%s.j2" % family, found, **json.loads(variables)) for family in ("v4", "v6")}


def without(texts: Texts, *words: str) -> Texts:
    """The same, with the rules forgotten that have one of these words."""
    less = {
        family: "".join(line for line in text.splitlines(True) if not any(word in line for word in words))
        for family, text in texts.items()
    }
    assert all(less[family] != texts[family] for family in texts)
    return less


def commands(whole: Texts) -> dict[str, Any]:
    """Nothing of others is in it."""
    return {family: [load[0]] for family, load in commands_with_others(whole).items()}


def commands_with_others(whole: Texts) -> dict[str, Any]:
    names = {"v4": "iptables-restore", "v6": "ip6tables-restore"}
    return {family: iptables_load(names[family], parse(text)) for family, text in whole.items()}


def rehearse(
    host: FirewallHost, load: dict[str, Any], *gates: dict[str, Any], through: tuple[str, ...] = ()
) -> dict[str, Any]:
    """What comes out, `problems`, `skipped` and `remarks`, and the seconds that it took."""
    start = time.monotonic()
    done = subprocess.run(
        host.python(SCRIPT, *through),
        input=json.dumps({"load": load, "gates": gates or (GATE,)}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    print("%.2f s with the start of Python: %s" % (time.monotonic() - start, answer))
    return answer


PASSED = {"problems": [], "skipped": "", "remarks": []}


# --- what is right ---------------------------------------------------------------------------------------------------


def test_the_candidates_of_the_role_pass(host: FirewallHost) -> None:
    mosh = {**GATE, "ports": ["22/tcp", "60000-60010/udp"]}
    way_out = {"name": "escape", "ports": ["2222/tcp"], "allow": ["198.51.100.0/28"], "knock": False}
    nobody = {**GATE, "allow": []}
    for texts, gates in (
        (candidate(), [GATE]),
        (candidate(knock_firewall_refuse="drop", knock_firewall_ports=mosh["ports"]), [mosh]),
        (candidate(knock_firewall_escape_port=2222, knock_firewall_escape_from=way_out["allow"]), [GATE, way_out]),
        (silent(), [GATE]),
        (candidate(**WHOLE_HOST), [GATE, WEB]),
        (candidate(knock_firewall_allowlist=[]), [nobody]),
    ):
        assert rehearse(host, commands(texts), *gates) == PASSED


@ONCE
def test_native_rules_are_rehearsed_too(host: FirewallHost) -> None:
    text = render("knock_firewall.nft.j2", host_with(), **ROLE, **WHOLE_HOST)
    others = """
        table inet filter {
            chain input { type filter hook input priority 0; policy drop; icmpv6 type 135-136 accept; }
        }
    """
    load = nftables_load("nft", text)
    assert rehearse(host, {"v4": load, "v6": load}, GATE, WEB) == PASSED
    load = nftables_load("nft", text.replace("ct state established,related accept", ""), others)
    answer = rehearse(host, {"v4": load}, GATE)
    assert "IPv4: a session from before the change ended in the rehearsal (22/tcp)." in answer["problems"][-1]


@ONCE
def test_that_packets_too_big_are_not_heard_of_is_said_and_no_problem(host: FirewallHost) -> None:
    answer = rehearse(host, commands(silent(related="")))
    assert answer["problems"] == []
    assert [remark.split(" that ")[0] for remark in answer["remarks"]] == [
        "IPv4: the rules do not let the host hear by ICMP"
    ]


# --- what is wrong ---------------------------------------------------------------------------------------------------


def silent(related: str = RELATED) -> Texts:
    """On a host whose policy is DROP."""
    return candidate(saved="*filter\n%s-A INPUT -i lo -j ACCEPT\n%sCOMMIT\n" % (DROP, related))


def ipv6_forgotten(texts: Texts) -> Texts:
    return {**texts, "v6": "*filter\n%sCOMMIT\n" % DROP.replace("DROP", "ACCEPT")}


def too_wide(texts: Texts) -> Texts:
    return {**texts, "v4": texts["v4"].replace("198.51.100.0/28", "198.51.100.0/27")}


def refused_by_the_kernel(texts: Texts) -> Texts:
    return {**texts, "v6": texts["v6"].replace("-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j REJECT", "-j REJECT")}


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        pytest.param(
            lambda: without(silent(), "ESTABLISHED"),
            ["%s: a session from before the change ended in the rehearsal (22/tcp)."],
            id="no-established",
        ),
        pytest.param(
            lambda: without(candidate(), "-s "),
            [
                "IPv4: the allowlisted 198.51.100.0/28 did not get into 22/tcp in the rehearsal.",
                "IPv4: the allowlisted 203.0.113.9/32 did not get into 22/tcp in the rehearsal.",
                "IPv6: the allowlisted 2001:db8:1::/48 did not get into 22/tcp in the rehearsal.",
            ],
            id="allowlist-forgotten",
        ),
        pytest.param(
            lambda: ipv6_forgotten(candidate()),
            ["IPv6: a stranger got into 22/tcp in the rehearsal."],
            id="ipv6-forgotten",
        ),
        pytest.param(
            lambda: without(candidate(), "--mark"),
            ["%s: an admitted knocker (mark 0x1000) did not get into 22/tcp in the rehearsal."],
            id="mark-forgotten",
        ),
        pytest.param(
            lambda: without(candidate(), "-j MARK"),
            ["%s: a stranger with the mark of another program got into 22/tcp in the rehearsal."],
            id="mark-not-cleared",
        ),
        pytest.param(
            lambda: without(candidate(), "-A INPUT -j KNOCK\n"),
            ["%s: a stranger got into 22/tcp in the rehearsal."],
            id="jump-forgotten",
        ),
        pytest.param(
            lambda: too_wide(candidate()),
            ["IPv4: a stranger got into 22/tcp in the rehearsal."],
            id="mask-too-wide",
        ),
        pytest.param(
            lambda: without(candidate(), "-i lo"),
            ["%s: the host itself did not get into 22/tcp in the rehearsal."],
            id="loopback-forgotten",
        ),
        pytest.param(
            lambda: {**silent(), "v6": without({"v6": silent()["v6"]}, "icmpv6-type")["v6"]},
            [
                "IPv6: nobody gets in, because neighbour discovery (ICMPv6 types 135 and 136) does not get through the "
                "rules in the rehearsal."
            ],
            id="neighbour-discovery-forgotten",
        ),
    ],
)
def test_a_broken_candidate_is_found(host: FirewallHost, broken: Callable[[], Texts], expected: list[str]) -> None:
    each = [[name, line] for name in ("IPv4", "IPv6") for line in expected if "%s" in line]
    sentences = [line % name for name, line in each] or expected
    answer = rehearse(host, commands(broken()))
    assert (answer["problems"], answer["skipped"]) == (sentences, "")


def test_what_only_the_kernel_refuses_is_found(host: FirewallHost) -> None:
    texts = refused_by_the_kernel(candidate())
    host.run("ip6tables-restore", "--test", text=texts["v6"])
    answer = rehearse(host, commands_with_others(texts))
    assert [problem.split(": ")[:3] for problem in answer["problems"]] == [
        ["IPv6", "the candidate cannot be loaded", "ip6tables-restore"]
    ]


# --- rules of others -------------------------------------------------------------------------------------------------


@ONCE
def test_a_ban_is_no_problem_of_ours(host: FirewallHost) -> None:
    banned = "-A INPUT -p tcp -m tcp --dport 22 -j f2b\n-A f2b -s %s -j DROP\n"
    whole = candidate()
    for family, address in (("v4", "198.51.100.1"), ("v6", "2001:db8:1::1")):
        whole[family] = (
            whole[family]
            .replace(":KNOCK -", ":f2b - [0:0]\n:KNOCK -")
            .replace("-A INPUT -j KNOCK\n", banned % address + "-A INPUT -j KNOCK\n")
        )
    answer = rehearse(host, commands_with_others(whole))
    assert answer["problems"] == []
    assert answer["remarks"][0] == (
        "IPv4: 198.51.100.1 of the allowlisted 198.51.100.0/28 did not get into 22/tcp in the rehearsal. "
        "Without the rules of others this is not so."
    )


def test_rules_of_others_that_no_scratch_network_can_have_are_left_out(host: FirewallHost) -> None:
    whole = candidate()
    for family in whole:
        whole[family] = whole[family].replace(
            "-A INPUT -j KNOCK\n", "-A INPUT -m set --match-set nobody src -j DROP\n-A INPUT -j KNOCK\n"
        )
    answer = rehearse(host, commands_with_others(whole))
    assert answer["problems"] == []
    assert answer["skipped"] == ""
    assert [remark.split(",")[0] for remark in answer["remarks"]] == [
        "IPv4: rules of others were left out of the rehearsal",
        "IPv6: rules of others were left out of the rehearsal",
    ]


@ONCE
def test_rules_of_others_that_shut_all_out_are_a_problem(host: FirewallHost) -> None:
    whole = candidate()
    # By the interface and the address that the host has: the scratch network has them too
    theirs = "-A INPUT -i eth0 -d %s -p tcp -j DROP\n" % SERVER
    whole["v4"] = whole["v4"].replace("-A INPUT -j KNOCK\n", theirs + "-A INPUT -j KNOCK\n")
    answer = rehearse(host, commands_with_others(whole))
    assert (
        "IPv4: the allowlisted 198.51.100.0/28 did not get into 22/tcp in the rehearsal. "
        "Without the rules of others this is not so."
    ) in answer["problems"]


# --- nothing is left -------------------------------------------------------------------------------------------------


def network_of(pid: str | int) -> str:
    try:
        return str(Path("/proc/%s/ns/net" % pid).readlink())
    except OSError:
        return ""


def children_of(pid: str | int) -> list[str]:
    try:
        return Path("/proc/%s/task/%s/children" % (pid, pid)).read_text().split()
    except OSError:
        return []


@ONCE
def test_the_host_itself_is_left_alone(host: FirewallHost) -> None:
    look = (
        "ip -d link; ip addr; ip rule; ip route show table all; nft list ruleset; sysctl -a --pattern '^net'; ls /run"
    )
    before = host.sh(look)
    rehearse(host, commands(candidate()))
    assert host.sh(look) == before


@ONCE
def test_nothing_is_left_when_it_is_killed_midway(host: FirewallHost) -> None:
    asked = json.dumps({"load": {"v4": [[[["sleep", "600"], ""]]]}, "gates": [GATE]})
    with subprocess.Popen(host.python(SCRIPT), stdin=subprocess.PIPE, text=True) as rehearsal:
        assert rehearsal.stdin
        rehearsal.stdin.write(asked)
        rehearsal.stdin.close()

        def sleepers() -> list[str]:
            return [pid for child in children_of(rehearsal.pid) for pid in children_of(child) if is_sleep(pid)]

        eventually(sleepers, "the command runs in the scratch network")
        family = children_of(rehearsal.pid) + sleepers()
        scratch = {network_of(pid) for pid in family}
        assert network_of(rehearsal.pid) not in scratch
        inside = [pid.name for pid in Path("/proc").glob("[0-9]*") if network_of(pid.name) in scratch]
        assert sorted(inside) == sorted(family), "nobody else holds the scratch network"
        rehearsal.kill()
    eventually(lambda: not any(Path("/proc/" + pid).exists() for pid in family), "its processes are gone")


def is_sleep(pid: str) -> bool:
    try:
        return Path("/proc/%s/comm" % pid).read_text() == "sleep\n"
    except OSError:
        return False


@ONCE
def test_a_host_that_has_no_namespaces_to_give_says_so(host: FirewallHost) -> None:
    answer = rehearse(host, commands(candidate()), through=("setpriv", "--bounding-set", "-sys_admin"))
    refusal = "%s could not be rehearsed on this host: the kernel refuses a network namespace: Operation not permitted."
    assert answer == {**PASSED, "skipped": "%s %s" % (refusal % "IPv4", refusal % "IPv6")}
