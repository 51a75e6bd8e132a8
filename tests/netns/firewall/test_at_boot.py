# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules that load now, and not at boot, when there is no network, no name service and nothing that lives in memory."""

from __future__ import annotations

import socket
import struct
import subprocess
import threading
from pathlib import Path
from typing import Iterator

import pytest

from ...unit.firewall.rendering import render
from ..lab import CLIENT, SERVER, SERVER6, STRANGER, STRANGER6, Lab
from .firewall_host import BOTH_IPTABLES, FirewallHost
from .test_firewall import ALLOW

FILES = {"v4": "/etc/iptables/rules.v4", "v6": "/etc/iptables/rules.v6"}
MERGED = {**ALLOW, "knock_firewall_existing_rules": "merge"}
NAME = "office.example"
ADDRESSES = {1: socket.inet_aton("198.18.0.99"), 28: socket.inet_pton(socket.AF_INET6, "fd00:5e5a::99")}
"""By the type of the record: A, AAAA."""

ON_IPTABLES = pytest.mark.parametrize("host", BOTH_IPTABLES, indirect=True)


@pytest.fixture
def host(request: pytest.FixtureRequest, lab: Lab, tmp_path: Path) -> Iterator[FirewallHost]:
    made = FirewallHost(lab, tmp_path, request.param)
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture
def names(host: FirewallHost) -> Iterator[None]:
    """A name service that knows one name, until the next boot."""
    host.sh("rm -f /etc/resolv.conf; echo nameserver 127.0.0.1 >/etc/resolv.conf; ip link set lo up")
    with host.lab.server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        service.bind(("127.0.0.1", 53))
        service.settimeout(0.2)
        ended = threading.Event()
        thread = threading.Thread(target=answer, args=(service, ended))
        thread.start()
        yield
        ended.set()
        thread.join()


def answer(service: socket.socket, ended: threading.Event) -> None:
    """RFC 1035, section 4.1: one question, one address."""
    while not ended.is_set():
        try:
            query, sender = service.recvfrom(512)
        except TimeoutError:
            continue
        question = query[12 : query.index(b"\0", 12) + 5]
        address = ADDRESSES.get(struct.unpack("!H", question[-4:-2])[0], b"")
        known = bool(address) and question[1:7] == NAME.encode()[:6]
        header = query[:2] + struct.pack("!HHHHH", 0x8180, 1, known, 0, 0)
        record = b"\xc0\x0c" + question[-4:] + struct.pack("!IH", 60, len(address)) + address
        service.sendto(header + question + (record if known else b""), sender)


def saved(host: FirewallHost, family: str, rule: str, table: str = "filter") -> None:
    """The administrator's own rule in the file that the boot loads."""
    host.sh("cat >%s <<'END'\n*%s\n%s\nCOMMIT\nEND" % (FILES[family], table, rule))


def live_set(host: FirewallHost, family: str) -> None:
    host.sh("ipset create friends hash:net family %s" % ("inet6" if family == "v6" else "inet"))


def boots(host: FirewallHost) -> str:
    """As far as the rules are loaded: nothing has looked after them. Returns what was said."""
    host.admin.lose_all()
    host.sh("ipset destroy; rm -rf /run/knock_firewall")
    said = host.sh("knock-firewall boot 2>&1")
    host.admin.load_saved()
    return said


def is_closed(host: FirewallHost) -> bool:
    return not host.lab.is_open(SERVER, source=STRANGER) and not host.lab.is_open(SERVER6, source=STRANGER6)


NEEDS_MORE = {
    "source": ("filter", f"-A INPUT -s {NAME} -p tcp -m tcp --dport 8080 -j ACCEPT"),
    "destination": ("filter", f"-A OUTPUT ! -d {NAME} -p tcp -m tcp --dport 25 -j REJECT"),
    "match-set": ("filter", "-A INPUT -m set --match-set friends src -j ACCEPT"),
    "SET": ("mangle", "-A INPUT -p tcp -m tcp --dport 1 -j SET --add-set friends src"),
}


