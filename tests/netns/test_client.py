# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The client against the real daemon: one accepted connection for each login, on every kind of bad network."""

from __future__ import annotations

import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from sesame_knock import _knocker as knocker
from sesame_knock._sequence import parse_sequence

from .lab import CLIENT, FIREWALL, KNOCKS, SERVER, SERVER6, SSH, Lab, stopped

KNOCK_INFO = Path(__file__).parents[2] / "plugins" / "modules" / "knock_info.py"
SEQUENCE = parse_sequence(list(KNOCKS))
DROP = FIREWALL.replace("reject with tcp reset", "drop")
# The kernel answers a few refused connects a second, then none: those after them hang.
REFUSE = "tcp dport 22 tcp flags & (fin|syn|rst|ack) == syn "
ICMP = FIREWALL.replace(
    REFUSE + "reject with tcp reset", REFUSE + "limit rate 1/second burst 1 packets reject\n        " + REFUSE + "drop"
)
FIREWALLS = {"reset": FIREWALL, "drop": DROP, "rate-limited icmp": ICMP}


def listener_of(lab: Lab) -> socket.socket:
    (listener,) = (thing for thing in lab._things if isinstance(thing, socket.socket))
    listener.settimeout(0.5)
    return listener


def accepted(listener: socket.socket) -> int:
    """Take all connections that the server has accepted, and count them."""
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except TimeoutError:
            return count
        count += 1


@pytest.mark.parametrize("firewall", FIREWALLS)
@pytest.mark.parametrize("address", [SERVER, SERVER6])
def test_each_login_is_one_accepted_connection(lab: Lab, firewall: str, address: str) -> None:
    lab.nft(FIREWALLS[firewall])
    lab.daemon(SSH.format(open_timeout=1))
    listener = listener_of(lab)
    with lab.client:
        target = knocker.resolve(address)
        with knocker.connect(target, 22, [SEQUENCE]) as connection:
            assert connection.getpeername()[0] == address
            assert accepted(listener) == 1


def test_waiting_costs_no_connection_at_all(walled: Lab) -> None:
    walled.daemon(SSH.format(open_timeout=2))
    listener = listener_of(walled)
    with walled.client:
        target = knocker.resolve(SERVER)
        assert not knocker.is_open(target, 22)
        knocker.wait_open(target, 22, [SEQUENCE])
        assert knocker.is_open(target, 22)
        knocker.wait_closed(target, 22)
        assert not knocker.is_open(target, 22)
    assert accepted(listener) == 0


@pytest.mark.parametrize("firewall", FIREWALLS)
def test_a_connect_that_comes_too_early_delays_nothing(lab: Lab, firewall: str) -> None:
    """The kernel would send a dropped SYN again after 1 s, and the next knock comes after 0.5 s."""
    lab.nft(FIREWALLS[firewall])
    daemon = lab.daemon(SSH.format(open_timeout=5))
    with lab.client:
        target = knocker.resolve(SERVER)
        with stopped(daemon):
            timer = threading.Timer(0.15, daemon.process.send_signal, (signal.SIGCONT,))
            timer.start()
            opened = knocker.wait_open(target, 22, [SEQUENCE])
        timer.join()
    assert opened == knocker.Opened(was_open=False, knocks=3)


def test_the_answer_to_a_syn_that_was_sent_again_is_no_open_port(lab: Lab) -> None:
    lab.nft(DROP)
    lab.daemon(SSH.format(open_timeout=5))
    with lab.client:  # the knock takes 0.8 s, the pause after it 0.4 s: at 1 s the look's SYN gets its answer
        opened = knocker.wait_open(knocker.resolve(SERVER), 22, [SEQUENCE], delay=0.4)
    assert opened == knocker.Opened(was_open=False, knocks=3)


@pytest.mark.parametrize("address", [SERVER, SERVER6])
def test_an_open_port_is_told_and_not_connected_to(lab: Lab, address: str) -> None:
    lab.daemon(SSH.format(open_timeout=1))
    listener = listener_of(lab)
    with lab.client:
        opened = knocker.wait_open(knocker.resolve(address), 22, [SEQUENCE])
    assert opened == knocker.Opened(was_open=True, knocks=3)
    assert accepted(listener) == 0


def test_where_no_route_goes_nothing_is_sent(lab: Lab) -> None:
    with lab.client, pytest.raises(knocker.NoRoute, match=r"198\.19\.0\.1"):
        knocker.resolve("198.19.0.1")


def test_the_wrong_sequence_stays_outside(walled: Lab) -> None:
    walled.daemon(SSH.format(open_timeout=2))
    with walled.client, pytest.raises(knocker.StillClosed):
        knocker.wait_open(knocker.resolve(SERVER), 22, [SEQUENCE[::-1]], timeout=2)


def test_knock_info_tells_what_the_kernel_knows(walled: Lab) -> None:
    def ask() -> str:
        return walled.server.run("/usr/bin/python3", "-c", ASK % str(KNOCK_INFO))

    assert ask() == "False False []\n"
    walled.daemon(SSH.format(open_timeout=30).replace("22/tcp", "22/tcp,60000-60010/udp"))
    assert ask() == "True False []\n"
    with walled.client:
        knocker.wait_open(knocker.resolve(SERVER), 22, [SEQUENCE])
    time.sleep(0.1)
    assert ask() == (
        "True False [('%s', 'tcp', 22, 'ssh', True), ('%s', 'udp', '60000-60010', 'ssh', True)]\n" % (CLIENT, CLIENT)
    )


# The module without Ansible, which Debian's own Python does not have.
ASK = """
import importlib.util, sys, types
for name in ("", ".module_utils", ".module_utils.basic", ".module_utils.common", ".module_utils.common.respawn"):
    sys.modules["ansible" + name] = types.ModuleType("ansible" + name)
sys.modules["ansible.module_utils.basic"].AnsibleModule = None
for name in ("has_respawned", "probe_interpreters_for_module", "respawn_module"):
    setattr(sys.modules["ansible.module_utils.common.respawn"], name, None)
spec = importlib.util.spec_from_file_location("knock_info", %r)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
import nftables
kernel = module.Kernel(nftables)
active = kernel.active()
print(active, active and kernel.guard(), active and sorted(
    (*(entry[key] for key in ("address", "protocol", "port", "door")), 0 < entry["expires_in"] <= 30)
    for entry in kernel.admitted()
) or [])
"""
