# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules and their commit-confirmed change, with both real iptables and with nftables alone, in both families."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from ..lab import CLIENT, CLIENT6, SERVER, SERVER6, STRANGER, STRANGER6, Lab, eventually
from .firewall_host import FirewallHost

ALLOW: dict[str, Any] = {"knock_firewall_allowlist": [CLIENT, CLIENT6]}
NOBODY: dict[str, Any] = {"knock_firewall_allowlist": []}

BOTH = pytest.mark.parametrize(
    ("server", "client", "stranger"), [(SERVER, CLIENT, STRANGER), (SERVER6, CLIENT6, STRANGER6)], ids=["ipv4", "ipv6"]
)


def passes_a_word(lab: Lab, session: socket.socket) -> bool:
    """Whether both ends of a session still hear each other."""
    far = lab.accept()
    session.sendall(b"there")
    heard = far.recv(5)
    far.sendall(b"back")
    return heard == b"there" and session.recv(4) == b"back"


# --- who gets in -----------------------------------------------------------------------------------------------------


@BOTH
def test_the_allowlist_gets_in_and_a_stranger_is_refused(
    host: FirewallHost, server: str, client: str, stranger: str
) -> None:
    assert host.apply(**ALLOW)["changed"]
    assert host.lab.is_open(server, source=client)
    assert not host.lab.is_open(server, source=stranger)


@BOTH
def test_a_stranger_is_answered_by_a_reset(host: FirewallHost, server: str, client: str, stranger: str) -> None:
    host.apply(**ALLOW)
    with host.lab.client, socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET) as caller:
        caller.settimeout(10)
        caller.bind((stranger, 0))
        assert caller.connect_ex((server, 22)) == errno.ECONNREFUSED


@BOTH
def test_a_marked_source_gets_in(host: FirewallHost, server: str, client: str, stranger: str) -> None:
    host.apply(**NOBODY)
    host.mark(stranger)
    assert host.lab.is_open(server, source=stranger)
    assert not host.lab.is_open(server, source=client)


@BOTH
def test_a_mark_of_somebody_else_opens_nothing(host: FirewallHost, server: str, client: str, stranger: str) -> None:
    host.apply(**NOBODY)
    host.admin.mark_everything()
    assert not host.lab.is_open(server, source=stranger)


@BOTH
def test_the_host_itself_gets_in(host: FirewallHost, server: str, client: str, stranger: str) -> None:
    host.apply(**NOBODY)
    host.run("bash", "-c", "exec 3<>/dev/tcp/%s/22" % server)


@BOTH
def test_other_ports_stay_as_they_are(host: FirewallHost, server: str, client: str, stranger: str) -> None:
    host.lab.sshd(443)
    host.apply(**NOBODY)
    assert host.lab.is_open(server, source=stranger, port=443)


@BOTH
def test_only_who_may_gets_to_the_way_out(host: FirewallHost, server: str, client: str, stranger: str) -> None:
    host.lab.sshd(2222)
    host.apply(**ALLOW, knock_firewall_escape_port=2222)
    host.mark(stranger)
    assert host.lab.is_open(server, source=client, port=2222)
    assert not host.lab.is_open(server, source=stranger, port=2222), "a knock opens the door, not the way out"


@BOTH
def test_a_udp_range_is_closed_and_opened_like_a_port(
    host: FirewallHost, server: str, client: str, stranger: str
) -> None:
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with host.lab.server:
        mosh = socket.socket(family, socket.SOCK_DGRAM)
    with mosh:
        mosh.bind((server, 60003))
        mosh.settimeout(1)
        host.apply(**ALLOW, knock_firewall_ports=["22/tcp", "60000-60010/udp"])
        for source, gets_in in ((client, True), (stranger, False)):
            with host.lab.client, socket.socket(family, socket.SOCK_DGRAM) as caller:
                caller.bind((source, 0))
                caller.sendto(b"hello", (server, 60003))
            try:
                assert mosh.recvfrom(5)[1][0] == source
                assert gets_in
            except TimeoutError:
                assert not gets_in


# --- sessions live on ------------------------------------------------------------------------------------------------


@BOTH
def test_a_session_from_before_lives_on(host: FirewallHost, server: str, client: str, stranger: str) -> None:
    session = host.lab.connect(server, stranger)
    assert session
    host.apply(**NOBODY)
    assert not host.lab.is_open(server, source=stranger)
    assert passes_a_word(host.lab, session)


