# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Command doors: start and stop commands, exactly once each, whatever happens to the daemon in between."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any

import pytest

from .lab import CLIENT, CLIENT6, KNOCKS, SERVER6, STRANGER, Daemon, Lab, eventually, run

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
ENTRY = b'[{"address": "198.18.0.9", "door": "job", "start": "x", "stop": "STOP", "deadline": DEADLINE, "timeout": 5}]'
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


def test_a_stop_is_due_also_if_the_daemon_dies_while_start_runs(lab: Lab) -> None:
    daemon = opened(lab, door(0.5, start=START + "; exec sleep 3"))
    daemon.kill()
    lab.daemon(door(0.5))
    await_done(lab, "start " + CLIENT, "stop " + CLIENT)
    eventually(lambda: not journal(lab))


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"\xff\xfe", b"null", b'"text"', b'{"a": 1}', b"[1]", b"[{}]", b"[" * 100_000),
        ENTRY.replace(b"DEADLINE", b"NaN"),
        ENTRY.replace(b"DEADLINE", b"Infinity"),
        ENTRY.replace(b"DEADLINE", b"1" * 400),
        ENTRY.replace(b"DEADLINE", b'"soon"'),
        ENTRY.replace(b"DEADLINE", b"1").replace(b'"STOP"', b"null"),
        ENTRY.replace(b"DEADLINE", b"1")[:-5],
    ],
    ids=lambda content: repr(content[-12:]) + str(len(content)),
)
def test_a_broken_journal_does_not_stop_the_daemon_and_is_kept(lab: Lab, content: bytes) -> None:
    (lab.directory / "open-doors.json").write_bytes(content)
    log = opened(lab, door(600)).log
    assert log.count("cannot read") == 1
    assert "Traceback" not in log
    kept = lab.directory / "open-doors.json.bad"
    assert kept.read_bytes() == content
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_broken_entry_does_not_take_the_others_with_it(lab: Lab) -> None:
    entry = ENTRY.replace(b"DEADLINE", b"1").replace(b"STOP", b"echo stop >> %s/done" % os.fsencode(lab.directory))
    (lab.directory / "open-doors.json").write_bytes(b"[%s, {}, %s]" % (entry[1:-1], entry[1:-1]))
    daemon = lab.daemon(door(600))
    await_done(lab, "stop", "stop")
    assert "cannot read entry 2 of" in daemon.log


def test_a_command_that_cannot_be_run_is_no_trouble(lab: Lab) -> None:
    entry = {"address": CLIENT, "door": "job", "start": "true", "stop": "echo a\0b", "deadline": 0, "timeout": 1}
    (lab.directory / "open-doors.json").write_text(json.dumps([entry]))  # in a configuration a NUL is an error
    daemon = lab.daemon(door(600, start="echo " + 200_000 * "x"))
    daemon.await_log("job: cannot run the command: embedded null byte")
    lab.knock(*KNOCKS)
    daemon.await_log("job: cannot run the command: Argument list too long")
    assert "Traceback" not in daemon.log
    assert daemon.process.poll() is None


def test_a_journal_that_cannot_be_written_is_said_once_and_opens_all_the_same(lab: Lab) -> None:
    (lab.directory / "open-doors.json.new").mkdir()
    daemon = opened(lab, door(1))
    await_done(lab, "start " + CLIENT, "stop " + CLIENT)
    lab.knock(*KNOCKS)
    await_done(lab, *["start " + CLIENT, "stop " + CLIENT] * 2)
    assert daemon.log.count("cannot write") == 1


def test_a_full_disk_keeps_no_door_open_and_the_journal_is_back_when_there_is_room(lab: Lab) -> None:
    disk = lab.directory / "disk"
    disk.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=16k", "none", str(disk))
    try:
        config = door(1).replace("State_Dir = DIR", "State_Dir = %s" % disk)
        daemon = lab.daemon(config)
        with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 1024)
        lab.knock(*KNOCKS)
        await_done(lab, "start " + CLIENT, "stop " + CLIENT)
        assert "cannot write %s/open-doors.json: No space left on device" % disk in daemon.log
        (disk / "filler").unlink()
        lab.knock(*KNOCKS, source=STRANGER)
        await_done(lab, "start " + CLIENT, "stop " + CLIENT, "start " + STRANGER)
        assert [entry["address"] for entry in json.loads((disk / "open-doors.json").read_text())] == [STRANGER]
        daemon.terminate()
    finally:
        run("umount", str(disk))


@pytest.mark.parametrize("step", [-1e9, 1e9], ids=["back", "forward"])
def test_a_clock_step_while_the_daemon_is_away_leaves_a_door_open_for_no_longer(lab: Lab, step: float) -> None:
    opened(lab, door(2)).kill()
    path = lab.directory / "open-doors.json"
    # To the journal a clock that is set back is a deadline far ahead.
    path.write_text(json.dumps([{**entry, "deadline": entry["deadline"] - step} for entry in journal(lab)]))
    lab.daemon(door(2))
    await_done(lab, "start " + CLIENT, "stop " + CLIENT)


# Classic = pairs


def classic(timeout: float, **commands: str) -> str:
    return door(timeout, **commands).replace("[options]", "[options]\n    Classic = pairs")


def test_with_classic_pairs_each_knock_has_its_own_pair(lab: Lab) -> None:
    daemon = opened(lab, classic(2))
    lab.knock(*KNOCKS)
    eventually(lambda: len(journal(lab)) == 2)
    await_done(lab, *["start " + CLIENT] * 2, *["stop " + CLIENT] * 2)
    eventually(lambda: not journal(lab))
    assert daemon.log.count("command timeout") == 2


def test_classic_pairs_outlive_the_daemon_each_for_itself(lab: Lab) -> None:
    daemon = opened(lab, classic(600))
    lab.knock(*KNOCKS)
    await_done(lab, *["start " + CLIENT] * 2)
    daemon.kill()
    again = lab.daemon(classic(600))
    assert len(journal(lab)) == 2
    assert again.terminate() == 0
    assert done(lab) == ["start " + CLIENT] * 2 + ["stop " + CLIENT] * 2
    assert journal(lab) == []


def test_classic_pairs_can_be_switched_by_hup(lab: Lab) -> None:
    daemon = opened(lab, door(600))
    daemon.reload(classic(600))
    lab.knock(*KNOCKS)
    await_done(lab, *["start " + CLIENT] * 2)


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
