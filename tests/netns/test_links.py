# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every kind of link, coming and going: a knock counts once, and the log says what is listened on."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import struct
import subprocess
from typing import Callable

import pytest

from ..ipv4 import summed
from .lab import CLIENT, CLIENT6, KNOCKS, SERVER, SERVER6, SSH, Daemon, Lab, Namespace, eventually

LONG = SSH.format(open_timeout=600)

ONCE = """
[twice]
    sequence     = 21001,21001,31002
    seq_timeout  = 10
    tcpflags     = syn
    open_ports   = 22/tcp
    open_timeout = 600

[marker]
    sequence     = 11003
    tcpflags     = syn
    open_ports   = 23/tcp
"""
"""To `twice` a knock that is counted twice is two."""

OUTER, OUTER_CLIENT = "198.19.0.2", "198.19.0.1"


def listening(daemon: Daemon) -> list[str]:
    return re.findall("^listening on (.*)", daemon.log, re.MULTILINE)


# Interfaces that come and go.


def test_an_interface_may_be_down_at_start(walled: Lab) -> None:
    walled.server.ip("link", "set", "eth0", "down")
    walled.daemon(LONG)
    walled.server.ip("link", "set", "eth0", "up")
    walled.server.ip("address", "replace", SERVER6 + "/64", "dev", "eth0", "nodad")  # IPv6 loses its own when down
    for server in (SERVER, SERVER6):
        walled.knock(*KNOCKS, to=server)
        walled.opens(server)


def test_an_interface_may_be_renamed_and_its_name_given_to_another(walled: Lab) -> None:
    daemon = walled.daemon(LONG)
    walled.server.ip("link", "set", "eth0", "name", "lan0")
    daemon.await_log("eth0: gone, waiting for it to come back", "listening on no interface (no address yet)")
    walled.knock(*KNOCKS)
    walled.server.ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
    daemon.await_log("listening on eth0 (")
    eventually(lambda: listening(daemon)[-1].startswith("eth0"), daemon.log)
    walled.knock(*KNOCKS)
    walled.server.ip("link", "delete", "eth0")
    eventually(lambda: listening(daemon)[-1].startswith("no interface"), daemon.log)
    walled.server.ip("link", "set", "lan0", "name", "eth0")
    eventually(lambda: SERVER in listening(daemon)[-1], daemon.log)
    assert "OPEN SESAME" not in daemon.log
    walled.knock(*KNOCKS)
    walled.opens()


def test_an_interface_may_be_created_after_the_others(walled: Lab) -> None:
    daemon = walled.daemon(LONG, "-i", "late0,never0", interface="lo")
    daemon.await_log("starting up, listening on lo,late0,never0", "late0: not there yet", "never0: not there yet")
    walled.server.ip("link", "set", "eth0", "name", "late0")
    daemon.await_log("listening on late0,lo (127.0.0.1, %s, " % SERVER)
    walled.knock(*KNOCKS)
    walled.opens()


def test_an_address_that_goes_does_not_count_any_more(walled: Lab) -> None:
    daemon = walled.daemon(LONG)
    # The host still takes packets to it, as it is also one of another interface's.
    walled.server.ip("address", "add", SERVER + "/32", "dev", "lo")
    walled.server.ip("address", "delete", SERVER + "/24", "dev", "eth0")
    walled.server.ip("route", "add", CLIENT + "/32", "dev", "eth0")
    eventually(lambda: SERVER not in listening(daemon)[-1], daemon.log)
    walled.knock(*KNOCKS)
    walled.server.ip("address", "add", SERVER + "/24", "dev", "eth0")
    eventually(lambda: SERVER in listening(daemon)[-1], daemon.log)
    assert "OPEN SESAME" not in daemon.log
    walled.knock(*KNOCKS)
    walled.opens()


def test_any_hears_interfaces_that_come_later(walled: Lab) -> None:
    walled.unplug("eth0")
    daemon = walled.daemon(LONG, interface="any")
    walled.plug("other0")
    eventually(lambda: SERVER in listening(daemon)[-1], daemon.log)
    walled.knock(*KNOCKS)
    walled.opens()


