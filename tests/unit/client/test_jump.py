# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jump hosts: what a variable means, what Ansible's ssh gets, and what is an error because it would be ignored."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sesame.knock.plugins.module_utils import _jump as jumps
from ansible_collections.sesame.knock.plugins.plugin_utils._inventory import ssh_config
from sesame_knock import _profile as profiles
from sesame_knock import _sender as sender

from .test_ansible import DEBUG, SSH_ARGS, extra, message, play, profile_of

Ansible = Callable[..., "subprocess.CompletedProcess[str]"]
GOOD = {"sequence": "4242:tcp,1717:udp"}


def words_of(profile: Path) -> list[str]:
    """The words that lead to the jump host of a profile."""
    found: list[str] = json.loads(profile.read_text())["jump"]
    return found


def asked(ansible: Ansible, *arguments: str, **variables: Any) -> str:
    """What the lookup gives for these variables."""
    found: str = message(
        ansible("ansible", "localhost", "-m", DEBUG, "-a", "msg=" + SSH_ARGS, *extra(**variables), *arguments)
    )
    return found


def resolved(words: list[str]) -> dict[str, str]:
    """What ssh makes of words that lead to a jump host."""
    done = subprocess.run(["ssh", "-F", "none", "-G", *words], capture_output=True, text=True, check=True)
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


# What the variable means


@pytest.mark.parametrize(
    ("jump", "user", "host", "port"),
    [
        ("bastion", "", "bastion", "22"),
        ("admin@bastion", "admin", "bastion", "22"),
        ("admin@bastion:2222", "admin", "bastion", "2222"),
        ("bastion.example.org:2222", "", "bastion.example.org", "2222"),
        ("ssh://admin@bastion:2222", "admin", "bastion", "2222"),
        ("fd00:5e5a::1", "", "fd00:5e5a::1", "22"),
        ("[fd00:5e5a::1]", "", "fd00:5e5a::1", "22"),
        ("admin@[fd00:5e5a::1]:2222", "admin", "fd00:5e5a::1", "2222"),
    ],
)
def test_ssh_takes_a_destination_as_it_is_meant(jump: str, user: str, host: str, port: str) -> None:
    words = jumps.destination(jump)
    found = resolved(words if user else ["-l", "me", *words])
    assert (found["user"], found["hostname"], found["port"]) == (user or "me", host, port)


@pytest.mark.parametrize(
    "jump", ["-oProxyCommand=id", "a b", "$(id)", "`id`", "a;id", "b:0", "b:70000", "@b", "a@", "b:x"]
)
def test_what_is_no_destination_is_refused(jump: str) -> None:
    with pytest.raises(jumps.JumpError, match="knock_jump is"):
        jumps.destination(jump)


@pytest.mark.parametrize(
    ("value", "found"),
    [("a", ["a"]), ("a, b", ["a", "b"]), (["a", "b"], ["a", "b"]), ("", []), (None, []), ("none", []), ([], [])],
)
def test_several_jump_hosts_have_commas(value: Any, found: list[str]) -> None:
    assert jumps.parse_jumps(value) == found


@pytest.mark.parametrize("value", ["a,,b", 5, [5], {"a": 1}])
def test_what_names_no_jump_hosts_is_refused(value: Any) -> None:
    with pytest.raises(jumps.JumpError, match="knock_jump"):
        jumps.parse_jumps(value)


@pytest.mark.parametrize(
    ("arguments", "conflict"),
    [
        ("-J b", "-J b"),
        ("-4Jb", "-J b"),
        ("-o ProxyJump=b", "ProxyJump=b"),
        ("-oproxyjump=b", "proxyjump=b"),
        ('-C -o "ProxyCommand nc %h %p"', "ProxyCommand=nc %h %p"),
        ("-o ControlMaster=auto -o ControlPersist=60s -C", None),
        ("-i ~/-J -o UserKnownHostsFile=/ProxyJump", None),
        ("-o 'unfinished", None),
        ("", None),
    ],
)
def test_arguments_that_exclude_ours_are_seen(arguments: str, conflict: str | None) -> None:
    assert jumps.conflict_in(arguments) == conflict


# The profile


