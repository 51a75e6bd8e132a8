# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Ansible can do over ssh, it can do over a closed port, by the one line of group_vars alone.

`costs` counts a host's knocks and its logins: one knock for each connection, and none for a task that shares one.
"""

from __future__ import annotations

import importlib.util
import shutil
import threading
from pathlib import Path
from typing import Any, Callable

import pytest

from .controller import LOCAL, ONE_LINE, Controller, Task
from .fleet import OPEN_TIMEOUT, Host

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "fleet.md"
KNOCK_PROXY = ROOT / "roles" / "knock_client" / "files" / "knock-proxy"

PING: Task = {"ansible.builtin.ping": None}
HANG_UP: Task = {"ansible.builtin.meta": "reset_connection"}
DOOR_CLOSES: Task = {"ansible.builtin.pause": {"seconds": OPEN_TIMEOUT + 1}}
NOT_SHARED = "-o ControlMaster=no"

Take = Callable[[int], list[Host]]


def shell(command: str, **keywords: Any) -> Task:
    return {"ansible.builtin.shell": command, **keywords}


# The one line


@pytest.mark.usefixtures("family")
def test_one_line_in_group_vars_is_all_that_a_fleet_needs(controller: Controller, take: Take) -> None:
    assert 'ansible_ssh_common_args: "%s"' % ONE_LINE in DOCS.read_text()
    hosts = take(3)
    run = controller.play(hosts, PING, gather_facts=True, gather_subset=["min"]).succeeds()
    assert [run.costs(host) for host in hosts] == [(1, 1)] * 3


def test_without_the_line_nobody_gets_in(controller: Controller, web: Host) -> None:
    controller.common_args = ""
    run = controller.play([web], PING).fails()
    assert "UNREACHABLE" in run.text
    assert run.costs(web) == (0, 0)


def test_without_gathered_facts_the_first_task_knocks(controller: Controller, web: Host) -> None:
    assert controller.play([web], PING, gather_facts=False).succeeds().costs(web) == (1, 1)


@pytest.mark.parametrize("order", ["%s {}", "{} %s"])
def test_it_composes_with_common_args_of_your_own(controller: Controller, web: Host, order: str) -> None:
    controller.common_args = (order % "-o 'SetEnv FLEET_OWN=\"two words\"'").format(ONE_LINE)
    run = controller.play([web], shell('test "$FLEET_OWN" = "two words"')).succeeds()
    assert run.costs(web) == (1, 1)


# Who is connected to


def test_a_delegated_task_knocks_with_the_sequence_of_the_host_that_it_goes_to(
    controller: Controller, take: Take
) -> None:
    here, there = take(2)
    once = {"run_once": True, "delegate_to": there.name}
    only = {"when": "inventory_hostname == '%s'" % here.name}
    run = controller.play([here, there], {**PING, **once, **only}).succeeds()
    assert (run.costs(here), run.costs(there)) == ((0, 0), (1, 1))


@pytest.mark.parametrize("known", [True, False], ids=["in the inventory", "implicit"])
def test_a_host_without_a_sequence_is_reached_without_a_proxy(controller: Controller, web: Host, known: bool) -> None:
    plain = controller.fleet.plain
    to_plain = {"delegate_to": plain.name if known else plain.address}
    run = controller.play([web], {**PING, **to_plain}, options="-vvvv").succeeds()
    lines = [line for line in run.text.splitlines() if "SSH: EXEC ssh" in line]
    assert lines and not any("knock-proxy" in line or "ProxyCommand" in line for line in lines)
    assert (run.costs(web), run.logins(plain)) == ((0, 0), 1)


def test_a_task_on_the_controller_itself_knocks_at_nobody(controller: Controller, web: Host) -> None:
    run = controller.play([web], shell("true", **LOCAL), {**PING, **LOCAL}).succeeds()
    assert run.costs(web) == (0, 0)


# When it is connected to


def test_a_task_after_the_door_has_closed_goes_on_in_the_connection_that_is_there(
    controller: Controller, web: Host
) -> None:
    run = controller.play([web], PING, DOOR_CLOSES, PING).succeeds()
    assert not web.is_open()
    assert run.costs(web) == (1, 1)


def test_the_first_task_after_the_door_and_the_connection_have_closed_knocks_again(
    controller: Controller, web: Host
) -> None:
    controller.sharing = "-o ControlMaster=auto -o ControlPersist=1s"
    assert controller.play([web], PING, DOOR_CLOSES, PING).succeeds().costs(web) == (2, 2)


def test_the_items_of_a_loop_share_one_connection(controller: Controller, web: Host) -> None:
    run = controller.play([web], shell("echo item-{{ item }}", loop=[1, 2, 3, 4]), options="-v").succeeds()
    assert all("item-%d" % item in run.text for item in (1, 2, 3, 4))
    assert run.costs(web) == (1, 1)


def test_without_control_persist_each_connection_has_its_knock(controller: Controller, web: Host) -> None:
    controller.sharing = NOT_SHARED
    run = controller.play([web], shell("true", loop=[1, 2, 3]), PING).succeeds()
    assert run.costs(web) == (4, 4)


def test_an_asynchronous_task_is_polled_after_the_door_has_closed(controller: Controller, web: Host) -> None:
    controller.sharing = NOT_SHARED
    long = OPEN_TIMEOUT + 1
    asked = {"jid": "{{ job.ansible_job_id }}"}
    run = controller.play(
        [web],
        shell("echo one >&2; sleep %d" % long, **{"async": 30, "poll": long}),
        shell("sleep %d; echo two" % long, **{"async": 30, "poll": 0, "register": "job"}),
        DOOR_CLOSES,
        {
            "ansible.builtin.async_status": asked,
            **{"register": "end", "until": "end.finished", "retries": 20, "delay": 1},
        },
        {"ansible.builtin.assert": {"that": "end.stdout == 'two'"}},
    ).succeeds()
    knocks, logins = run.costs(web)
    assert knocks == logins >= 4


def test_reset_connection_is_followed_by_a_new_knock(controller: Controller, web: Host) -> None:
    assert controller.play([web], PING, HANG_UP, PING).succeeds().costs(web) == (2, 2)


@pytest.mark.parametrize("family", ["ipv6"], indirect=True)
@pytest.mark.usefixtures("family")
def test_wait_for_connection_waits_for_a_reboot(controller: Controller, web: Host) -> None:
    wait = {"ansible.builtin.wait_for_connection": {"timeout": 60, "sleep": 1, "connect_timeout": 5}}
    with web.reboots_when_told(takes=3):
        run = controller.play(
            [web],
            shell("(sleep 0.5; touch %s) >/dev/null 2>&1 &" % web.told_to_reboot),
            {"ansible.builtin.wait_for": {"path": str(web.switched_off), "sleep": 1, "timeout": 60}, **LOCAL},
            wait,
            shell("test $(cat %s) = %d" % (web.boot_id, web.boots + 1)),
        ).succeeds()
    knocks, logins = run.costs(web)
    assert knocks >= logins >= 2


def test_the_module_reboot_finds_the_host_again(controller: Controller, web: Host) -> None:
    reboot = {
        "reboot_command": "/usr/bin/touch %s" % web.told_to_reboot,
        "boot_time_command": "cat %s" % web.boot_id,
        "reboot_timeout": 60,
        "connect_timeout": 5,
    }
    with web.reboots_when_told(takes=2):
        run = controller.play([web], {"ansible.builtin.reboot": reboot}, PING).succeeds()
    assert "changed=1" in run.text


@pytest.mark.parametrize("retries", [0, 6])
def test_ssh_retries_knock_anew(controller: Controller, web: Host, retries: int) -> None:
    controller.common_args = "{{ lookup('sesame.knock.ssh_args', timeout=1) }}"
    controller.variables = {"ansible_ssh_retries": retries}
    web.stop()
    back = threading.Timer(4, web.start)
    try:
        if retries:
            back.start()
        run = controller.play([web], PING)
    finally:
        if retries:
            back.join()
        else:
            web.start()
    if retries:
        assert run.succeeds().costs(web) == (1, 1)
    else:
        assert "UNREACHABLE" in run.fails().text


# What is carried


@pytest.mark.parametrize(
    ("method", "family"),
    [("sftp", "ipv4"), ("sftp", "ipv6"), ("scp", "ipv4"), ("scp", "ipv6"), ("piped", "ipv4"), ("smart", "ipv6")],
    indirect=["family"],
)
@pytest.mark.usefixtures("family")
def test_files_go_both_ways_by_each_transfer(controller: Controller, web: Host, method: str) -> None:
    controller.variables = {"ansible_ssh_transfer_method": method}
    program = {"sftp": "sftp", "scp": "scp", "piped": "dd ", "smart": "sftp"}[method]
    text = "carried by %s" % method
    there, back = controller.directory / "there", controller.directory / "back"
    run = controller.play(
        [web],
        {"ansible.builtin.copy": {"content": text, "dest": str(there)}},
        {"ansible.builtin.fetch": {"src": str(there), "dest": str(back), "flat": True}},
        options="-vvv",
        PIPELINING=False,
    ).succeeds()
    assert there.read_text() == back.read_text() == text
    assert any("SSH: EXEC" in line and program in line for line in run.text.splitlines())
    assert run.costs(web) == (1, 1)


@pytest.mark.parametrize("method", ["sftp", "scp", "piped"])
def test_a_transfer_with_a_connection_of_its_own_knocks(controller: Controller, web: Host, method: str) -> None:
    controller.sharing = NOT_SHARED
    controller.variables = {"ansible_ssh_transfer_method": method}
    there = controller.directory / "there"
    run = controller.play(
        [web], {"ansible.builtin.copy": {"content": method, "dest": str(there)}}, PIPELINING=False
    ).succeeds()
    assert there.read_text() == method
    knocks, logins = run.costs(web)
    assert knocks == logins > 2


@pytest.mark.parametrize("pipelining", [True, False])
def test_with_and_without_pipelining(controller: Controller, web: Host, pipelining: bool) -> None:
    run = controller.play([web], PING, PING, options="-vvv", PIPELINING=pipelining).succeeds()
    assert ("AnsiballZ_ping.py" in run.text) != pipelining  # as a file of its own
    assert run.costs(web) == (1, 1)


@pytest.mark.parametrize("pipelining", [True, False])
def test_become(controller: Controller, web: Host, pipelining: bool) -> None:
    become = {"become": True, "become_user": "nobody"}
    run = controller.play([web], shell("id -un", **become), options="-v", PIPELINING=pipelining).succeeds()
    assert '"stdout": "nobody"' in run.text
    assert run.costs(web) == (1, 1)


# synchronize, whose rsync starts an ssh of its own


class Tree:
    """A directory to be synchronized, and the task that does it."""

    def __init__(self, controller: Controller) -> None:
        self.source, self.copy = controller.directory / "source", controller.directory / "copy"
        self.source.mkdir()
        (self.source / "file").write_text("synchronized")

    def task(self, **arguments: Any) -> Task:
        return {"ansible.posix.synchronize": {"src": "%s/" % self.source, "dest": "%s/" % self.copy, **arguments}}

    @property
    def is_there(self) -> bool:
        return (self.copy / "file").exists()


@pytest.fixture
def tree(controller: Controller) -> Tree:
    if not shutil.which("rsync"):
        pytest.fail("rsync is not installed")
    return Tree(controller)


@pytest.mark.parametrize(("mode", "family"), [("push", "ipv4"), ("pull", "ipv6")], indirect=["family"])
@pytest.mark.usefixtures("family")
def test_synchronize_knocks_with_use_ssh_args(controller: Controller, web: Host, tree: Tree, mode: str) -> None:
    run = controller.play([web], tree.task(use_ssh_args=True, mode=mode)).succeeds()
    assert tree.is_there
    assert run.costs(web) == (1, 1)


def through_ssh_config(controller: Controller, host: Host) -> None:
    """Let the machine's ssh_config name the door, as the role knock_client writes it; for this Ansible alone."""
    profile, config = controller.directory / "profile.json", controller.directory / "ssh_config"
    profile.touch(mode=0o600)
    profile.write_text('{"sequence": "%s"}' % host.sequence)
    config.write_text(
        "Host %s %s\n    ProxyCommand %s %s %%h %%p\n    ProxyUseFdpass yes\n    UserKnownHostsFile %s\n"
        % (host.name, controller.address(host), KNOCK_PROXY, profile, controller.fleet.known_hosts)
    )
    mount = 'mount --bind "$0" /etc/ssh/ssh_config && exec "$@"'
    controller.through = ("unshare", "--mount", "sh", "-c", mount, str(config))
    controller.ssh_args = ""