@ON_IPTABLES
@pytest.mark.parametrize("family", FILES)
@pytest.mark.parametrize("what", NEEDS_MORE)
def test_it_is_refused_before_anything_has_changed(host: FirewallHost, names: None, family: str, what: str) -> None:
    table, rule = NEEDS_MORE[what]
    live_set(host, family)
    saved(host, family, rule, table)
    before = host.contents()
    for check in (True, False):
        message = host.apply(check, **MERGED)["msg"]
        assert "Nothing has been changed" in message
        assert FILES[family] in message
        assert "`%s`" % rule in message
        assert (NAME if NAME in rule else "friends") in message.replace(rule, "")
        assert "ipset-persistent" in message
        assert "/etc/hosts" in message
    assert host.contents() == before
    assert not host.is_protected()
    assert host.sh("ls /var/lib/knock_firewall/change 2>/dev/null || true") == ""


@pytest.mark.parametrize("host", ["native"], indirect=True)
def test_a_name_is_refused_by_nftables_too(host: FirewallHost, names: None) -> None:
    text = render("knock_firewall.nft.j2", **ALLOW)
    named = text.replace(CLIENT + "/32", NAME)
    assert named != text
    message = host.module("firewall", state="applied", rules_nft=named)["msg"]
    assert "Nothing has been changed" in message
    assert "/etc/knock_firewall.nft" in message
    assert NAME in message
    assert not host.is_protected()


REFUSAL = """
import subprocess, sys
from ansible_collections.sesame.knock.plugins.module_utils._at_boot import refusal
class Module:
    def run_command(self, command):
        done = subprocess.run(command, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr
print(refusal(Module(), ["iptables-restore"], open("/run/rules").read(), "/run/rules"))
"""


@ON_IPTABLES
def test_a_control_group_of_a_service_counts_as_not_there(host: FirewallHost) -> None:
    rule = "-A OUTPUT -m cgroup --path knock-test/service -j ACCEPT"
    host.sh("mkdir /run/groups; mount -t cgroup2 groups /run/groups; mkdir -p /run/groups/knock-test/service")
    host.sh("printf '*filter\\n%s\\nCOMMIT\\n' >/run/rules" % rule)
    in_a_session = (
        "sh",
        "-c",
        'mkdir -p /run/groups/knock-test/s; echo $$ >/run/groups/knock-test/s/cgroup.procs; exec "$@"',
    )
    try:
        host.run("iptables-restore", "/run/rules")
        done = subprocess.run(host.python(REFUSAL, *in_a_session, "sh"), capture_output=True, text=True)
        # Legacy: the kernel says no more than that
        assert ("`%s`" % rule in done.stdout) or ("`*filter`" in done.stdout), done
    finally:
        host.sh(
            "iptables -F; sleep 0.1; cd /run/groups/knock-test; rmdir s service; cd /; rmdir /run/groups/knock-test"
        )


def plugin(host: FirewallHost) -> None:
    """What the package ipset-persistent brings, where netfilter-persistent runs it before the rules are loaded."""
    host.sh("""
        mkdir /run/upper /run/work
        mount -t overlay overlay -o lowerdir=/usr/share,upperdir=/run/upper,workdir=/run/work /usr/share
        mkdir -p /usr/share/netfilter-persistent/plugins.d
        cd /usr/share/netfilter-persistent/plugins.d
        printf '#!/bin/sh -e\\n[ "$1" = start ]\\nipset restore -exist </etc/iptables/ipsets\\n' >10-ipset
        chmod +x 10-ipset
        ipset save >/etc/iptables/ipsets
    """)


IS_ENOUGH = {
    "service": "-A INPUT -p tcp -m tcp --dport smtp -j DROP",
    "localhost": "-A INPUT -s localhost -p tcp -m tcp --dport 8080 -j ACCEPT",
    "hosts": f"-A INPUT -s {NAME} -p tcp -m tcp --dport 8080 -j ACCEPT",
    "user": "-A OUTPUT -m owner --uid-owner root -j ACCEPT",
    "interface": "-A INPUT -i later0 -m recent --set --name seen --rsource",
    "set": "-A INPUT -m set --match-set friends src -j ACCEPT",
}