def test_a_profile_may_have_a_jump(write_profile: Callable[..., Path]) -> None:
    assert profiles.read_profile(str(write_profile(**GOOD, jump=["-p", "2222", "b"]))).jump == ("-p", "2222", "b")
    assert profiles.read_profile(str(write_profile(**GOOD))).jump == ()


@pytest.mark.parametrize("jump", ["b", ["-p"], [5], ["b", ""], {"b": 1}, None, ["-p", "22", "-b"]])
def test_a_jump_that_is_none_is_refused(write_profile: Callable[..., Path], jump: Any) -> None:
    with pytest.raises(profiles.ProfileError, match="jump is a list of words"):
        profiles.read_profile(str(write_profile(**GOOD, jump=jump)))


def test_a_jump_and_an_address_of_our_own_exclude_each_other(write_profile: Callable[..., Path]) -> None:
    with pytest.raises(profiles.ProfileError, match="jump and bind"):
        profiles.read_profile(str(write_profile(**GOOD, jump=["b"], bind="127.0.0.1")))


def test_the_command_knock_does_not_ignore_a_jump(
    command: Callable[..., subprocess.CompletedProcess[str]], write_profile: Callable[..., Path]
) -> None:
    done = command("knock", "-p", write_profile(**GOOD, jump=["b"]), "127.0.0.1")
    assert done.returncode == 1
    assert "jump host" in done.stderr


def test_the_sender_is_a_program_of_its_own_and_quotes_what_it_gets() -> None:
    """It needs no file, no Python newer than any with these features, and takes no host's name for code."""
    host = "x'\"\\\n{order}%s.invalid"
    sequences = profiles.parse_profile(GOOD).sequences
    program = sender.program("wait_open", host, "any", 22, sequences, 0.002, 1.0)
    done = subprocess.run(["/usr/bin/python3", "-IS", "-"], input=program, capture_output=True)
    assert done.stdout.startswith(b"sesame-knock: 3 no address for the host x'\""), done.stderr
    assert (done.stdout.count(b"\n"), done.stderr) == (1, b"")


# What Ansible's ssh gets


def test_the_jump_is_in_the_profile_and_the_command_is_as_ever(ansible: Ansible) -> None:
    text = asked(ansible, knock_sequence="1,2", knock_jump="admin@bastion:2222")
    assert words_of(profile_of(text)[1]) == ["-p", "2222", "admin@bastion"]


def test_a_jump_host_of_the_inventory_is_reached_as_the_inventory_says(ansible: Ansible, tmp_path: Path) -> None:
    hosts = {
        "bastion": {
            "ansible_host": "198.18.9.1",
            "ansible_port": 2222,
            "ansible_user": "{{ 'ad' ~ 'min' }}",
            "ansible_ssh_private_key_file": "~/.ssh/bastion",
        },
        "web1": {"knock_sequence": "1,2", "knock_jump": "{{ 'bas' ~ 'tion' }}"},
    }
    words = words_of(profile_of(shown(ansible, tmp_path, hosts)["web1"])[1])
    assert words == ["-p", "2222", "-l", "admin", "-i", "~/.ssh/bastion", "198.18.9.1"]


def shown(ansible: Ansible, tmp_path: Path, hosts: dict[str, Any]) -> dict[str, str]:
    """What each host of an inventory gets."""
    tasks = [{DEBUG: {"msg": SSH_ARGS}}]
    arguments = play(tmp_path, {"hosts": "all", "tasks": tasks}, hosts=hosts)
    done = ansible("ansible-playbook", *arguments)
    assert done.returncode == 0, done.stdout
    found = {}
    for part in done.stdout.split("ok: [")[1:]:
        name, rest = part.split("]", 1)
        found[name] = json.JSONDecoder().raw_decode(rest[rest.index("{") :])[0]["msg"]
    return found