def test_the_log_says_each_change_once(walled: Lab) -> None:
    daemon = walled.daemon(LONG)
    for _turn in range(3):  # changes that change nothing for us
        walled.server.ip("link", "set", "eth0", "mtu", "1400")
        walled.server.ip("link", "set", "eth0", "mtu", "1500")
        walled.server.ip("address", "add", "198.19.1.1/32", "dev", "lo")
        walled.server.ip("address", "delete", "198.19.1.1/32", "dev", "lo")
    walled.server.ip("address", "add", "198.19.1.1/32", "dev", "eth0")
    daemon.await_log("198.19.1.1")
    said = listening(daemon)
    assert len(said) == len(set(said))
    assert said[-1].count("198.19.1.1") == 1


# Kinds of links: between the wire `eth0` of both and the addresses are other devices.


def link(namespace: Namespace, *arguments: str) -> None:
    """`ip link add`, or a skipped test if this kernel cannot."""
    done = subprocess.run(["ip", "-n", namespace.name, "link", "add", *arguments], capture_output=True, text=True)
    if done.returncode:
        kind = arguments[arguments.index("type") + 1]
        pytest.skip("this kernel has no link of type %s: %s" % (kind, done.stderr.strip()))


def up(namespace: Namespace, *names: str) -> None:
    for name in names:
        namespace.ip("link", "set", name, "up")


def wire(lab: Lab) -> None:
    """A new cable without addresses."""
    lab.unplug("eth0")
    lab.server.ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", lab.client.name)
    up(lab.client, "eth0")
    up(lab.server, "eth0")


def vlan(lab: Lab) -> tuple[str, ...]:
    for namespace in (lab.client, lab.server):
        link(namespace, "link", "eth0", "name", "eth0.100", "type", "vlan", "id", "100")
        up(namespace, "eth0.100")
    return "eth0.100", "eth0.100", "eth0"


def qinq(lab: Lab) -> tuple[str, ...]:
    for namespace in (lab.client, lab.server):
        link(namespace, "link", "eth0", "name", "outer", "type", "vlan", "proto", "802.1ad", "id", "200")
        link(namespace, "link", "outer", "name", "inner", "type", "vlan", "id", "100")
        up(namespace, "outer", "inner")
    return "inner", "inner", "outer", "eth0"


def bridge(lab: Lab) -> tuple[str, ...]:
    link(lab.server, "br0", "type", "bridge")
    lab.server.ip("link", "set", "eth0", "master", "br0")
    up(lab.server, "br0")
    return "eth0", "br0", "eth0"


def bond(lab: Lab) -> tuple[str, ...]:
    link(lab.server, "bond0", "type", "bond", "mode", "active-backup", "miimon", "50")
    lab.server.ip("link", "set", "eth0", "down")
    lab.server.ip("link", "set", "eth0", "master", "bond0")
    up(lab.server, "bond0", "eth0")
    return "eth0", "bond0", "eth0"


def vlan_on_bond(lab: Lab) -> tuple[str, ...]:
    bond(lab)
    link(lab.client, "link", "eth0", "name", "eth0.100", "type", "vlan", "id", "100")
    link(lab.server, "link", "bond0", "name", "bond0.100", "type", "vlan", "id", "100")
    up(lab.client, "eth0.100")
    up(lab.server, "bond0.100")
    return "eth0.100", "bond0.100", "bond0", "eth0"


def macvlan(lab: Lab) -> tuple[str, ...]:
    link(lab.server, "link", "eth0", "name", "mac0", "type", "macvlan", "mode", "bridge")
    lab.server.run("sysctl", "-qw", "net.ipv4.conf.eth0.arp_ignore=1")  # or eth0 claims mac0's address
    up(lab.server, "mac0")
    return "eth0", "mac0", "eth0"


def ipvlan(lab: Lab) -> tuple[str, ...]:
    link(lab.server, "link", "eth0", "name", "ipv0", "type", "ipvlan", "mode", "l2")
    up(lab.server, "ipv0")
    return "eth0", "ipv0", "eth0"


def vxlan(lab: Lab) -> tuple[str, ...]:
    return tunnel(lab, "vxlan", "id", "7", "dstport", "4789")