@BOTH
def test_a_session_lives_on_when_conntrack_forgets_it(
    host: FirewallHost, server: str, client: str, stranger: str
) -> None:
    session = host.lab.connect(server, stranger)
    assert session
    host.apply(**NOBODY)
    host.run("conntrack", "-F")
    assert passes_a_word(host.lab, session)


@BOTH
def test_a_session_outlives_its_admission(host: FirewallHost, server: str, client: str, stranger: str) -> None:
    host.apply(**NOBODY)
    host.mark(stranger)
    session = host.lab.connect(server, stranger)
    assert session
    host.forget_marks()
    assert not host.lab.is_open(server, source=stranger)
    assert passes_a_word(host.lab, session)


# --- rules of others -------------------------------------------------------------------------------------------------


def test_live_rules_of_others_are_left_alone(host: FirewallHost) -> None:
    host.admin.have_rules()
    before = host.rules()
    host.apply(**ALLOW)
    assert host.is_protected()
    assert host.admin.rules_of_others() == before
    host.revert()
    assert host.rules() == before


def test_a_ban_counts_for_admitted_sources_too_and_is_no_change(host: FirewallHost) -> None:
    host.apply(**ALLOW)
    host.confirm()
    host.admin.ban(CLIENT)
    assert not host.lab.is_open(SERVER, source=CLIENT)
    assert not host.apply(**ALLOW)["changed"]


@pytest.mark.iptables_only("an accept of others never overrules us")
def test_a_hole_of_a_command_door_is_no_change(host: FirewallHost) -> None:
    host.apply(**ALLOW)
    host.confirm()
    host.sh("iptables -I INPUT -s %s -p tcp --dport 22 -j ACCEPT" % STRANGER)
    assert not host.apply(**ALLOW)["changed"]
    assert host.lab.is_open(SERVER, source=STRANGER)


@pytest.mark.iptables_only("an accept of others never overrules us")
def test_a_door_that_a_command_has_open_stays_open_when_the_firewall_comes(host: FirewallHost) -> None:
    hole = ("INPUT", "-s", STRANGER, "-p", "tcp", "--dport", "22", "-j", "ACCEPT")
    host.run("iptables", "-I", *hole)
    host.apply(**ALLOW)
    assert host.lab.is_open(SERVER, source=STRANGER)
    host.run("iptables", "-D", *hole)
    assert not host.lab.is_open(SERVER, source=STRANGER)


def test_a_rule_that_lets_strangers_pass_us_by_is_mended(host: FirewallHost) -> None:
    host.apply(**ALLOW)
    host.confirm()
    before = host.rules()
    host.admin.open_all()
    assert host.lab.is_open(SERVER, source=STRANGER)
    assert host.apply(**ALLOW)["changed"]
    assert not host.lab.is_open(SERVER, source=STRANGER)
    assert host.rules().count(host.admin.ours) == before.count(host.admin.ours), "one jump for each family"


@pytest.mark.iptables_only("what others drop in a chain of their own stays dropped")
@BOTH
def test_under_a_drop_policy_the_admitted_get_in(host: FirewallHost, server: str, client: str, stranger: str) -> None:
    host.admin.drop_by_default()
    host.apply(**ALLOW)
    host.mark(stranger)
    assert host.lab.is_open(server, source=client)
    assert host.lab.is_open(server, source=stranger)
    host.forget_marks()
    assert not host.lab.is_open(server, source=stranger)


def test_under_a_drop_policy_a_stranger_hears_nothing(host: FirewallHost) -> None:
    host.admin.drop_by_default()
    host.apply(**ALLOW)
    with host.lab.client, socket.socket() as caller:
        caller.settimeout(0.5)
        caller.bind((STRANGER, 0))
        with pytest.raises(TimeoutError):
            caller.connect((SERVER, 22))


@pytest.mark.iptables_only("the file is ours alone")
def test_saved_rules_are_kept_below_ours_and_the_file_is_backed_up(host: FirewallHost) -> None:
    saved = (
        "*filter\n:INPUT ACCEPT [7:9]\n:web - [0:0]\n[1:2] -A INPUT -j web\n-A web -p tcp --dport 25 -j DROP\nCOMMIT\n"
    )
    host.run("tee", "/etc/iptables/rules.v4", text=saved)
    host.run("iptables-restore", "/etc/iptables/rules.v4")
    backups = host.apply(**ALLOW)["backups"]
    host.confirm()
    assert len(backups) == 1
    assert host.run("cat", backups[0]) == saved
    host.sh("iptables-restore /etc/iptables/rules.v4; ip6tables-restore /etc/iptables/rules.v6")
    assert "-A web -p tcp -m tcp --dport 25 -j DROP" in host.rules()
    assert not host.apply(**ALLOW)["changed"]


