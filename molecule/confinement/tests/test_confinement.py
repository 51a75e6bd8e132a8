# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The unit: how little the daemon may do, and that it does its work with that, under every systemd that Debian has."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host
from vantage import Server

UNIT = "knockd.service"
SCORE = 1.4
NOBODY = "198.18.16.77"


def show(host: Host, name: str) -> str:
    return host.check_output("systemctl show --value --property %s %s", name, UNIT)


def status(host: Host) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(host.check_output("knockctl status --json"))
    return shown


def is_ready(host: Host) -> bool:
    return host.run("knockctl status").rc == 0


def await_ready(host: Host) -> None:
    deadline = time.monotonic() + 30
    while not is_ready(host) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert is_ready(host)


def test_the_score_is_as_low_as_promised(host: Host) -> None:
    analysis = host.run("systemd-analyze security --no-pager --threshold=%d %s" % (SCORE * 10, UNIT))
    assert analysis.rc == 0, analysis.stdout + analysis.stderr
    overall = re.search(r"Overall exposure level for knockd.service: ([0-9.]+)", analysis.stdout)
    assert overall and float(overall.group(1)) <= SCORE, analysis.stdout


def test_every_mark_that_remains_is_explained_in_the_unit(host: Host) -> None:
    listing = host.check_output("systemd-analyze security --no-pager --json=short " + UNIT)
    marked = [entry["name"] for entry in json.loads(listing) if entry["set"] is False and entry["exposure"]]
    unit = host.file("/etc/systemd/system/knockd.service").content_string
    explained = "\n".join(line for line in unit.splitlines() if line.startswith("#"))
    assert marked
    for name in marked:
        # PrivateNetwork=, RestrictAddressFamilies=~AF_PACKET, CapabilityBoundingSet=~CAP_NET_(BIND_SERVICE|...)
        word = re.match(r"\w+", name.rpartition("~")[2])
        assert word and word.group() in explained, name


def test_the_daemon_is_another_user_with_two_capabilities(host: Host) -> None:
    status_file = host.check_output("cat /proc/%s/status", show(host, "MainPID"))
    fields = dict(line.split(":\t", 1) for line in status_file.splitlines() if ":\t" in line)
    assert fields["Uid"].split()[0] != "0"
    assert int(fields["CapBnd"], 16) == int(fields["CapEff"], 16) == 1 << 12 | 1 << 13  # NET_ADMIN, NET_RAW
    assert fields["NoNewPrivs"] == "1" and fields["Seccomp"] == "2"


def test_the_watchdog_is_on(host: Host) -> None:
    assert show(host, "WatchdogUSec") == "30s"
    assert show(host, "WatchdogTimestampMonotonic") != "0"


def test_a_native_knock_opens_and_knockctl_shows_who_is_in(host: Host, server: Server) -> None:
    for address in (server.ipv4, server.ipv6):
        assert not server.is_open(address)
        server.knock(address)
        assert server.is_open(address)
    shown = status(host)
    assert len(shown["admitted"]) == 2
    assert {entry["door"] for entry in shown["admitted"]} == {"ssh"}
    assert shown["guarded"] == ["22/tcp"]
    text = host.check_output("knockctl")
    for entry in shown["admitted"]:
        assert entry["address"] in text and 0 < entry["seconds"] <= 10
    assert not [knock.port for knock in server.sequence if str(knock.port) in text + json.dumps(shown)]


def test_knockctl_lets_in_and_out(host: Host, server: Server) -> None:
    controller = re.sub(r"[0-9]+$", "1", server.ipv4)
    host.check_output("knockctl open %s for 10m", controller)
    assert server.is_open(server.ipv4)
    host.check_output("knockctl close %s", controller)
    assert not server.is_open(server.ipv4)


def test_only_root_and_the_group_may_ask(host: Host) -> None:
    assert (host.file("/run/knockd").mode, host.file("/run/knockd/control").mode) == (0o750, 0o660)
    assert host.file("/run/knockd").group == host.file("/run/knockd/control").group == "knockctl"
    for nobody in ("runuser -u nobody --", "runuser -u nobody --group nogroup --supp-group knockd --"):
        refused = host.run(nobody + " /usr/local/sbin/knockctl open %s", NOBODY)
        assert refused.rc == 1 and "use sudo" in refused.stderr
    host.check_output("runuser -u nobody --group nogroup --supp-group knockctl -- /usr/local/sbin/knockctl status")


