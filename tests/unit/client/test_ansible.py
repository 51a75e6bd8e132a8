# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plugins under the real ansible: what they send, what they return, and what they never show."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from ansible_collections.sesame.knock.plugins.lookup import ssh_args

from .door import Door

Ansible = Callable[..., "subprocess.CompletedProcess[str]"]
SSH_ARGS = "{{ lookup('sesame.knock.ssh_args') }}"
DEBUG = "ansible.builtin.debug"
UNPIPED = {"ANSIBLE_PIPELINING": "false"}  # a module is a file then, which lists of processes name
LOCAL = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}


def extra(**variables: Any) -> list[str]:
    return ["-e", json.dumps(variables)]


def message(done: subprocess.CompletedProcess[str]) -> Any:
    """What `ansible localhost -m debug -a msg=...` says."""
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout[done.stdout.index("{") :])["msg"]


def play(tmp_path: Path, *plays: dict[str, Any], hosts: dict[str, Any] | None = None) -> list[str]:
    """Write a playbook and its inventory, and give the arguments that run them."""
    (tmp_path / "play.yml").write_text(json.dumps([{"gather_facts": False, **one} for one in plays]))
    (tmp_path / "hosts.yml").write_text(json.dumps({"all": {"hosts": hosts or {"web1": {}}}}))
    return ["-i", "hosts.yml", "play.yml"]


# ssh_args


def profile_of(arguments: str) -> tuple[list[str], Path]:
    """Take the arguments apart as Ansible and ssh do, and give the words of the command with its profile."""
    words = shlex.split(arguments)
    assert words[0] == words[2] == "-o"
    assert words[3] == "ProxyUseFdpass=yes"
    done = subprocess.run(["ssh", "-F", "none", "-G", *words, "host"], capture_output=True, text=True, check=True)
    (shown,) = (line for line in done.stdout.splitlines() if line.startswith("proxycommand "))
    command = shlex.split(shown.split(" ", 1)[1].replace("%%", "%"))
    assert command[-2:] == ["%h", "%p"]
    return command, Path(command[-3])


@pytest.mark.parametrize(
    "sequence", ["4242:tcp,1717:udp", " 4242 , 1717/UDP", [4242, {"port": 1717, "protocol": "udp"}]]
)
def test_ssh_args_name_a_private_profile(ansible: Ansible, runtime: Path, sequence: Any) -> None:
    _command, profile = profile_of(
        message(ansible("ansible", "localhost", "-m", DEBUG, "-a", "msg=" + SSH_ARGS, *extra(knock_sequence=sequence)))
    )
    assert profile.parent == runtime
    assert stat.S_IMODE(profile.stat().st_mode) == 0o600
    assert json.loads(profile.read_text())["sequence"] == "4242:tcp,1717:udp"


def test_a_host_without_a_sequence_gets_no_arguments(ansible: Ansible, runtime: Path) -> None:
    assert message(ansible("ansible", "localhost", "-m", DEBUG, "-a", "msg=" + SSH_ARGS)) == ""
    assert not runtime.exists()