# --- commit-confirmed ------------------------------------------------------------------------------------------------


def test_what_is_not_confirmed_undoes_itself(host: FirewallHost) -> None:
    before = host.rules()
    assert host.apply(**ALLOW, revert_after=1)["armed"]
    host.reverts()
    assert host.rules() == before
    assert host.lab.is_open(SERVER, source=STRANGER)
    assert not host.saved()


def test_a_confirmation_that_comes_too_late_says_so_and_writes_nothing(host: FirewallHost) -> None:
    host.apply(**ALLOW, revert_after=1)
    host.reverts()
    eventually(lambda: "not confirmed in time" in host.confirm().get("msg", ""))
    assert not host.saved()


def test_a_revert_puts_back_our_own_rules_of_before(host: FirewallHost) -> None:
    host.apply(**ALLOW)
    host.confirm()
    before = host.rules()
    host.apply(**NOBODY, knock_firewall_escape_port=2222, knock_firewall_escape_from=[CLIENT])
    assert host.rules() != before
    assert host.revert()["changed"]
    assert host.rules() == before
    assert not host.apply(**ALLOW)["changed"]


def test_what_is_confirmed_stays(host: FirewallHost) -> None:
    host.apply(**ALLOW, revert_after=2)
    assert host.confirm()["changed"]
    live = host.rules()
    host.sh("sleep 3")
    assert host.rules() == live
    assert not host.revert()["changed"]
    assert host.rules() == live


def test_files_are_written_by_the_confirmation_only_and_say_what_is_live(host: FirewallHost) -> None:
    host.apply(**ALLOW, guard=True)
    assert not host.saved()
    assert host.sh("ls /etc/knockd-guard.conf 2>/dev/null || true") == ""
    host.confirm()
    files = host.saved()
    assert files == list(host.admin.files)
    assert host.sh("stat -c '%%a %%U' %s" % " ".join(files)) == "640 root\n" * len(files)
    host.admin.load_saved()  # with what others have saved
    live = host.rules()
    host.admin.lose_all()
    host.admin.load_saved()
    assert host.rules() == live
    assert not host.apply(**ALLOW, guard=True)["changed"]
    assert "allow  = %s/32, %s/128" % (CLIENT, CLIENT6) in host.sh("cat /etc/knockd-guard.conf")


def test_a_second_run_changes_and_arms_nothing(host: FirewallHost) -> None:
    host.apply(**ALLOW, guard=True)
    host.confirm()
    again = host.apply(**ALLOW, guard=True)
    assert not again["changed"]
    assert not again["armed"]
    assert not again["diff"]
    assert not again.get("warnings")
    assert not host.confirm()["changed"]


def test_an_older_change_that_still_waits_is_put_back_first(host: FirewallHost) -> None:
    before = host.rules()
    host.apply(**NOBODY)
    host.apply(**ALLOW)
    host.revert()
    assert host.rules() == before


def test_the_timer_of_an_older_change_leaves_the_newer_one_alone(host: FirewallHost) -> None:
    host.apply(**NOBODY, revert_after=1)
    host.apply(**ALLOW, revert_after=600)
    host.sh("sleep 2")
    assert host.is_protected()


def test_a_reboot_before_the_confirmation_leaves_the_old_state(host: FirewallHost) -> None:
    host.apply(**ALLOW)
    host.reboot()
    assert "has rebooted" in host.confirm()["msg"]
    assert not host.saved()


@pytest.mark.iptables_only("one file is for both families")
def test_a_mistake_in_ipv6_alone_changes_nothing_in_ipv4(host: FirewallHost) -> None:
    before = host.rules()
    answer = host.module(
        "firewall",
        state="applied",
        rules_v4="*filter\n:KNOCK - [0:0]\n-A INPUT -j KNOCK\n-A KNOCK -p tcp -m tcp --dport 22 -j DROP\nCOMMIT\n",
        rules_v6="*filter\n:KNOCK - [0:0]\n-A INPUT -j KNOCK\n-A KNOCK -p tcp -m tcp --dprt 22 -j DROP\nCOMMIT\n",
    )
    assert answer["failed"]
    assert "ip6tables-restore --test refused" in answer["msg"]
    assert host.rules() == before


