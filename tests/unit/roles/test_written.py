# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hostile values of an inventory in each template of each role: its reader sees exactly the value, or nothing.

The readers are the real ones. An error names the variable.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from knockd import config
from sesame_knock._profile import parse_profile

from ..firewall.rendering import evaluate, render, text_of

ROOT = Path(__file__).parents[3]
SEQUENCE = "20113:tcp,11873:udp,28391:tcp"
HOSTILE = [
    *("22\nProxyCommand touch /tmp/x", "a\rb", "a\0b", "a\x85b", "a\u2028b", "a b", " a", 'a"b', "a'b", "a\\"),
    *("-oProxyCommand=x", "a;b", "$(id)", "${HOME}", "a%h", "%%", "a #b", "#", "*", "a,b", "]\n[options", "~"),
    *("/a b", "/a\nReadWritePaths=/", "/a%h", "~/a", "65536", "\uff12\uff12", "2222", "lo", "lo -c /tmp/x"),
    *("DOMAIN\\admin", "/var/log/k", "198.18.0.1", "fe80::1%x\n-A INPUT -j ACCEPT"),
]


def read_or_refused(make: Callable[[], str], variable: str) -> str | None:
    """Give the text; None where making it has failed, and the error names the variable."""
    try:
        return make()
    except ValueError as error:
        if variable in str(error):
            return None
        raise


# ssh_config and the profile


def client(**variables: Any) -> dict[str, Any]:
    host = {"ansible_host": "198.18.7.2", "knock_sequence": SEQUENCE}
    made: dict[str, Any] = {"hostvars": {"web1": host}, "knock_client_hosts": ["web1"]}
    made["__knock_client_path"] = "~/.local"
    made |= {key: value for key, value in variables.items() if key.startswith("_")}
    host.update({key: value for key, value in variables.items() if not key.startswith("_")})
    return made


def ssh(tmp_path: Path, text: str) -> dict[str, str]:
    """What ssh makes of web1; of several values of a key the first."""
    (tmp_path / "ssh_config").write_text(text)
    done = subprocess.run(["ssh", "-F", str(tmp_path / "ssh_config"), "-G", "web1"], capture_output=True, check=True)
    lines = [line.split(" ", 1) for line in done.stdout.decode().split("\n")]
    return {line[0]: line[1] for line in reversed(lines) if len(line) == 2}


def canonical(host: str) -> str:
    """How ssh spells a host: in lower case, and 2222 is 0.0.8.174."""
    shown = subprocess.run(["ssh", "-F", "none", "-G", host], capture_output=True, text=True, check=True).stdout
    return next(line for line in shown.split("\n") if line.startswith("hostname ")).split(" ", 1)[1]


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(
    ("variable", "key"),
    [
        ("ansible_port", "port"),
        ("ansible_user", "user"),
        ("ansible_ssh_private_key_file", "identityfile"),
        ("ansible_host", "hostname"),
        ("knock_host", "hostname"),
    ],
)
def test_ssh_reads_what_the_inventory_says(tmp_path: Path, variable: str, key: str, value: str) -> None:
    ordinary = ssh(tmp_path, text_of("knock_client", "ssh_config.j2", **client()))
    text = read_or_refused(lambda: text_of("knock_client", "ssh_config.j2", **client(**{variable: value})), variable)
    if text is None:
        return
    written = key != "identityfile" or value[0] in "~/"  # README.md: a relative one is left out
    expected = canonical(value) if key == "hostname" else value.strip() if key == "port" else value
    assert ssh(tmp_path, text) == {**ordinary, **({key: expected} if written else {})}


@pytest.mark.parametrize("value", HOSTILE)
def test_the_prefix_is_one_word_of_the_shell_that_runs_it(tmp_path: Path, value: str) -> None:
    text = read_or_refused(
        lambda: text_of("knock_client", "ssh_config.j2", **client(__knock_client_path=value)), "knock_client_prefix"
    )
    if text is not None:
        command = ssh(tmp_path, text)["proxycommand"].replace(" %h %p", "")
        home = str(tmp_path / "home")
        shown = subprocess.run(
            ["sh", "-c", "printf '%%s\\n' %s" % command], capture_output=True, text=True, check=True, env={"HOME": home}
        ).stdout.splitlines()
        assert shown == [
            os.path.normpath(value.replace("~", home, 1)) + "/bin/knock-proxy" if value != "/" else "//bin/knock-proxy",
            home + "/.config/sesame-knock/web1.json",
        ]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_profile_has_the_port_and_the_address(value: str) -> None:
    for variable, key in (("ansible_port", "port"), ("ansible_host", "host")):
        variables = {**client(**{variable: value}), "item": "web1"}
        text = read_or_refused(lambda: text_of("knock_client", "profile.json.j2", **variables), variable)  # noqa: B023
        if text is not None:
            assert str(getattr(parse_profile(json.loads(text)), key)) == value.strip()


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("variable", ["ansible_port", "ansible_user", "ansible_ssh_private_key_file", "ansible_host"])
def test_a_jump_host_is_reached_as_the_inventory_says(tmp_path: Path, variable: str, value: str) -> None:
    hosts = {"web1": {"knock_jump": "bastion"}, "bastion": {"ansible_host": "198.18.7.3", variable: value}}
    variables = {"hostvars": hosts, "item": "web1", "knock_client_hosts": ["web1"]}
    hosts["web1"]["knock_sequence"] = SEQUENCE
    text = read_or_refused(lambda: text_of("knock_client", "profile.json.j2", **variables), variable)
    if text is not None:
        words = parse_profile(json.loads(text)).jump
        if variable == "ansible_ssh_private_key_file":  # ssh itself leaves out one that is not there
            assert list(words) == ["-i", value if value[0] == "~" else os.path.abspath(value), "198.18.7.3"]
            return
        shown = subprocess.run(["ssh", "-F", "none", "-G", *words], capture_output=True, text=True, check=True).stdout
        options = dict(line.split(" ", 1) for line in reversed(shown.split("\n")) if " " in line)
        if variable == "ansible_host":
            assert options["hostname"] == canonical(value)
        else:
            assert options["port" if variable == "ansible_port" else "user"] == value.strip()