def gre(lab: Lab) -> tuple[str, ...]:
    return tunnel(lab, "gre")


def tunnel(lab: Lab, kind: str, *options: str) -> tuple[str, ...]:
    for namespace, local, remote in ((lab.client, OUTER_CLIENT, OUTER), (lab.server, OUTER, OUTER_CLIENT)):
        namespace.ip("address", "add", local + "/24", "dev", "eth0")
        link(namespace, "tunnel7", "type", kind, "local", local, "remote", remote, "dev", "eth0", *options)
        up(namespace, "tunnel7")
    return "tunnel7", "tunnel7", "eth0"


def veth(_lab: Lab) -> tuple[str, ...]:
    return "eth0", "eth0"


@pytest.mark.parametrize("listen", ["upper", "every", "any"])
@pytest.mark.parametrize("build", [veth, vlan, qinq, bridge, bond, vlan_on_bond, macvlan, ipvlan, vxlan, gre])
def test_a_knock_counts_once(walled: Lab, build: Callable[[Lab], tuple[str, ...]], listen: str) -> None:
    wire(walled)
    theirs, *ours = build(walled)
    for name, device, addresses in (
        (walled.client.name, theirs, (CLIENT + "/24", CLIENT6 + "/64")),
        (walled.server.name, ours[0], (SERVER + "/24", SERVER6 + "/64")),
    ):
        for address in addresses:
            subprocess.run(["ip", "-n", name, "address", "add", address, "dev", device], check=True)
    interface = {"upper": ours[0], "every": ",".join(ours), "any": "any"}[listen]
    daemon = walled.daemon(ONCE, interface=interface)
    for server in (SERVER, SERVER6):
        reach(walled, server)
        before = len(daemon.log)
        walled.knock("21001", "11003", to=server)
        opened(daemon, before, "marker")
        assert "twice: Stage 1" in daemon.log[before:]
        assert "twice: Stage 2" not in daemon.log[before:]
        walled.knock("21001", "21001", "31002", to=server)
        opened(daemon, before, "twice")


def test_the_log_says_that_a_bridge_takes_the_packets_of_its_port(walled: Lab) -> None:
    daemon = walled.daemon(LONG)
    hint = "; br0 takes the packets of eth0: listen there"
    bridge(walled)
    eventually(lambda: listening(daemon)[-1].endswith(hint), daemon.log)
    walled.server.ip("link", "set", "eth0", "nomaster")
    eventually(lambda: not listening(daemon)[-1].endswith(hint), daemon.log)
    walled.knock(*KNOCKS)
    walled.opens()


def opened(daemon: Daemon, since: int, door: str) -> None:
    eventually(lambda: "%s: OPEN SESAME" % door in daemon.log[since:], daemon.log)


def reach(lab: Lab, server: str) -> None:
    """Waits until the two know each other's hardware addresses, and links that make up their mind have done so."""

    def answers() -> bool:
        with lab.client, socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET) as caller:
            caller.settimeout(0.5)
            try:
                caller.connect((server, 9))
            except ConnectionRefusedError:
                return True
            except OSError:
                pass
            return False

    eventually(answers, "the client reaches %s" % server)


def test_a_knock_at_the_wires_own_address_counts_although_it_comes_by_vlan(walled: Lab) -> None:
    link(walled.server, "link", "eth0", "name", "eth0.100", "type", "vlan", "id", "100")
    link(walled.client, "link", "eth0", "name", "eth0.100", "type", "vlan", "id", "100")
    for namespace, address in ((walled.server, OUTER), (walled.client, OUTER_CLIENT)):
        namespace.ip("address", "add", address + "/24", "dev", "eth0.100")
        up(namespace, "eth0.100")
    walled.client.ip("route", "add", SERVER + "/32", "via", OUTER, "src", OUTER_CLIENT)
    daemon = walled.daemon(LONG)
    walled.knock(*KNOCKS)
    daemon.await_log("%s: ssh: OPEN SESAME" % OUTER_CLIENT)
    walled.knock(*KNOCKS, to=OUTER)  # eth0.100's, which is not listened on
    walled.knock(*KNOCKS)
    eventually(lambda: daemon.log.count("OPEN SESAME") == 2, daemon.log)


