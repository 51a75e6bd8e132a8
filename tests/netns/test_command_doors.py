# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Command doors: start and stop commands, exactly once each, whatever happens to the daemon in between."""

from __future__ import annotations

import json
import time
from typing import Any

from .lab import CLIENT, CLIENT6, KNOCKS, SERVER6, STRANGER, Daemon, Lab, eventually

DOOR = """
[options]
    State_Dir = DIR

[job]
    sequence      = 21001:tcp,11003:tcp,31002:tcp
    tcpflags      = syn
    start_command = {start}
    cmd_timeout   = {timeout}
    stop_command  = {stop}
"""
START, STOP = "echo start %IP% >> DIR/done", "echo stop %IP% >> DIR/done"


def door(timeout: float, start: str = START, stop: str = STOP) -> str:
    return DOOR.format(timeout=timeout, start=start, stop=stop)


def done(lab: Lab) -> list[str]:
    """What commands have written."""
    path = lab.directory / "done"
    return path.read_text().splitlines() if path.exists() else []


def await_done(lab: Lab, *lines: str) -> None:
    eventually(lambda: done(lab)[: len(lines)] == list(lines), "%s, but: %s" % (lines, done(lab)))


def journal(lab: Lab) -> list[dict[str, Any]]:
    path = lab.directory / "open-doors.json"
    return json.loads(path.read_text()) if path.exists() else []


def opened(lab: Lab, config: str) -> Daemon:
    """A daemon whose door has just been opened."""
    daemon = lab.daemon(config)
    lab.knock(*KNOCKS)
    await_done(lab, "start " + CLIENT)
    return daemon


def test_start_then_stop_after_the_timeout(lab: Lab) -> None:
    daemon = opened(lab, door(1))
    assert done(lab) == ["start " + CLIENT]
    await_done(lab, "start " + CLIENT, "stop " + CLIENT)
    commands = [line for line in daemon.log.splitlines() if "job: " in line and "Stage" not in line]
    assert commands == [
        "%s: job: OPEN SESAME" % CLIENT,
        "job: running command: echo start %s >> %s/done" % (CLIENT, lab.directory),
        "%s: job: command timeout" % CLIENT,
        "job: running command: echo stop %s >> %s/done" % (CLIENT, lab.directory),
    ]
    eventually(lambda: not journal(lab))


def test_the_article_s_pair_opens_and_closes_port_22(walled: Lab) -> None:
    rule = "-I INPUT -s %IP% -p tcp --dport 22 -j MARK --set-mark 0x1000 -t mangle"
    walled.daemon(door(1, "iptables -w " + rule, "iptables -w " + rule.replace("-I", "-D")))
    walled.knock(*KNOCKS)
    walled.opens()
    walled.closes()


def test_ipv6_falls_back_to_the_plain_commands(lab: Lab) -> None:
    lab.daemon(door(0.5))
    lab.knock(*KNOCKS, to=SERVER6)
    await_done(lab, "start " + CLIENT6, "stop " + CLIENT6)


def test_ipv6_has_commands_of_its_own(lab: Lab) -> None:
    own = "    start_command_6 = echo six %IP% >> DIR/done\n    stop_command_6 =\n"
    daemon = lab.daemon(door(0.2) + own)
    lab.knock(*KNOCKS, to=SERVER6)
    await_done(lab, "six " + CLIENT6)
    lab.knock(*KNOCKS)
    await_done(lab, "six " + CLIENT6, "start " + CLIENT, "stop " + CLIENT)
    assert daemon.log.count("command timeout") == 1


def test_stop_runs_also_when_start_has_failed(lab: Lab) -> None:
    daemon = lab.daemon(door(0.5, start="exit 3"))
    lab.knock(*KNOCKS)
    await_done(lab, "stop " + CLIENT)
    assert "job: command returned non-zero status code (3)" in daemon.log


def test_a_knock_while_open_extends_and_starts_nothing(lab: Lab) -> None:
    daemon = opened(lab, door(2))
    first = journal(lab)[0]["deadline"]
    time.sleep(0.5)
    lab.knock(*KNOCKS)
    eventually(lambda: daemon.log.count("OPEN SESAME") == 2)
    eventually(lambda: journal(lab)[0]["deadline"] > first, "the deadline moves")
    await_done(lab, "start " + CLIENT, "stop " + CLIENT)
    time.sleep(0.5)
    assert done(lab) == ["start " + CLIENT, "stop " + CLIENT]