def test_a_jump_host_behind_a_knock_has_a_profile_of_its_own(ansible: Ansible, tmp_path: Path, runtime: Path) -> None:
    """As set for all hosts: the jump host itself is reached without itself."""
    hosts = {name: {"knock_jump": "bastion"} for name in ("bastion", "web1", "plain")}
    hosts["bastion"].update(knock_sequence="3,4", ansible_host="198.18.9.1")
    hosts["web1"].update(knock_sequence="1,2")
    found = shown(ansible, tmp_path, hosts)

    words = words_of(profile_of(found["web1"])[1])
    assert words[-1] == "198.18.9.1"
    nested = resolved(words)
    assert nested["proxyusefdpass"] == "yes"
    profile = Path(shlex.split(nested["proxycommand"].replace("%%", "%"))[-3])
    assert json.loads(profile.read_text())["sequence"] == "3:tcp,4:tcp"
    assert "jump" not in json.loads(profile.read_text())

    assert profile_of(found["bastion"])[1] == profile  # knocked at in the same way, and by nobody else

    # A host without a sequence still has its jump host, which wants its knock.
    outer = resolved([*shlex.split(found["plain"]), "plain"])["proxycommand"]
    inner = shlex.split(outer.replace("%%", "%"))
    assert inner[0] == "ssh" and inner[-4:] == ["-W", "[%h]:%p", "--", "198.18.9.1"]
    assert profile.name in resolved([*inner[1:-4], "198.18.9.1"])["proxycommand"]


def test_jump_hosts_lie_one_behind_the_other(ansible: Ansible, tmp_path: Path) -> None:
    hosts = {
        "outer": {"knock_sequence": "3,4", "ansible_user": "joe"},
        "inner": {"knock_sequence": "5,6", "knock_jump": "outer"},
        "web1": {"knock_sequence": "1,2", "knock_jump": "inner"},
        "web2": {"knock_sequence": "1,2", "knock_jump": "a, root@b:2222"},
    }
    found = shown(ansible, tmp_path, hosts)
    inner = words_of(profile_of(found["web1"])[1])
    profile = profile_of(shlex.join(inner[:4]))[1]
    assert json.loads(profile.read_text())["sequence"] == "5:tcp,6:tcp"
    outer = words_of(profile)
    assert outer[4:] == ["-l", "joe", "outer"]
    assert "3:tcp" in profile_of(shlex.join(outer[:4]))[1].read_text()

    assert words_of(profile_of(found["web2"])[1]) == ["-o", "ProxyCommand=ssh -W [%h]:%p -- a", "-p", "2222", "root@b"]


def test_a_circle_is_told(ansible: Ansible, tmp_path: Path) -> None:
    hosts = {
        "a": {"knock_jump": "b"},
        "b": {"knock_jump": "a"},
        "web1": {"knock_sequence": "1,2", "knock_jump": "a"},
    }
    arguments = play(tmp_path, {"hosts": "web1", "tasks": [{DEBUG: {"msg": SSH_ARGS}}]}, hosts=hosts)
    assert "knock_jump leads in a circle: a to b to a" in ansible("ansible-playbook", *arguments).stdout


def test_delegation_takes_the_jump_of_the_host_that_is_connected_to(ansible: Ansible, tmp_path: Path) -> None:
    closed = {"ansible_ssh_common_args": SSH_ARGS, "ansible_host": "127.0.0.1", "ansible_port": 1, "knock_jump": "gate"}
    tasks = [
        {"ansible.builtin.ping": None, "delegate_to": name, "ignore_unreachable": True} for name in ("gate", "db.a.org")
    ]
    arguments = play(
        tmp_path,
        {"hosts": "web1", "tasks": tasks},
        hosts={
            "web1": {"knock_sequence": "1,2", "ansible_ssh_common_args": SSH_ARGS, "knock_jump": "other"},
            "gate": {"knock_sequence": "3,4", **closed},
            "db.a.org": {"knock_sequence": "5,6", **closed},
        },
    )
    ansible("ansible-playbook", *arguments, PATH=path_without_ssh(tmp_path))
    (runtime,) = tmp_path.glob("run*/sesame-knock")
    kept = {
        value["sequence"]: value.get("jump")
        for value in map(json.loads, (p.read_text() for p in runtime.glob("*.json")))
    }
    assert sorted(kept) == ["3:tcp,4:tcp", "5:tcp,6:tcp"]
    assert kept["3:tcp,4:tcp"] is None  # the jump host is not reached through itself
    assert kept["5:tcp,6:tcp"][-1] == "127.0.0.1"