def syn(port: int) -> bytes:
    """A first knock from the client as an IPv4 packet."""
    segment = struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 5 << 4, 2, 1024, 0, 0)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 40, 7, 0, 64, 6, 0) + socket.inet_aton(CLIENT) + socket.inet_aton(SERVER)
    return summed(header + segment)


@pytest.mark.parametrize("interface", ["eth0", "any"])
@pytest.mark.parametrize(("tag", "counts"), [(0, True), (77, False)])
def test_a_tagged_frame_counts_if_the_host_takes_it_up(walled: Lab, interface: str, tag: int, counts: bool) -> None:
    """Tag 0 stands for a priority only; VLAN 77 has no interface here."""
    daemon = walled.daemon(LONG, interface=interface)
    head = walled.mac("eth0") + bytes(6)
    with walled.client, socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", 0))
        for port in KNOCKS[:2]:
            raw.send(head + struct.pack("!HHH", 0x8100, 0xE000 | tag, 0x0800) + syn(int(port)))
    walled.knock(KNOCKS[2])
    if not counts:
        walled.knock(*KNOCKS)
    daemon.await_log("OPEN SESAME")
    assert daemon.log.count("Stage 1") == 1


@pytest.mark.parametrize("broadcast", [True, False])
def test_a_frame_for_another_host_does_not_count(walled: Lab, broadcast: bool) -> None:
    walled.server.ip("link", "set", "eth0", "promisc", "on")
    daemon = walled.daemon(LONG)
    head = (b"\xff" * 6 if broadcast else b"\x02\x00\x00\x00\x00\x99") + bytes(6) + b"\x08\x00"
    with walled.client, socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", 0))
        raw.send(head + syn(int(KNOCKS[0])))
    walled.knock(*KNOCKS)
    walled.opens()
    assert daemon.log.count("Stage 1") == 1


# Links without Ethernet.

TUNSETIFF, TUNSETLINK = 0x400454CA, 0x400454CD  # linux/if_tun.h
IFF_TUN, IFF_NO_PI = 0x1, 0x1000
ARPHRD_PPP, ARPHRD_RAWIP, ARPHRD_NONE = 512, 519, 65534  # linux/if_arp.h


@pytest.mark.parametrize("interface", ["ppp0", "any"])
@pytest.mark.parametrize("kind", [ARPHRD_NONE, ARPHRD_PPP, ARPHRD_RAWIP])
def test_raw_ip_links(walled: Lab, kind: int, interface: str) -> None:
    """A tun device, which says to be of this kind; it comes after the daemon, as a ppp link does."""
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("there is no /dev/net/tun here")
    walled.unplug("eth0")
    daemon = walled.daemon(LONG, interface=interface)
    with walled.server:
        peer = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(peer, TUNSETIFF, struct.pack("16sH14x", b"ppp0", IFF_TUN | IFF_NO_PI))
        fcntl.ioctl(peer, TUNSETLINK, kind)
        walled.server.ip("link", "set", "ppp0", "up")
        walled.server.ip("address", "add", SERVER, "peer", CLIENT, "dev", "ppp0")
        walled.server.ip("address", "add", SERVER6 + "/64", "dev", "ppp0", "nodad")
        eventually(lambda: SERVER in listening(daemon)[-1] and SERVER6 in listening(daemon)[-1], daemon.log)
        for port in KNOCKS:
            os.write(peer, syn(int(port)))
        daemon.await_log("%s: ssh: OPEN SESAME" % CLIENT)
        for port in KNOCKS:
            segment = struct.pack("!HHIIBBHHH", 40000, int(port), 1, 0, 5 << 4, 2, 1024, 0, 0)
            header = struct.pack("!IHBB", 6 << 28, len(segment), 6, 64)
            addresses = b"".join(socket.inet_pton(socket.AF_INET6, address) for address in (CLIENT6, SERVER6))
            os.write(peer, header + addresses + segment)
        daemon.await_log("%s: ssh: OPEN SESAME" % CLIENT6)
    finally:
        os.close(peer)
    eventually(lambda: SERVER not in listening(daemon)[-1], daemon.log)