@pytest.mark.iptables_only("one file is for both families")
def test_rules_that_ipv6_takes_only_in_the_trials_are_put_back_in_ipv4(host: FirewallHost) -> None:
    before = host.rules()
    host.sh("""
        real=$(readlink -f /etc/alternatives/ip6tables-restore)
        printf '#!/bin/sh\\ncase "$*" in *--test* | "-w 10") exit 0;; esac\\nexec %s --no-such\\n' "$real" >/etc/broken
        chmod 755 /etc/broken
        ln -sf /etc/broken /etc/alternatives/ip6tables-restore
    """)
    answer = host.apply(**ALLOW)
    assert "The rules of before are back" in answer["msg"]
    assert host.rules() == before


def test_check_mode_changes_nothing_and_says_what_would_change(host: FirewallHost) -> None:
    before = host.rules()
    answer = host.apply(check=True, **ALLOW)
    assert answer["changed"]
    assert any(CLIENT in item["after"] for item in answer["diff"] if item["after_header"].startswith("live "))
    assert host.rules() == before
    assert not host.saved()
    assert host.sh("ls -A /var/lib") == ""


@pytest.mark.iptables_only("nftables is read table by table")
def test_plan_judge_and_rehearsal_read_the_same_rules_once(host: FirewallHost) -> None:
    host.sh("""
        for command in iptables-save ip6tables-save; do
            real=$(readlink /etc/alternatives/$command)
            printf '#!/bin/sh\\necho >> /etc/reads-%s\\nexec %s "$@"\\n' $command $real > /etc/counted-$command
            chmod 755 /etc/counted-$command
            ln -sf /etc/counted-$command /etc/alternatives/$command
        done
    """)
    assert host.apply(check=True, rehearse=True, **ALLOW)["changed"]
    reads = host.sh("cd /etc; wc -l < reads-iptables-save; wc -l < reads-ip6tables-save").split()
    assert reads == ["2", "2"], "by firewall_info, and by firewall"


def test_absent_leaves_no_trace_of_ours(host: FirewallHost) -> None:
    host.admin.have_rules()
    before = host.rules()
    host.apply(**ALLOW, guard=True)
    host.confirm()
    assert host.module("firewall", state="absent")["changed"]
    assert host.rules() == before
    assert not host.saved()
    assert host.sh("ls /etc/knockd-guard.conf /var/lib/knock_firewall 2>/dev/null || true") == ""
    assert not host.module("firewall", state="absent")["changed"]


@pytest.mark.iptables_only("the file is ours alone")
def test_absent_leaves_saved_rules_of_others(host: FirewallHost) -> None:
    host.sh("iptables -A INPUT -p tcp --dport 25 -j DROP; iptables-save > /etc/iptables/rules.v4")
    before = host.rules()
    host.apply(**ALLOW, guard=True)
    host.confirm()
    assert host.module("firewall", state="absent")["changed"]
    assert host.rules() == before
    assert "KNOCK" not in host.sh("cat /etc/iptables/rules.v4")
    assert "--dport 25" in host.sh("cat /etc/iptables/rules.v4")
    assert host.saved() == ["/etc/iptables/rules.v4"]


# --- chains of ours that others use ----------------------------------------------------------------------------------

USED = pytest.mark.iptables_only("no rule leads from one table of nftables to another")


def use(host: FirewallHost, chain: str, table: str = "filter") -> None:
    """As somebody does who thinks that a chain of ours is for everybody."""
    for command in ("iptables", "ip6tables"):
        host.sh(f"{command} -t {table} -N MINE; {command} -t {table} -A MINE -p tcp -j {chain}")
        host.sh(f"{command} -t {table} -A INPUT -p tcp --dport 22 -j MINE")


@USED
@pytest.mark.parametrize(("table", "chain"), [("filter", "KNOCK-ADMIT"), ("filter", "KNOCK"), ("mangle", "KNOCK-MARK")])
def test_a_revert_empties_a_chain_that_others_use_and_takes_the_rest_away(
    host: FirewallHost, table: str, chain: str
) -> None:
    host.apply(**NOBODY)
    use(host, chain, table)
    host.sh("knock-firewall revert")
    assert host.lab.is_open(SERVER, source=STRANGER)
    assert host.lab.is_open(SERVER6, source=STRANGER6)
    left = [line for line in host.rules().splitlines() if "KNOCK" in line]
    told = ["%s -t %s :%s -", "%s -t %s -A MINE -p tcp -j %s"]
    assert left == [line % (command, table, chain) for command in ("iptables", "ip6tables") for line in told]
    host.apply(**ALLOW)
    assert host.confirm()["changed"]
    assert not host.lab.is_open(SERVER, source=STRANGER)
    assert not host.apply(**ALLOW)["changed"]