@pytest.mark.parametrize("family", ["ipv6"], indirect=True)
@pytest.mark.usefixtures("family")
def test_synchronize_knocks_through_ssh_config(controller: Controller, web: Host, tree: Tree) -> None:
    through_ssh_config(controller, web)
    controller.common_args = ""
    run = controller.play([web], tree.task()).succeeds()
    assert tree.is_there
    assert run.costs(web) == (1, 1)


def test_synchronize_with_neither_fails_by_the_error_of_the_docs(controller: Controller, web: Host, tree: Tree) -> None:
    run = controller.play([web], tree.task()).fails()
    assert not tree.is_there
    assert run.costs(web) == (0, 0)
    error = "ssh: connect to host %s port 22: Connection refused" % web.address
    assert error in run.text
    assert error.replace(web.address, "web1") in DOCS.read_text()


# How plays are run


def test_serial_goes_through_the_hosts_one_by_one(controller: Controller, take: Take) -> None:
    hosts = take(3)
    run = controller.play(hosts, PING, PING, serial=1).succeeds()
    assert run.text.count("PLAY [fleet]") == 3
    assert [run.costs(host) for host in hosts] == [(1, 1)] * 3


def test_mitogen(controller: Controller, take: Take) -> None:
    found = importlib.util.find_spec("ansible_mitogen")
    assert found and found.origin, "mitogen is not installed"
    hosts = take(2)
    there = controller.directory / "there"
    run = controller.play(
        hosts,
        PING,
        {"ansible.builtin.copy": {"content": "mitogen", "dest": "%s-{{ inventory_hostname }}" % there}},
        DOOR_CLOSES,
        shell("true"),
        STRATEGY="mitogen_linear",
        STRATEGY_PLUGINS=Path(found.origin).parent / "plugins" / "strategy",
    ).succeeds()
    assert [run.costs(host) for host in hosts] == [(1, 1)] * 2