def test_a_knock_after_a_start_that_failed_starts_anew(lab: Lab) -> None:
    # Seen on a host that got its iptables between two knocks: each knock kept a pair open that had opened nothing.
    daemon = lab.daemon(door(30, start="test -e DIR/ready && " + START))
    lab.knock(*KNOCKS)
    eventually(lambda: "command returned" in daemon.log)
    (lab.directory / "ready").touch()
    lab.knock(*KNOCKS)
    await_done(lab, "stop " + CLIENT, "start " + CLIENT)
    eventually(lambda: len(journal(lab)) == 1)


def test_each_address_has_its_own_pair(lab: Lab) -> None:
    lab.daemon(door(1))
    lab.knock(*KNOCKS)
    lab.knock(*KNOCKS, source=STRANGER)
    eventually(lambda: len(done(lab)) == 4)
    expected = ["%s %s" % (word, who) for word in ("start", "stop") for who in (CLIENT, STRANGER)]
    assert sorted(done(lab)) == sorted(expected)


def test_a_knock_during_stop_waits_for_its_end(lab: Lab) -> None:
    daemon = opened(lab, door(0.3, stop="sleep 1; " + STOP))
    daemon.await_log("command timeout")
    lab.knock(*KNOCKS)
    await_done(lab, *["start " + CLIENT, "stop " + CLIENT] * 2)


def test_without_stop_command_nothing_follows(lab: Lab) -> None:
    daemon = opened(lab, door(0.2).replace("    stop_command", "#"))
    time.sleep(0.5)
    assert "timeout" not in daemon.log
    lab.knock(*KNOCKS)
    await_done(lab, "start " + CLIENT, "start " + CLIENT)


def test_term_runs_the_stop_command_at_once(lab: Lab) -> None:
    daemon = opened(lab, door(3600))
    assert daemon.terminate() == 0
    assert done(lab) == ["start " + CLIENT, "stop " + CLIENT]
    assert journal(lab) == []


def test_term_does_not_wait_for_a_start_command(lab: Lab) -> None:
    daemon = opened(lab, door(3600, start=START + "; sleep 3600"))
    assert daemon.terminate() == 0
    assert done(lab) == ["start " + CLIENT, "stop " + CLIENT]


def test_a_stop_that_is_overdue_runs_when_the_daemon_is_back(lab: Lab) -> None:
    daemon = opened(lab, door(1))
    assert journal(lab)[0]["door"] == "job"
    daemon.kill()
    time.sleep(1.2)
    assert done(lab) == ["start " + CLIENT]
    lab.daemon(door(1))
    await_done(lab, "start " + CLIENT, "stop " + CLIENT)
    eventually(lambda: not journal(lab))


def test_a_stop_that_is_not_due_yet_is_armed_again(lab: Lab) -> None:
    opened(lab, door(3)).kill()
    daemon = lab.daemon(door(3))
    assert done(lab) == ["start " + CLIENT]
    lab.knock(*KNOCKS)  # and the door counts as open: no second start
    daemon.await_log("OPEN SESAME")
    await_done(lab, "start " + CLIENT, "stop " + CLIENT)


def test_the_stop_command_is_the_one_of_the_start_also_after_a_reload(lab: Lab) -> None:
    daemon = opened(lab, door(1.5))
    daemon.reload(door(1.5, stop="echo other >> DIR/done"))
    await_done(lab, "start " + CLIENT, "stop " + CLIENT)


def test_a_broken_journal_does_not_stop_the_daemon(lab: Lab) -> None:
    (lab.directory / "open-doors.json").write_text("{")
    assert "cannot read" in opened(lab, door(600)).log


def test_a_second_daemon_cannot_use_the_same_journal(lab: Lab) -> None:
    first = lab.daemon(door(600))
    second = lab.daemon(door(600), ready=False)
    assert second.process.wait() == 1
    assert "another knockd (process %d) uses State_Dir" % first.pid in second.log


def test_a_command_inherits_no_descriptor(lab: Lab) -> None:
    lab.daemon(door(600, start="ls -l /proc/self/fd > DIR/listed; echo start %IP% >> DIR/done"))
    lab.knock(*KNOCKS)
    await_done(lab, "start " + CLIENT)
    listed = (lab.directory / "listed").read_text()
    assert "/dev/null" in listed
    assert "socket:" not in listed
    assert "lock" not in listed
