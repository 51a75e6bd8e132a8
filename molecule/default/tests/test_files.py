# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the roles have left on the host: files, modes, units, rules, and no secret where others can read."""

from __future__ import annotations

import pytest
from testinfra.host import Host
from vantage import Server


@pytest.mark.parametrize(
    ("path", "owner", "group", "mode"),
    [
        ("/etc/knockd.conf", "root", "knockd", 0o640),
        ("/etc/knockd-guard.conf", "root", "knockd", 0o640),
        ("/etc/default/knockd", "root", "root", 0o644),
        ("/etc/systemd/system/knockd.service", "root", "root", 0o644),
        ("/etc/iptables/rules.v4", "root", "root", 0o640),
        ("/etc/iptables/rules.v6", "root", "root", 0o640),
        ("/usr/local/sbin/knockd", "root", "root", 0o755),
        ("/usr/local/lib/sesame-knock/knockd", "root", "root", 0o755),
        ("/usr/local/lib/sesame-knock/knockd/tracker.py", "root", "root", 0o644),
    ],
)
def test_a_file_belongs_to_whom_it_should(host: Host, path: str, owner: str, group: str, mode: int) -> None:
    file = host.file(path)
    assert (file.user, file.group, file.mode) == (owner, group, mode)


def test_nobody_but_root_can_change_the_daemon(host: Host) -> None:
    assert host.check_output("find /usr/local/lib/sesame-knock -perm /022 -o ! -user root") == ""


def test_the_daemon_runs_and_starts_at_boot(host: Host) -> None:
    unit = host.service("knockd")
    assert unit.is_running and unit.is_enabled
    assert host.file("/etc/systemd/system/multi-user.target.wants/knockd.service").is_symlink


def test_the_daemon_is_not_root(host: Host) -> None:
    pid = host.check_output("systemctl show --property MainPID --value knockd")
    assert host.check_output("ps -o user= -p %s", pid) == "knockd"


def test_the_options_are_where_people_look_for_them(host: Host) -> None:
    text = host.file("/etc/default/knockd").content_string
    assert "START_KNOCKD=1\n" in text and 'KNOCKD_OPTS="-i eth0"\n' in text


@pytest.mark.parametrize(("tool", "file"), [("iptables", "rules.v4"), ("ip6tables", "rules.v6")])
def test_the_rules_are_loaded_and_saved_in_both_families(host: Host, tool: str, file: str) -> None:
    def of_our_chains(rules: str) -> int:
        return sum(line.startswith(("-A KNOCK ", "-A KNOCK-ADMIT ")) for line in rules.splitlines())

    saved = of_our_chains(host.file("/etc/iptables/" + file).content_string)
    assert saved > 4 and of_our_chains(host.check_output("%s -S", tool)) == saved
    assert host.check_output("%s -S INPUT", tool).splitlines()[1] == "-A INPUT -j KNOCK"
    assert host.service("netfilter-persistent").is_enabled


def test_the_sequence_is_in_no_process_list_no_status_and_no_journal(host: Host, server: Server) -> None:
    ports = [str(knock.port) for knock in server.sequence]
    for command in ("ps -efww", "systemctl status --no-pager --full knockd", "journalctl --no-pager --output=export"):
        shown = host.check_output(command)
        assert not [port for port in ports if port in shown.split()]
        assert not any("%s:tcp" % port in shown or "%s/tcp" % port in shown for port in ports), command


def test_the_backend_is_the_one_that_the_host_has_chosen(host: Host) -> None:
    wanted = "legacy" if host.backend.get_hostname() == "sesame-debian12" else "nf_tables"
    assert wanted in host.check_output("iptables --version")
    assert "-A INPUT -j KNOCK" in host.check_output("iptables -S")