def path_without_ssh(tmp_path: Path) -> str:
    """A PATH on which ssh does nothing: only the arguments are of interest."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    program = tmp_path / "bin" / "ssh"
    program.write_text("#!/bin/sh\nexit 255\n")
    program.chmod(0o755)
    return "%s:%s" % (program.parent, os.environ["PATH"])


# A jump that would be ignored


@pytest.mark.parametrize("variable", ["ansible_ssh_common_args", "ansible_ssh_extra_args", "ansible_ssh_args"])
@pytest.mark.parametrize(
    "written",
    [
        "-J bastion {{ lookup('sesame.knock.ssh_args') }}",
        "{{ mine }}",
        "{{ '-o ProxyJump=bastion ' ~ lookup('sesame.knock.ssh_args', timeout=9) }}",
        "-o ProxyCommand='nc %h %p'",
    ],
)
def test_a_jump_that_would_be_ignored_is_an_error(ansible: Ansible, variable: str, written: str) -> None:
    mine = "-oProxyJump=b {{ lookup('sesame.knock.ssh_args') }}"
    variables = extra(**{"knock_sequence": "4242,1717", "mine": mine, variable: written})
    done = ansible("ansible", "localhost", "-m", DEBUG, "-a", "msg=" + SSH_ARGS, *variables)
    assert done.returncode != 0
    assert variable + " has " in done.stdout
    assert "name the jump host in the variable knock_jump" in done.stdout
    assert "4242" not in done.stdout


def test_arguments_of_your_own_are_no_error(ansible: Ansible) -> None:
    for written in ("-C {{ lookup('sesame.knock.ssh_args') }}", "{{ '-C ' ~ lookup('sesame.knock.ssh_args') }}"):
        text = asked(
            ansible, knock_sequence="1,2", ansible_ssh_common_args=written, ansible_ssh_args="-o LogLevel=QUIET"
        )
        assert text.startswith("-o 'ProxyCommand=")


def test_without_a_knock_a_jump_is_your_own_affair(ansible: Ansible) -> None:
    assert asked(ansible, ansible_ssh_common_args="-J b " + SSH_ARGS) == ""


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        ([], {"ANSIBLE_SSH_ARGS": "-J b"}, "ssh_args (env: ANSIBLE_SSH_ARGS) has -J b"),
        (["--ssh-extra-args=-J b"], {}, "ssh_extra_args (cli: ssh_extra_args) has -J b"),
        (["--ssh-common-args=-J b"], {}, "ssh_common_args (cli: ssh_common_args) has -J b"),
    ],
)
def test_a_jump_in_the_configuration_or_on_the_command_line_is_an_error_too(
    ansible: Ansible, tmp_path: Path, arguments: list[str], settings: dict[str, str], words: str
) -> None:
    hosts = {"web1": {"knock_sequence": "1,2", "ansible_host": "127.0.0.1", "ansible_ssh_common_args": SSH_ARGS}}
    tasks = [{"ansible.builtin.raw": "true"}]
    done = ansible(
        "ansible-playbook",
        *play(tmp_path, {"hosts": "web1", "tasks": tasks}, hosts=hosts),
        *arguments,
        **settings,
        PATH=path_without_ssh(tmp_path),
    )
    assert done.returncode != 0
    assert words in done.stdout + done.stderr


# The person's own configuration of ssh


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration that another one includes; ssh reads it because the arguments name it."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "jumps.conf").write_text(
        "Host 198.18.9.* !198.18.9.9\n    ProxyJump far,joe@near:2222\n"
        "Host 198.18.8.1\n    ProxyCommand ssh -W %h:%p old\n"
        "Host 198.18.9.9\n    ProxyJump none\n"
        'Match originalhost 198.18.8.2 exec "true"\n    ProxyCommand cloudflared access ssh --hostname %h\n'
    )
    path = tmp_path / "ssh config"
    path.write_text('# ours\n  include "%s/more/*.conf"\n' % tmp_path)
    return path


def with_config(config: Path) -> str:
    return "-F '%s' %s" % (config, SSH_ARGS)


def test_a_jump_of_the_configuration_of_ssh_is_used(ansible: Ansible, config: Path) -> None:
    mine = {"knock_sequence": "1,2", "ansible_ssh_common_args": with_config(config)}
    text = asked(ansible, **mine, ansible_host="198.18.9.1")
    assert words_of(profile_of(text)[1]) == ["-F", str(config), "-J", "far", "-p", "2222", "joe@near"]
    for other in ({"ansible_host": "198.18.7.1"}, {"ansible_host": "198.18.9.9"}, {"knock_jump": "none"}):
        text = asked(ansible, **mine, **{"ansible_host": "198.18.9.1", **other})
        assert "jump" not in json.loads(profile_of(text)[1].read_text())
    assert words_of(profile_of(asked(ansible, **mine, ansible_host="198.18.9.1", knock_jump="mine"))[1])[-1] == "mine"


def test_a_proxy_command_of_the_configuration_that_jumps_is_an_error(ansible: Ansible, config: Path) -> None:
    variables = extra(knock_sequence="1,2", ansible_ssh_common_args=with_config(config), ansible_host="198.18.8.1")
    done = ansible("ansible", "localhost", "-m", DEBUG, "-a", "msg=" + SSH_ARGS, *variables)
    assert "has the ProxyCommand 'ssh -W %h:%p old' for 198.18.8.1, which would be ignored" in done.stdout


def test_a_proxy_command_of_your_own_is_never_replaced_silently(ansible: Ansible, config: Path) -> None:
    mine = {"knock_sequence": "1,2", "ansible_ssh_common_args": with_config(config), "ansible_host": "198.18.8.2"}
    done = ansible("ansible", "localhost", "-m", DEBUG, "-a", "msg=" + SSH_ARGS, *extra(**mine))
    assert done.returncode != 0
    assert "cloudflared" in done.stdout and "198.18.8.2" in done.stdout and "knock_jump" in done.stdout
    assert "knock-proxy" in asked(ansible, **mine, knock_jump="none")


@pytest.mark.parametrize(
    ("line", "asks"),
    [
        ("ProxyCommand nc %h %p", True),
        ("proxycommand=nc %h %p", True),
        ("ProxyCommand none", False),
        ("ProxyCommand knock-proxy x %h %p", False),
        ("ProxyCommand /usr/lib/systemd/systemd-ssh-proxy %h %p", False),
    ],
)
def test_ssh_is_asked_for_a_proxy_command_of_your_own(tmp_path: Path, line: str, asks: bool) -> None:
    """Debian 13 has one of systemd's in /etc/ssh, and asking ssh takes milliseconds in each task."""
    (tmp_path / "config").write_text("Host a\n    %s\n" % line)
    assert ssh_config.speaks_of_jumps(str(tmp_path / "config")) == asks