def test_people_of_the_daemon_s_own_group_were_moved_to_the_group_of_knockctl(host: Host) -> None:
    """Kim was in it, and an account that is gone: prepare.yml."""
    members = {group: host.check_output("getent group %s", group).split(":")[3] for group in ("knockd", "knockctl")}
    assert members == {"knockd": "", "knockctl": "kim"}
    host.check_output("runuser -u kim -- /usr/local/sbin/knockctl status")


def test_whoever_may_use_knockctl_reads_no_sequence(host: Host, server: Server) -> None:
    """Neither a file, nor the journal, nor a process, nor what knockctl says."""
    server.knock(server.ipv4)
    ports = "|".join(str(knock.port) for knock in server.sequence)
    assert host.run("grep -qE '%s' /etc/knockd.conf" % ports).rc == 0
    pid = show(host, "MainPID")
    places = "/etc /run /var /usr/local /tmp /root /proc/%s /proc/%s/task/%s" % (pid, pid, pid)
    kim = "runuser -u kim --group kim --supp-group knockctl -- "
    found = host.run(
        kim + "find %s -maxdepth 8 -type f -readable -exec grep -lswE '%s' {} +" % (places, ports)
    ).stdout.splitlines()
    assert found == []
    for command in (
        "/usr/local/sbin/knockctl --json",
        "timeout 3 /usr/local/sbin/knockctl watch",
        "journalctl -u knockd",
    ):
        said = host.run(kim + command)
        assert not re.search(r"\b(%s)\b" % ports, said.stdout + said.stderr), command


def test_knockctl_s_group_may_ask_also_where_the_daemon_is_root(host: Host) -> None:
    """As with command doors, by the drop-in of the role itself."""
    drop_in = "/run/systemd/system/knockd.service.d/commands.conf"
    template = (Path(__file__).parents[3] / "roles/knockd/templates/commands.conf.j2").read_text()
    text = "\n".join(line for line in template.splitlines() if not line.startswith("#"))
    host.check_output("mkdir -p $(dirname %s) && printf '%%s\\n' %s > %s", drop_in, text, drop_in)
    try:
        host.check_output("systemctl daemon-reload && systemctl restart knockd")
        await_ready(host)
        assert host.check_output("ps -o user=,group= -p %s", show(host, "MainPID")).split() == ["root", "knockctl"]
        host.check_output("runuser -u kim -- /usr/local/sbin/knockctl status")
        assert host.file("/run/knockd/control").group == "knockctl"
        assert host.run("runuser -u nobody --group nogroup --supp-group knockd -- /usr/local/sbin/knockctl").rc == 1
    finally:
        host.check_output("rm %s && systemctl daemon-reload && systemctl restart knockd", drop_in)
        await_ready(host)


def test_the_journal_has_fields_and_the_classic_line(host: Host, server: Server) -> None:
    server.knock(server.ipv4)
    controller = re.sub(r"[0-9]+$", "1", server.ipv4)
    command = "journalctl --no-pager --output json --unit knockd KNOCKD_EVENT=open KNOCKD_ADDRESS=%s | tail -n 1"
    entry = json.loads(host.check_output(command, controller))
    assert entry["MESSAGE"] in ("%s: ssh: OPEN SESAME" % controller, "%s: ssh: opened by knockctl" % controller)
    assert (entry["KNOCKD_DOOR"], entry["SYSLOG_IDENTIFIER"], entry["PRIORITY"]) == ("ssh", "knockd", "5")
    export = host.check_output("journalctl --no-pager --output export --unit knockd")
    assert not [knock for knock in server.sequence if re.search(r"\b%d\b" % knock.port, export)]


def test_kill_closes_the_hole_and_the_unit_comes_back(host: Host, server: Server) -> None:
    server.knock(server.ipv4)
    assert server.is_open(server.ipv4)
    before = show(host, "MainPID")
    # Until it is back there is no guard either: rules.v4 and rules.v6, which are not here, are what closes then.
    host.check_output("systemctl kill --signal KILL %s", UNIT)
    deadline = time.monotonic() + 30
    while show(host, "MainPID") in ("0", before) and time.monotonic() < deadline:
        time.sleep(0.2)
    await_ready(host)
    assert status(host)["admitted"] == []
    assert not server.is_open(server.ipv4)


@pytest.mark.parametrize("page", ["man8/knockd.8", "man5/knockd.conf.5", "man8/knockctl.8"])
def test_the_manual_is_where_man_looks(host: Host, page: str) -> None:
    file = host.file("/usr/local/share/man/" + page)
    assert (file.user, file.mode) == ("root", 0o644)