# knockd.conf, /etc/default/knockd and the unit


def daemon(**variables: Any) -> dict[str, Any]:
    found = {"__knockd_c_knockd": {"config": "", "interface": ""}, "ansible_facts": {}, "ansible_managed": "ours"}
    return {**found, "knock_sequence": SEQUENCE, "knockd_published": False, **variables}


def sections_of(text: str) -> list[tuple[str, dict[str, str]]]:
    """What the daemon reads, key by key."""
    found = config._sections(text, "knockd.conf", lambda name: config.OPTIONS + config.DOOR, [])
    return [(section.name, {key: value.text for key, value in section.values.items()}) for section in found]


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(
    ("variable", "section", "key"),
    [
        ("knockd_log_file", 0, "logfile"),
        ("knockd_mark", 0, "mark"),
        ("knockd_tcpflags", 1, "tcpflags"),
        ("knockd_seq_timeout", 1, "seq_timeout"),
        ("knockd_open_timeout", 1, "open_timeout"),
        ("knockd_options", 0, "control"),
        *(("knockd_doors", 2, key) for key in ("target", "close_door", "start_command", "stop_command_6")),
        ("knockd_doors", 2, "one_time_sequences"),
    ],
)
def test_the_daemon_reads_what_the_variables_say(variable: str, section: int, key: str, value: str) -> None:
    given: Any = value
    if variable == "knockd_options":
        given = {key: value}
    elif variable == "knockd_doors":
        given = [{"name": "web", "sequence": "4001,4002,4003", key: value}]
    ordinary = sections_of(text_of("knockd", "knockd.conf.j2", **daemon()))
    text = read_or_refused(lambda: text_of("knockd", "knockd.conf.j2", **daemon(**{variable: given})), variable)
    if text is None:
        return
    if section == 2:
        ordinary.append(("web", {"sequence": "4001:tcp,4002:tcp,4003:tcp"}))
        if key == "one_time_sequences":
            del ordinary[2][1]["sequence"]
            text = text.replace("    sequence = 4001:tcp,4002:tcp,4003:tcp\n", "")
    ordinary[section][1][key] = value.strip(" \t\r\n\v\f")
    assert sections_of(text) == ordinary


@pytest.mark.parametrize("value", HOSTILE)
def test_the_name_of_a_door_is_its_section(value: str) -> None:
    door = {"name": value, "sequence": "4001,4002,4003", "open_ports": ["80/tcp"]}
    text = read_or_refused(lambda: text_of("knockd", "knockd.conf.j2", **daemon(knockd_doors=[door])), "knockd_doors")
    if text is not None:
        assert [name for name, _values in sections_of(text)] == ["options", "ssh", value]


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("preset", ["native", "open_close_commands", "start_stop_commands"])
def test_a_port_is_no_command_of_root(tmp_path: Path, preset: str, value: str) -> None:
    """The doors with commands run iptables by a shell."""
    problems = evaluate("[value] | sesame.knock.port_problems('knockd_open_ports')", value=value)
    variables = daemon(knockd_preset=preset, knockd_open_ports=[value])
    if problems:
        assert "knockd_open_ports" in problems[0]
        with pytest.raises((ValueError, config.ConfigError)):
            config.parse(text_of("knockd", "knockd.conf.j2", **variables), "knockd.conf")
        return
    for name, values in sections_of(text_of("knockd", "knockd.conf.j2", **variables))[1:]:
        for key in config.COMMANDS:
            if key in values:
                assert values[key].split() == [
                    "/usr/sbin/iptables" if key[-1] != "6" else "/usr/sbin/ip6tables",
                    *("-w", "-I" if "open" in name and key.startswith("start") else "-D", "INPUT", "-s", "%IP%"),
                    *("-p", "tcp", "--dport", str(int(value)), "-j", "ACCEPT"),
                ]