@ON_IPTABLES
@pytest.mark.parametrize("what", IS_ENOUGH)
def test_what_a_boot_has_is_enough(host: FirewallHost, what: str) -> None:
    host.sh(f"echo 198.18.0.99 {NAME} >>/etc/hosts")
    live_set(host, "v4")
    plugin(host)
    saved(host, "v4", IS_ENOUGH[what])
    assert "token" in host.apply(**MERGED)
    host.confirm()
    before = host.contents()
    if what == "set":
        host.admin.lose_all()
        host.sh("ipset destroy")
    assert host.sh("knock-firewall boot 2>&1") == ""
    assert host.contents() == before


@ON_IPTABLES
@pytest.mark.parametrize("family", FILES)
@pytest.mark.parametrize("what", ["hosts", "set"])
def test_a_file_that_nobody_has_changed_and_that_no_longer_loads_keeps_our_rules(
    host: FirewallHost, family: str, what: str
) -> None:
    address = "fd00:5e5a::99" if family == "v6" else "198.18.0.99"
    host.sh(f"echo {address} {NAME} >>/etc/hosts")
    live_set(host, family)
    plugin(host)
    saved(host, family, IS_ENOUGH[what])
    host.apply(**MERGED)
    host.confirm()
    before = host.contents()
    host.sh(f"sed -i /{NAME}/d /etc/hosts; rm /usr/share/netfilter-persistent/plugins.d/10-ipset")
    said = boots(host)
    assert is_closed(host)
    assert host.lab.is_open(SERVER, source=CLIENT)
    assert FILES[family] in said
    backup = said.split()[-1]
    assert backup.startswith(FILES[family] + ".")
    assert backup.endswith("~")
    assert host.sh(f"cat {backup}") in before
    assert IS_ENOUGH[what] not in "".join(filter(None, host.contents()))
    again = host.contents()
    assert boots(host) == ""
    assert host.contents() == again


@ON_IPTABLES
def test_a_file_that_somebody_has_made_need_a_name_is_put_back_as_it_was(host: FirewallHost, names: None) -> None:
    host.apply(**ALLOW)
    host.confirm()
    before = host.contents()
    host.sh(
        f"sed -i 's/^-A INPUT -j KNOCK$/&\\n-A INPUT -s {NAME} -j ACCEPT/' {FILES['v4']}; grep -q {NAME} {FILES['v4']}"
    )
    assert FILES["v4"] in boots(host)
    assert is_closed(host)
    assert host.contents() == before


@ON_IPTABLES
def test_a_file_stays_where_nothing_can_be_loaded(host: FirewallHost) -> None:
    host.apply(**ALLOW)
    host.confirm()
    before = host.contents()
    host.sh("ln -sf /bin/false /etc/alternatives/iptables-restore")
    assert FILES["v4"] in host.sh("! knock-firewall boot 2>&1")
    assert host.contents() == before


@pytest.mark.parametrize("host", ["nft", "native"], indirect=True)
def test_a_host_that_can_try_nothing_is_warned_and_protected(host: FirewallHost) -> None:
    host.sh("mount --bind /bin/false /usr/bin/unshare" if host.admin.ours == "KNOCK" else "true")
    if host.admin.ours != "KNOCK":
        host.sh('printf \'#!/bin/sh\\ncase "$*" in *--mount*) exit 1;; esac\\nexec /run/unshare "$@"\' >/run/fake')
        host.sh("cp /usr/bin/unshare /run/unshare; chmod +x /run/fake; mount --bind /run/fake /usr/bin/unshare")
    answer = host.apply(**ALLOW)
    assert "token" in answer
    assert any("next boot" in str(warning) for warning in answer["warnings"]), answer
    host.confirm()
    before = host.contents()
    assert host.sh("knock-firewall boot 2>&1") == ""
    host.sh("sed -i '1i nonsense' %s" % host.admin.files[0])
    host.sh("knock-firewall boot")
    assert host.contents() == before