def test_ssh_is_asked_only_if_a_file_speaks_of_jumps(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ssh_config.speaks_of_jumps(str(config))
    (config.parent / "plain").write_text("Host *\n    # ProxyJump b\n    Port 5\n    ProxyCommand knock-proxy %h %p\n")
    monkeypatch.setenv("PATH", "/nonexistent")  # and so would fail
    assert not ssh_config.speaks_of_jumps(str(config.parent / "plain"))
    assert ssh_config.look_up("198.18.9.1", file=str(config.parent / "plain")) == ("", "")


def test_files_that_include_each_other_end(tmp_path: Path) -> None:
    (tmp_path / "round").write_text("Include %s/round\n" % tmp_path)
    assert not ssh_config.speaks_of_jumps(str(tmp_path / "round"))


def test_a_repeat_stays_cheap_with_a_jump(ansible: Ansible) -> None:
    """Ansible evaluates it for each task and loop item. Compared with a lookup that does nothing, in the same run."""

    def cost(lookup: str, **variables: Any) -> float:
        text = "msg={%% for _ in range(1000) %%}{{ %s }}{%% endfor %%}" % lookup
        begin = os.times().children_user
        ansible("ansible", "localhost", "-m", DEBUG, "-a", text, "-o", *extra(knock_sequence="1,2,3", **variables))
        return os.times().children_user - begin

    base = cost("lookup('ansible.builtin.vars', 'knock_sequence')")
    mine = {"knock_jump": "admin@bastion", "ansible_ssh_common_args": "-C " + SSH_ARGS}
    assert (cost("lookup('sesame.knock.ssh_args')[:0]", **mine) - base) / 1000 < 0.001