def test_a_templated_and_a_vaulted_sequence_are_read(ansible: Ansible, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("for the tests")
    vault = ["--vault-password-file", str(tmp_path / "secret")]
    done = ansible("ansible-vault", "encrypt_string", *vault, "--name", "vaulted", "4242:tcp,1717:udp")
    (tmp_path / "vars.yml").write_text(
        done.stdout + "knock_sequence: '{{ vaulted }}'\nknock_sequence_previous: [1, 2]\n"
    )
    done = ansible("ansible", "localhost", "-m", DEBUG, "-a", "msg=" + SSH_ARGS, "-e", "@vars.yml", *vault)
    profile = json.loads(profile_of(message(done))[1].read_text())
    assert (profile["sequence"], profile["previous"]) == ("4242:tcp,1717:udp", "1:tcp,2:tcp")


def test_a_bad_sequence_is_named(ansible: Ansible) -> None:
    done = ansible("ansible", "localhost", "-m", DEBUG, "-a", "msg=" + SSH_ARGS, *extra(knock_sequence="4242,70000"))
    assert done.returncode != 0
    assert "knock_sequence: knock 2, '70000'" in done.stdout
    assert "4242" not in done.stdout


def test_the_command_that_ssh_args_name_knocks(ansible: Ansible, door: Door) -> None:
    done = ansible("ansible", "localhost", "-m", DEBUG, "-a", "msg=" + SSH_ARGS, *extra(knock_sequence=door.sequence))
    command, _profile = profile_of(message(done))
    process = subprocess.Popen(
        [*command[:-2], "127.0.0.1", str(door.port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout
    assert process.stdout.readline().startswith(b"SSH-2.0-")
    process.kill()
    process.communicate()
    assert door.arrived == door.ports


@pytest.mark.parametrize("writable", [True, False])
def test_where_root_has_installed_the_collection_the_client_is_compiled_elsewhere_once(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writable: bool
) -> None:
    files = tmp_path / "files"
    shutil.copytree(Path(ssh_args.FILES), files, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(ssh_args, "FILES", str(files))
    monkeypatch.setattr(ssh_args, "KNOCK_PROXY", str(files / "knock-proxy"))
    monkeypatch.setattr(os, "access", lambda path, _mode: writable)  # root can write everywhere
    words, _profile = profile_of(ssh_args.arguments(str(tmp_path / "none.json")))
    assert subprocess.run(words[:-2], check=False, stderr=subprocess.DEVNULL).returncode == 2
    assert len([*files.rglob("proxy.*.pyc")]) == writable
    assert len([*runtime.rglob("proxy.*.pyc")]) == (not writable)


def test_delegation_takes_the_sequence_of_the_host_that_is_connected_to(ansible: Ansible, tmp_path: Path) -> None:
    ping = [
        {"ansible.builtin.ping": None, "delegate_to": name, "ignore_unreachable": True} for name in ("bastion", "plain")
    ]
    closed = {"ansible_ssh_common_args": SSH_ARGS, "ansible_host": "127.0.0.1", "ansible_port": 1}
    arguments = play(
        tmp_path,
        {"hosts": "web1", "tasks": ping},
        hosts={
            "web1": {"knock_sequence": "1,2", "ansible_ssh_common_args": SSH_ARGS},
            "bastion": {"knock_sequence": "3,4", **closed},
            "plain": closed,
        },
    )
    done = ansible("ansible-playbook", "-vvv", *arguments)
    lines = [line for line in done.stdout.splitlines() if "SSH: EXEC ssh" in line]
    assert lines
    proxied = [line for line in lines if "knock-proxy" in line]
    assert len(lines) > len(proxied) > 0
    (runtime,) = tmp_path.glob("run*/sesame-knock")
    assert [json.loads(path.read_text())["sequence"] for path in runtime.glob("*.json")] == ["3:tcp,4:tcp"]


def test_a_repeat_costs_well_under_a_millisecond(ansible: Ansible, runtime: Path) -> None:
    """Ansible evaluates it for each task and loop item. Compared with a lookup that does nothing, in the same run."""

    def cost(lookup: str) -> float:
        text = "msg={%% for _ in range(2000) %%}{{ %s }}{%% endfor %%}" % lookup
        begin = os.times().children_user
        ansible("ansible", "localhost", "-m", DEBUG, "-a", text, "-o", *extra(knock_sequence="1,2,3"))
        return os.times().children_user - begin

    base = cost("lookup('ansible.builtin.vars', 'knock_sequence')")
    assert (cost("lookup('sesame.knock.ssh_args')[:0]") - base) / 2000 < 0.001
    assert len(list(runtime.glob("*.json"))) == 1


# The lookup knock


def test_the_lookup_knocks_once_for_all_evaluations_and_forks(ansible: Ansible, door: Door, tmp_path: Path) -> None:
    text = "{{ lookup('sesame.knock.knock', '127.0.0.1', port=%d, open_timeout=100) }}" % door.port
    arguments = play(
        tmp_path,
        {"hosts": "all", "connection": "local", "tasks": [{DEBUG: {"msg": text}, "loop": [1, 2]}] * 2},
        hosts={"web%d" % number: {"knock_sequence": door.sequence} for number in range(6)},
    )
    done = ansible("ansible-playbook", "--forks", "6", *arguments)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count('"msg": "127.0.0.1"') == 24
    assert door.arrived == door.ports


def test_the_lookup_knocks_again_when_the_door_may_be_closed(ansible: Ansible, door: Door) -> None:
    text = "msg={{ lookup('sesame.knock.knock', '127.0.0.1', port=%d, open_timeout=0) }}" % door.port
    for _run in range(2):
        message(ansible("ansible", "localhost", "-m", DEBUG, "-a", text, *extra(knock_sequence=door.sequence)))
    assert door.arrived == door.ports * 2


def test_a_remembered_knock_is_confirmed_on_request(ansible: Ansible, door: Door) -> None:
    def look_up(options: str = "") -> None:
        text = "msg={{ lookup('sesame.knock.knock', '127.0.0.1', port=%d, open_timeout=100%s) }}"
        run = ("ansible", "localhost", "-m", DEBUG, "-a", text % (door.port, options))
        message(ansible(*run, *extra(knock_sequence=door.sequence)))

    look_up()
    look_up(", confirm=true")
    assert door.arrived == door.ports
    door.close()
    look_up()
    assert door.arrived == door.ports
    look_up(", confirm=true")
    assert door.arrived == door.ports * 2
    assert door.settle() == 0


def test_hostvars_of_all_hosts_are_no_knock_storm(
    ansible: Ansible, make_door: Callable[..., Door], tmp_path: Path
) -> None:
    doors = [make_door() for _host in range(3)]
    text = "{{ groups.all | map('extract', hostvars, 'ansible_host') | join(' ') }}"
    tasks = [{DEBUG: {"msg": text}, "loop": [1, 2, 3]}] * 3
    hosts = {
        "web%d" % number: {
            "knock_host": "127.0.0.1",
            "knock_sequence": "%d:udp" % door.ports[0],
            "ansible_host": "{{ lookup('sesame.knock.knock', open_timeout=100, wait=false) }}",
        }
        for number, door in enumerate(doors)
    }
    arguments = play(tmp_path, {"hosts": "all", "connection": "local", "tasks": tasks}, hosts=hosts)
    assert ansible("ansible-playbook", "--check", *arguments).returncode == 0
    assert [door.arrived for door in doors] == [[], [], []]
    done = ansible("ansible-playbook", *arguments)
    assert done.returncode == 0, done.stdout
    assert "127.0.0.1 127.0.0.1 127.0.0.1" in done.stdout
    assert [door.arrived for door in doors] == [door.ports[:1] for door in doors]


def test_the_lookup_tells_of_an_open_port_who_asks_for_details(ansible: Ansible, door: Door) -> None:
    door.open()
    text = "msg={{ lookup('sesame.knock.knock', '127.0.0.1', port=%d, open_timeout=0) }}" % door.port
    run = ("ansible", "localhost", "-m", DEBUG, "-a", text, *extra(knock_sequence=door.sequence))
    told = "port %d of 127.0.0.1 was open before the knock" % door.port
    assert told in ansible(*run, "-vvv").stdout
    done = ansible(*run)
    assert told not in done.stdout + done.stderr


def test_the_lookup_sends_nothing_in_check_mode_or_without_a_sequence(ansible: Ansible, door: Door) -> None:
    text = "msg={{ lookup('sesame.knock.knock', port=%d) }}" % door.port
    run = ("ansible", "localhost", "-m", DEBUG, "-a", text)
    assert (
        message(ansible(*run, "--check", *extra(knock_sequence=door.sequence, knock_host="127.0.0.1"))) == "127.0.0.1"
    )
    assert message(ansible(*run, *extra(knock_host="127.0.0.1"))) == "127.0.0.1"
    assert door.arrived == []


def test_the_lookup_does_not_knock_for_somebody_else(ansible: Ansible, door: Door) -> None:
    """Behind a jump host the door would open to that, and not to the controller that asks."""
    text = "msg={{ lookup('sesame.knock.knock', '127.0.0.1', port=%d) }}" % door.port
    run = ("ansible", "localhost", "-m", DEBUG, "-a", text)
    done = ansible(*run, *extra(knock_sequence=door.sequence, knock_jump="bastion"))
    assert done.returncode != 0
    assert "knock_jump is bastion" in done.stdout
    assert "set knock_jump: none for this task" in done.stdout
    assert door.arrived == []
    assert message(ansible(*run, *extra(knock_sequence=door.sequence, knock_jump="none"))) == "127.0.0.1"


def test_the_lookup_can_be_the_ansible_host(ansible: Ansible, door: Door, tmp_path: Path) -> None:
    arguments = play(
        tmp_path,
        {"hosts": "web1", "connection": "local", "tasks": [{DEBUG: {"msg": "{{ ansible_host }}"}}]},
        hosts={
            "web1": {
                "knock_host": "127.0.0.1",
                "knock_sequence": door.sequence,
                "ansible_host": "{{ lookup('sesame.knock.knock', port=%d) }}" % door.port,
            }
        },
    )
    done = ansible("ansible-playbook", *arguments)
    assert '"msg": "127.0.0.1"' in done.stdout, done.stdout
    assert door.arrived == door.ports


def test_a_lookup_that_fails_tells_no_sequence_and_the_next_one_tries_again(ansible: Ansible, door: Door) -> None:
    text = "msg={{ lookup('sesame.knock.knock', '127.0.0.1', port=%d, timeout=0.3) }}" % door.port
    run = ("ansible", "localhost", "-vvv", "-m", DEBUG, "-a", text)
    done = ansible(*run, *extra(knock_sequence="4242:udp"))
    assert done.returncode != 0
    assert "stays closed" in done.stdout
    assert "4242" not in done.stdout + done.stderr
    assert ansible(*run, *extra(knock_sequence="4242:udp")).returncode != 0


def test_the_lookup_sequence_is_fresh_and_strong(ansible: Ansible) -> None:
    text = "msg={{ [lookup('sesame.knock.sequence', length=4), lookup('sesame.knock.sequence')] }}"
    four, five = message(ansible("ansible", "localhost", "-m", DEBUG, "-a", text))
    assert (four.count(","), five.count(",")) == (3, 4)
    assert len(set(four.split(","))) == 4


# The module knock


def knock_task(tmp_path: Path, door: Door, task: dict[str, Any], **keywords: Any) -> list[str]:
    variables = {"knock_sequence": door.sequence, "ansible_host": "127.0.0.1", "ansible_port": door.port}
    tasks = [{"sesame.knock.knock": task, "register": "result", **keywords}, {DEBUG: {"var": "result"}}]
    return play(tmp_path, {"hosts": "web1", "tasks": tasks}, hosts={"web1": variables, "localhost": LOCAL})


def result_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stdout + done.stderr
    shown = done.stdout[done.stdout.rindex("ok: [web1] => ") + len("ok: [web1] => ") :]
    result: dict[str, Any] = json.JSONDecoder().raw_decode(shown)[0]["result"]
    return result


def test_the_module_knocks_from_the_controller_for_the_host_of_the_task(
    ansible: Ansible, door: Door, tmp_path: Path
) -> None:
    done = ansible("ansible-playbook", "-vvv", *knock_task(tmp_path, door, {}))
    result = result_of(done)
    assert (result["changed"], result["address"], result["port"], result["knocks"]) == (True, "127.0.0.1", door.port, 3)
    assert 0 < result["elapsed"] < 10
    assert door.arrived == door.ports
    assert not any(str(port) in done.stdout + done.stderr for port in door.ports)
    assert "EXEC" not in done.stdout  # no connection to the host


def test_the_module_knocks_from_where_it_is_delegated_to(ansible: Ansible, door: Door, tmp_path: Path) -> None:
    done = ansible("ansible-playbook", "-vvv", *knock_task(tmp_path, door, {}, delegate_to="localhost"), **UNPIPED)
    result = result_of(done)
    assert (result["changed"], result["address"], result["port"]) == (True, "127.0.0.1", door.port)
    assert door.arrived == door.ports
    assert not any(str(port) in done.stdout + done.stderr for port in door.ports)
    assert "AnsiballZ_knock.py" in done.stdout


@pytest.mark.parametrize("keywords", [{}, {"delegate_to": "localhost"}])
def test_in_check_mode_the_module_sends_nothing_and_says_what_it_would(
    ansible: Ansible, door: Door, tmp_path: Path, keywords: dict[str, str]
) -> None:
    result = result_of(ansible("ansible-playbook", "--check", *knock_task(tmp_path, door, {}, **keywords)))
    assert (result["changed"], result["knocks"]) == (True, 0)
    assert result["msg"] == "Would knock at 127.0.0.1 (3 knocks) and wait until port %d is open." % door.port
    assert door.arrived == []


@pytest.mark.parametrize("keywords", [{}, {"delegate_to": "localhost"}])
@pytest.mark.parametrize("was_open", [False, True])
def test_the_module_warns_of_a_port_that_no_knock_has_opened(
    ansible: Ansible, door: Door, tmp_path: Path, keywords: dict[str, str], was_open: bool
) -> None:
    if was_open:
        door.open()
    done = ansible("ansible-playbook", *knock_task(tmp_path, door, {}, **keywords))
    assert result_of(done)["was_open"] is was_open
    warned = "port %d of 127.0.0.1 was open before the knock: its firewall is not on" % door.port
    shown = " ".join((done.stdout + done.stderr).split())
    assert ("[WARNING]: " + warned in shown) is was_open
    assert door.settle() == 0


def test_the_module_waits_for_closing_without_a_knock(ansible: Ansible, door: Door, tmp_path: Path) -> None:
    result = result_of(ansible("ansible-playbook", *knock_task(tmp_path, door, {"state": "closed"})))
    assert (result["changed"], result["knocks"]) == (False, 0)
    assert door.arrived == []


def test_the_module_sends_the_closing_sequence(ansible: Ansible, door: Door, tmp_path: Path) -> None:
    # This door opens by the knock, it does not close: that it is still open must be told.
    door.open()
    task = {"state": "closed", "close_sequence": door.sequence, "timeout": 1}
    done = ansible("ansible-playbook", *knock_task(tmp_path, door, task))
    assert "still open after the closing knock" in done.stdout
    assert door.arrived[:3] == door.ports


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({}, "lookup('sesame.knock.sequence')"),
        ({"port": 70000}, "port is 70000"),
        ({"sequence": "4242,70000"}, "sequence for 127.0.0.1: knock 2, '70000'"),
        ({"family": "ipx"}, "family"),
        ({"sequences": "1"}, "sequences"),
        ({"host": "no-such-host.invalid"}, "no-such-host.invalid"),
        ({"timeout": 0.3, "sequence": "4242:udp"}, "stays closed"),
    ],
)
@pytest.mark.parametrize("keywords", [{}, {"delegate_to": "localhost"}])
def test_a_mistake_is_one_clear_error_without_the_sequence(
    ansible: Ansible, door: Door, tmp_path: Path, task: dict[str, Any], words: str, keywords: dict[str, str]
) -> None:
    arguments = knock_task(tmp_path, door, task, **keywords)
    if not task:
        (tmp_path / "hosts.yml").write_text("all: {hosts: {web1: {ansible_host: 127.0.0.1}}}")
    done = ansible("ansible-playbook", *arguments)
    assert done.returncode != 0
    assert words in done.stdout.replace("\\", "")
    assert "Traceback" not in done.stdout
    assert "4242" not in done.stdout.split("fatal:")[1]


@pytest.mark.skipif(not shutil.which("ps"), reason="ps is not installed")
def test_the_sequence_is_in_no_list_of_processes_during_a_delegated_knock(
    ansible: Ansible, make_door: Callable[..., Door], tmp_path: Path
) -> None:
    door = make_door(opens_after=1.0)
    seen: list[str] = []
    door_arguments = knock_task(tmp_path, door, {}, delegate_to="localhost")
    over = Event()

    def watch() -> None:
        while not over.is_set():
            seen.append(subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout)
            time.sleep(0.05)

    watcher = Thread(target=watch)
    watcher.start()
    try:
        result_of(ansible("ansible-playbook", *door_arguments, **UNPIPED))
    finally:
        over.set()
        watcher.join()
    assert any("AnsiballZ_knock.py" in text for text in seen)
    assert not any("%d:udp" % port in text for port in door.ports for text in seen)


# Documentation


@pytest.mark.parametrize("kind", ["lookup", "module"])
def test_every_plugin_is_documented(ansible: Ansible, kind: str) -> None:
    names = {"lookup": ["knock", "ssh_args", "sequence"], "module": ["knock", "knock_info"]}[kind]
    done = ansible("ansible-doc", "-t", kind, "--json", *("sesame.knock." + name for name in names))
    documents = json.loads(done.stdout)
    for document in documents.values():
        assert document["doc"]["short_description"]
        assert document["examples"]
        assert document["return"]
    assert len(documents) == len(names)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have an /etc of its own")
def test_no_hash_of_an_adopted_sequence_is_shown(ansible: Ansible, tmp_path: Path) -> None:
    """A sequence of three knocks is found from a hash of a known file with it."""
    text = "[openSSH]\nsequence = 4242,1717,3131\n"
    (tmp_path / "knockd.conf").write_text(text)
    (tmp_path / "etc").mkdir()
    adopt = {"name": "sesame.knock.knockd", "tasks_from": "adopt"}
    found = {"to_adopt": [{"src": str(tmp_path / "knockd.conf"), "dest": "/etc/knockd.adopted/knockd.conf"}]}
    tasks = [
        {"ansible.builtin.include_role": adopt, "vars": {"__knockd_c_knockd": {**found, "package": False}}},
        {"ansible.builtin.command": "cat /etc/knockd.adopted/knockd.conf", "no_log": True},
    ]
    arguments = play(tmp_path, {"hosts": "web1", "tasks": tasks}, hosts={"web1": LOCAL})
    own = tmp_path / "etc"
    world = f"mount -t tmpfs tmpfs {own}; mkdir {own}/up {own}/work"
    world += f"; mount -t overlay overlay -o lowerdir=/etc,upperdir={own}/up,workdir={own}/work /etc"
    done = ansible("ansible-playbook", "-vvv", *arguments, world=world)
    assert done.returncode == 0, done.stdout + done.stderr
    hashes = {hashlib.new(name, text.encode()).hexdigest() for name in ("md5", "sha1", "sha256", "sha512")}
    assert not [value for value in hashes if value in done.stdout + done.stderr]
