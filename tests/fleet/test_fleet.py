# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fifty hosts at once: one knock for each connection, however many forks there are."""

from __future__ import annotations

from .controller import Controller, Run, Task
from .fleet import Fleet, Host

FORKS = "--forks 50"
PING: Task = {"ansible.builtin.ping": None}
RAW: Task = {"ansible.builtin.raw": "true"}
"""A task that costs a host no Python: fifty at once are hard work for one machine, and only connections count here."""


def costs_one_knock_each(run: Run, hosts: list[Host]) -> None:
    assert [run.logins(host) for host in hosts] == [1] * len(hosts)
    # A machine that is busy with 50 forks may be late to open a door; then the client knocks again.
    assert all(run.knocks(host) for host in hosts)
    assert sum(run.knocks(host) for host in hosts) <= len(hosts) * 1.1


def test_fifty_forks_are_one_knock_and_one_connection_for_each_host(fleet: Fleet, controller: Controller) -> None:
    """Half of the hosts have an IPv6 address in the inventory."""
    controller.family = "mixed"
    run = controller.play(fleet.hosts, PING, {**RAW, "loop": [1, 2]}, options=FORKS).succeeds()
    costs_one_knock_each(run, fleet.hosts)


def test_serial_batches_knock_as_often(fleet: Fleet, controller: Controller) -> None:
    hosts = fleet.hosts[:20]
    run = controller.play(hosts, RAW, RAW, options=FORKS, serial=["10%", "50%", "100%"])
    assert run.succeeds().text.count("PLAY [fleet]") == 3
    costs_one_knock_each(run, hosts)


def test_the_active_lookup_knocks_once_for_each_host_in_all_forks(fleet: Fleet, controller: Controller) -> None:
    """It is evaluated for each task and item in each fork; the address is that of a host whose port it opens."""
    controller.variables = {"knock_host": "{{ ansible_host }}"}
    ask = {"ansible.builtin.debug": {"msg": "{{ lookup('sesame.knock.knock', open_timeout=100) }}"}, "loop": [1, 2, 3]}
    run = controller.play(fleet.hosts, ask, ask, options=FORKS).succeeds()
    assert [run.logins(host) for host in fleet.hosts] == [0] * len(fleet.hosts)
    assert all(run.knocks(host) >= 1 for host in fleet.hosts)
    assert sum(run.knocks(host) for host in fleet.hosts) <= len(fleet.hosts) * 1.1