@USED
def test_a_revert_leaves_a_jump_of_others_that_looks_like_ours(host: FirewallHost) -> None:
    host.apply(**ALLOW)
    host.confirm()
    for command in ("iptables", "ip6tables"):
        host.sh(f"{command} -A INPUT -j KNOCK-ADMIT; {command} -A FORWARD -j KNOCK")
    before = host.rules()
    host.apply(**NOBODY)
    host.revert()
    assert host.rules() == before


@USED
def test_what_is_flushed_comes_back_also_beside_a_chain_that_others_use(host: FirewallHost) -> None:
    host.apply(**ALLOW)
    host.confirm()
    for command in ("iptables", "ip6tables"):
        host.sh(f"{command} -N KNOCK-ESCAPE; {command} -A INPUT -j KNOCK-ESCAPE")
    before = host.rules()
    host.admin.flush_ours()
    host.sh("knock-firewall check")
    assert not host.lab.is_open(SERVER, source=STRANGER)
    assert host.rules() == before


@USED
def test_absent_names_who_uses_a_chain_of_ours_and_the_cure_before_it_changes_anything(host: FirewallHost) -> None:
    host.apply(**ALLOW, guard=True)
    host.confirm()
    host.admin.have_rules()
    others = host.admin.rules_of_others()
    use(host, "KNOCK-ADMIT")
    before = host.rules(), host.saved()
    for check in (True, False):
        answer = host.module("firewall", check, state="absent")
        assert "Nothing has been changed" in answer["msg"]
        assert "`-A MINE -p tcp -j KNOCK-ADMIT` in table filter of ip6tables" in answer["msg"]
        assert (host.rules(), host.saved()) == before
    cure = answer["msg"].rpartition(": ")[2]
    assert cure.count("-D MINE") == 2
    host.sh(cure)
    assert host.module("firewall", state="absent")["changed"]
    assert host.lab.is_open(SERVER, source=STRANGER)
    for command in ("iptables", "ip6tables"):
        host.sh(f"{command} -D INPUT -p tcp --dport 22 -j MINE; {command} -X MINE")
    assert host.rules() == others


@USED
def test_a_chain_that_others_use_is_not_taken_away_by_a_change(host: FirewallHost) -> None:
    escape: dict[str, Any] = {"knock_firewall_escape_port": 2222, "knock_firewall_escape_from": [CLIENT]}
    host.apply(**ALLOW, **escape)
    host.confirm()
    host.sh("iptables -A FORWARD -p tcp -j KNOCK-ESCAPE")
    before = host.rules()
    answer = host.apply(**ALLOW)
    assert "Nothing has been changed" in answer["msg"]
    assert "iptables -t filter -D FORWARD -p tcp -j KNOCK-ESCAPE" in answer["msg"]
    assert host.rules() == before
    assert host.apply(**{**NOBODY, **escape})["armed"], "the chain stays, with another content"


# --- what stops the play ---------------------------------------------------------------------------------------------


IPTABLES = pytest.mark.iptables_only("it is done by nft")


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(
            "iptables -t nat -A PREROUTING -p tcp --dport 22 -j DNAT --to-destination 198.18.1.9:22",
            marks=IPTABLES,
            id="dnat",
        ),
        pytest.param(
            "iptables -t nat -N DOCKER; iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER; "
            "iptables -t nat -A DOCKER ! -i docker0 -p tcp -m tcp --dport 22 -j DNAT --to-destination 198.18.1.9:2022",
            marks=IPTABLES,
            id="docker",
        ),
        pytest.param(
            "ip6tables -t nat -A PREROUTING -p tcp -m multiport --dports 21:23,80 -j REDIRECT --to-ports 2222",
            marks=IPTABLES,
            id="ipv6-redirect",
        ),
        pytest.param(
            "nft add table ip mine; nft 'add chain ip mine pre { type nat hook prerouting priority -100; }'; "
            "nft add rule ip mine pre tcp dport '{ 22, 80 }' dnat to 198.18.1.9",
            id="nftables",
        ),
    ],
)
def test_a_port_that_is_sent_elsewhere_is_seen(host: FirewallHost, rule: str) -> None:
    host.sh(rule)
    found = host.module("firewall_info", ports=["22/tcp", "443/tcp"])["published"]
    assert [item["ports"] for item in found] == ["22/tcp"]


def test_a_host_with_nothing_is_fine(host: FirewallHost) -> None:
    info = host.module("firewall_info")
    assert not info["changed"]
    assert info["published"] == []
    assert info["refuses"] == {"v4": "", "v6": ""}
    assert info["saved"]["v4"]["summary"] == []