@pytest.mark.parametrize("value", HOSTILE)
def test_the_options_of_the_daemon_are_two_words(tmp_path: Path, value: str) -> None:
    make = lambda: text_of("knockd", "knockd.default.j2", **daemon(knockd_interface=value))  # noqa: E731
    text = read_or_refused(make, "knockd_interface")
    if text is not None:
        (tmp_path / "default").write_text(text)
        subprocess.run(["sh", "-n", str(tmp_path / "default")], check=True)
        shown = subprocess.run(
            ["sh", "-c", '. "$0"; printf "%s\\n" $KNOCKD_OPTS', str(tmp_path / "default")],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert shown.stdout.split("\n") == ["-i", value.strip(), ""]


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_systemd_reads_the_folder_of_the_log(tmp_path: Path, value: str) -> None:
    make = lambda: text_of("knockd", "knockd.service.j2", **daemon(knockd_log_file=value))  # noqa: E731
    text = read_or_refused(make, "knockd_log_file")
    if text is None:
        return
    unit = tmp_path / "knockd.service"
    unit.write_text(text.replace("/usr/local/sbin/knockd", "/bin/true").replace("User=knockd", "User=root"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True)
    assert "ReadWritePaths" not in done.stderr
    lines = [line for line in text.split("\n") if line.startswith("ReadWritePaths=")]
    assert lines == ["ReadWritePaths=" + os.path.dirname(value)]


@pytest.mark.parametrize(
    ("role", "template"),
    [
        *(("knockd", name) for name in ("commands.conf.j2", "knockd.service.j2", "lookup.conf.j2")),
        *(("knockd", "knockd.default.j2"), ("knockd", "knockd.conf.j2"), ("knock_client", "ssh_config.j2")),
    ],
)
def test_what_ansible_says_of_a_file_is_a_comment(role: str, template: str) -> None:
    variables = {**daemon(), **client()}
    ordinary = text_of(role, template, **{**variables, "ansible_managed": "two words"})
    assert text_of(role, template, **{**variables, "ansible_managed": "two\nwords\u2028"}) == ordinary


# The rules


LISTS = ("knock_firewall_allowlist", "knock_firewall_escape_from")


def firewall(**variables: Any) -> dict[str, Any]:
    ordinary = {"knock_firewall_allowlist": ["198.18.9.0/24"], "knock_firewall_escape_port": 2200}
    return {**ordinary, "knock_firewall_policy": "drop", "knock_firewall_open_ports": ["443/tcp"], **variables}


def problems_of(variables: dict[str, Any]) -> list[str]:
    """What tasks/variables.yml says, by the same filters."""
    found: list[str] = []
    for name, check in (
        *((name, "network_problems") for name in LISTS),
        *((name, "port_problems") for name in ("knock_firewall_ports", "knock_firewall_open_ports")),
    ):
        if name in variables:
            found += evaluate(f"given | sesame.knock.{check}('{name}')", given=variables[name])
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root asks the kernel")
@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("variable", [*LISTS, "knock_firewall_ports", "knock_firewall_open_ports"])
def test_the_kernel_gets_a_rule_for_it_and_no_other(tmp_path: Path, variable: str, value: str) -> None:
    given = {variable: [value]}
    problems = problems_of(given)
    templates = ["rules.v4.j2", "rules.v6.j2", "knock_firewall.nft.j2", "guard.conf.j2"]
    if problems:
        assert all(problem.startswith(variable + ": ") for problem in problems)
        with pytest.raises(ValueError, match=r"is not|zone|bits|everybody"):
            render("guard.conf.j2" if variable != "knock_firewall_open_ports" else "rules.v4.j2", **firewall(**given))
        return
    ordinary = [render(template, **firewall()) for template in templates]
    made = [render(template, **firewall(**given)) for template in templates]
    for number, command in enumerate(("iptables-restore --test", "ip6tables-restore --test", "nft -c -f /dev/stdin")):
        words = ["unshare", "--net", *command.split()]
        done = subprocess.run(words, input=made[number], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert abs(made[number].count("\n") - ordinary[number].count("\n")) <= 2
    assert [guard.name for guard in config.parse_guard(made[3], "guard")] == ["protected", "escape"]


@pytest.mark.parametrize("value", HOSTILE)
def test_the_escape_port_is_a_number(value: str) -> None:
    """What argument_specs let pass is a whole number; it is written as one."""
    try:
        number = int(value)
    except ValueError:
        return  # the specification refuses it
    if 1 <= number <= 65535:
        for template in ("rules.v4.j2", "knock_firewall.nft.j2", "guard.conf.j2"):
            text = render(template, **firewall(knock_firewall_escape_port=value))
            assert text == render(template, **firewall(knock_firewall_escape_port=number))
