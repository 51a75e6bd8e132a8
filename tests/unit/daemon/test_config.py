# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""knockd.conf: a classic one means what it meant, mistakes name line and cure, and no message shows a sequence."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knockd.config import ConfigError, parse, parse_guard, read, read_guard
from knockd.model import Door, Guard, PortRange, TcpFlags
from knockd.sequence import parse_sequence

CLASSIC = """\
[options]
\tUseSyslog
\tLogFile = /var/log/knockd.log
\tpidfile=/run/knockd.pid
\tInterface = ens3

# the article's first set-up
[openSSH]
\tsequence    = 20113,11873:UDP, 28391:tcp
\tseq_timeout = 5
\ttcpflags    = syn,!ack
\tcommand     = /sbin/iptables -I INPUT -s %IP% -p tcp --dport 22 -j ACCEPT # [a=b]
\tCommand_6   =
[opencloseSSH]
\tSequence      = 2222:udp,3334:tcp,1444:udp
\tTimeout       = 15
\tStart_Command = echo "a=b" > /tmp/x   #kept
\tSTART_COMMAND_6 = echo six
\tcmd_timeout   = 7
\tstop_command  = [ -e /tmp/x ] && rm /tmp/x
\tStop_Command_6 = rm six
\ttarget        = fd00:5e5a::9
"""

SECRET = "20113:tcp,11873:udp,28391:tcp"
DOOR = f"[ssh]\nsequence = {SECRET}\nopen_ports = 22/tcp\n"


def fails(text: str) -> str:
    """The message of the error that the text is; it names the line and shows no sequence."""
    with pytest.raises(ConfigError) as error:
        parse(text, "knockd.conf")
    message = str(error.value)
    assert re.match(r"knockd\.conf:\d+: ", message), message
    assert "\n" not in message
    assert "11873" not in message
    return message


# What a classic file means


def test_a_classic_file_is_read_unchanged() -> None:
    settings = parse(CLASSIC, "knockd.conf")
    assert settings.use_syslog
    assert settings.log_file == "/var/log/knockd.log"
    assert settings.pid_file == "/run/knockd.pid"
    assert settings.interfaces == ("ens3",)
    assert settings.doors == (
        Door(
            "openSSH",
            parse_sequence(SECRET),
            seq_timeout=5,
            tcpflags=TcpFlags(2 | 16, 2),
            start_command="/sbin/iptables -I INPUT -s %IP% -p tcp --dport 22 -j ACCEPT # [a=b]",
            start_command_6="",
            line=8,
        ),
        Door(
            "opencloseSSH",
            parse_sequence("2222:udp,3334,1444:udp"),
            seq_timeout=15,
            start_command='echo "a=b" > /tmp/x   #kept',
            start_command_6="echo six",
            cmd_timeout=7,
            stop_command="[ -e /tmp/x ] && rm /tmp/x",
            stop_command_6="rm six",
            target=ip_address("fd00:5e5a::9"),
            line=14,
        ),
    )
    assert settings.warnings == ()


def test_what_a_classic_file_leaves_out_has_the_classic_value() -> None:
    (door,) = parse(f"[ssh]\nsequence={SECRET}\ncommand=true", "k").doors
    assert (door.seq_timeout, door.cmd_timeout, door.tcpflags) == (25, 10, TcpFlags(0, 0))
    assert (door.start_command_6, door.stop_command, door.stop_command_6, door.target) == (None, None, None, None)


@pytest.mark.parametrize("change", [lambda text: text.replace("\n", "\r\n"), lambda text: "\ufeff" + text])
def test_windows_line_ends_and_byte_order_marks_change_nothing(change: Callable[[str], str], tmp_path: Path) -> None:
    path = tmp_path / "knockd.conf"
    path.write_bytes(change(CLASSIC).encode())
    assert read(str(path)) == parse(CLASSIC, str(path))


def test_sections_of_one_name_are_two_doors_and_the_last_of_equal_keys_wins() -> None:
    first, second = parse(
        f"[a]\nsequence=1,2\nSequence={SECRET}\ncommand=one\nstart_command=two\n[a]\nsequence=5,9,7\ncommand=x", "k"
    ).doors
    assert (first.name, first.start_command, first.sequence) == ("a", "two", parse_sequence(SECRET))
    assert (second.name, second.sequence) == ("a", parse_sequence("5,9,7"))


def test_options_is_spelled_in_small_letters() -> None:
    with pytest.raises(ConfigError, match=r"k:2: .*LogFile"):
        parse("[Options]\nLogFile = /x\n", "k")
    assert [door.name for door in parse(f"[OPTIONS]\nsequence={SECRET}\ncommand=x", "k").doors] == ["OPTIONS"]


def test_a_command_with_any_bytes_runs_as_written(tmp_path: Path) -> None:
    path = tmp_path / "knockd.conf"
    path.write_bytes(b"[t\xc3\xbcr]\nsequence = 20113,11873,28391\ncommand = echo \xff \xc3\xbc \xc2\xa0\n")
    (door,) = read(str(path)).doors
    assert door.name == "tür"
    assert door.start_command is not None
    assert door.start_command.encode("utf-8", "surrogateescape") == b"echo \xff \xc3\xbc \xc2\xa0"


KEYS_OF_TEXT = ["LogFile", "PidFile", "Guard", "State_Dir", "Control", "Interface"]


@pytest.mark.parametrize("key", KEYS_OF_TEXT)
def test_a_nul_byte_in_an_option_is_an_error_of_its_line(key: str) -> None:
    assert fails("[options]\n%s = /run/kno\0ckd\n%s" % (key, DOOR)).startswith("knockd.conf:2: ")


@pytest.mark.parametrize(
    "line", ["one_time_sequences = /etc/o\0nce", "command = echo \0", "[s\0sh]", "\0", "open_ports\0=22"]
)
def test_a_nul_byte_in_a_door_is_an_error_of_its_line(line: str) -> None:
    assert fails(DOOR + line + "\n").startswith("knockd.conf:4: ")


def test_a_nul_byte_in_a_comment_is_as_good_as_any_other() -> None:
    assert len(parse("# \0\n" + DOOR, "k").doors) == 1


def test_a_nul_byte_in_a_guard_file_is_an_error_of_its_line() -> None:
    with pytest.raises(ConfigError, match=r"^guard:2: "):
        parse_guard("[ssh]\nports = 22/\0tcp\n", "guard")


@pytest.mark.parametrize("key", KEYS_OF_TEXT[:5])
def test_a_path_that_the_locale_cannot_write_is_an_error_of_its_line(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsencode", lambda text: text.encode("iso-8859-1"))
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "iso-8859-1")
    assert fails("[options]\n%s = /run/\u017e\n%s" % (key, DOOR)).startswith("knockd.conf:2: ")


def test_inline_comments_are_left_out_with_a_warning() -> None:
    settings = parse(
        "[options]  # général\nlogfile = /var/log/knockd.log   #note\nUseSyslog # too\n"
        f"[ssh] # [door]\nsequence = {SECRET}\t# mine\ntcpflags = syn # x\ntarget = 198.18.0.9 # y\n"
        "command = echo # kept\n",
        "k",
    )
    assert settings.log_file == "/var/log/knockd.log"
    assert settings.use_syslog
    (door,) = settings.doors
    assert (door.name, door.sequence, door.tcpflags) == ("ssh", parse_sequence(SECRET), TcpFlags(2, 2))
    assert door.start_command == "echo # kept"
    assert [warning.split(":")[1] for warning in settings.warnings] == ["1", "2", "3", "4", "5", "6", "7"]


def test_a_hash_without_white_space_before_it_is_part_of_the_value() -> None:
    assert parse("[options]\nlogfile = /var/log/a#b\n", "k").log_file == "/var/log/a#b"


# What we add


def test_native_doors_and_options_are_read() -> None:
    settings = parse(
        "[options]\nMark = 0x2000\nGuard = /etc/knockd-guard.conf\nState_Dir = /var/lib/knockd\ninterface = a, b c\n"
        f"[ssh]\nsequence = {SECRET}\nopen_ports = 22, 60000-60010/udp\nopen_timeout = 2.5\n"
        "[close]\nsequence = 5,9,7\nclose_door = ssh\n",
        "k",
    )
    assert (settings.mark, settings.guard_file) == (0x2000, "/etc/knockd-guard.conf")
    assert (settings.state_dir, settings.interfaces) == ("/var/lib/knockd", ("a", "b", "c"))
    ssh, close = settings.doors
    assert ssh.open_ports == (PortRange(22, 22, "tcp"), PortRange(60000, 60010, "udp"))
    assert ssh.open_timeout == 2.5
    assert close.close_door == "ssh"


def test_without_anything_said_the_mark_is_the_documented_one() -> None:
    assert parse("", "k").mark == 0x1000


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("scans", {"scans"}),
        ("scans, repeats, doors, pairs", {"scans", "repeats", "doors", "pairs"}),
        ("Pairs,DOORS,doors  # as before", {"pairs", "doors"}),
    ],
)
def test_classic_behaviour_is_named(value: str, words: set[str]) -> None:
    assert parse(f"[options]\nClassic = {value}\n", "k").classic == words


def test_classic_names_is_warned_of() -> None:
    settings = parse("[options]\nUseSyslog\nClassic = repeats, names\n" + DOOR, "k")
    assert settings.classic == {"repeats", "names"}
    (warning,) = settings.warnings
    assert warning.startswith("k:3: ")


def test_without_anything_said_nothing_is_classic() -> None:
    assert parse("", "k").classic == frozenset()


@pytest.mark.parametrize("strays", [0, 5, 512])
def test_the_limit_of_strays_is_a_number(strays: int) -> None:
    assert parse(f"[options]\nStrays = {strays}\n", "k").strays == strays


def test_a_few_strays_are_allowed_without_anything_said() -> None:
    assert parse("", "k").strays == 5


@pytest.mark.parametrize(
    "spelling", [SECRET, SECRET.replace(",", " "), "= 20113 11873 28391", SECRET.replace(",", "'")]
)
@pytest.mark.parametrize("key", ["Mark", "Classic", "Strays", "Knockers", "Control"])
def test_a_sequence_in_the_wrong_place_is_not_shown(key: str, spelling: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(f"[options]\n{key} = {spelling}\n", "k")
    assert sum(port in str(error.value) for port in ("20113", "11873", "28391")) < 2


def test_published_ports_are_looked_after_where_the_file_says_so() -> None:
    assert parse("[options]\nPublished = Yes\n", "k").published
    assert not parse("[options]\nPublished = no\n", "k").published
    assert not parse("", "k").published


def test_how_many_knockers_are_remembered_is_a_number() -> None:
    assert parse("[options]\nKnockers = 1000\n", "k").knockers == 1000
    assert parse("", "k").knockers == 250_000


# Mistakes


@pytest.mark.parametrize(
    ("text", "line", "named"),
    [
        ("sequence = 1", 1, "no section"),
        ("[]\n", 1, "no name"),
        ("[ ]\n", 1, "no name"),
        ("[options]\nlogfile /x", 2, "neither"),
        ("[options]\nnonsense", 2, "'nonsense'"),
        ("[options]\nUseSyslog = yes", 2, "UseSyslog"),
        ("[options]\nlogfil = /x", 2, "'logfil'"),
        ("[options]\nlogfile =", 2, "logfile"),
        ("[options]\nsequence = 1,2", 2, "'sequence'"),
        ("[options]\nmark = 0x1001", 2, "'0x1001'"),
        ("[options]\nmark = 0", 2, "'0'"),
        ("[options]\nmark = many", 2, "'many'"),
        (
            "[options]\nclassic = yes",
            2,
            "'yes' is no classic behaviour: possible are doors, names, pairs, repeats, scans",
        ),
        ("[options]\nclassic = scans doors", 2, "'scans doors'"),
        ("[options]\nclassic = scans,", 2, "''"),
        ("[options]\nstrays = -1", 2, "'-1'"),
        ("[options]\nstrays = 513", 2, "'513' is no number of ports: write one from 0 to 512"),
        ("[options]\nstrays = few", 2, "'few'"),
        ("[options]\nknockers = 9", 2, "'9' is no number of knockers: write one from 10 to 10000000"),
        ("[options]\nknockers = 10000001", 2, "'10000001'"),
        ("[options]\nknockers = 1e6", 2, "'1e6'"),
        ("[options]\npublished = 22/tcp", 2, "'22/tcp' is not possible: write no or yes"),
        (DOOR + "logfile = /x", 4, "'logfile'"),
        (DOOR + "UseSyslog", 4, "'UseSyslog'"),
        ("\n\n[ssh]\ncommand = x", 3, "no sequence"),
        (f"[ssh]\nsequence = {SECRET}\n", 1, "opens nothing"),
        (f"[ssh]\nsequence = {SECRET}\nstart_command =\n", 1, "opens nothing"),
        (DOOR + "command = x", 1, "mixes"),
        (DOOR + "close_door = ssh", 1, "mixes"),
        ("[ssh]\nsequence = 1,70000\ncommand = x", 2, "'70000'"),
        ("[ssh]\nsequence = 0\ncommand = x", 2, "'0'"),
        ("[ssh]\nsequence = 1:sctp\ncommand = x", 2, "'1:sctp'"),
        ("[ssh]\nsequence = -5,abc,,80x\ncommand = x", 2, "'-5'"),
        ("[ssh]\nsequence = 20113 11873 28391\ncommand = x", 2, "commas"),
        ("[ssh]\nsequence 20113,11873,28391\ncommand = x", 2, "neither"),
        ("[ssh]\n20113,11873 = x", 2, "unknown"),
        ("[ssh]\n20113,11873,28391", 2, "neither"),
        (DOOR + "seq_timeout = abc", 4, "'abc'"),
        (DOOR + "seq_timeout = 0", 4, "seq_timeout"),
        (DOOR + "seq_timeout = -1", 4, "'-1'"),
        (DOOR + "timeout = 1e3", 4, "'1e3'"),
        (DOOR + "open_timeout = nan", 4, "'nan'"),
        (DOOR + "open_timeout = 999999999", 4, "999999999"),
        (DOOR + "cmd_timeout = 5s", 4, "'5s'"),
        (DOOR + "tcpflags = syn,ecn", 4, "'ecn'"),
        (DOOR + "tcpflags = syn,!syn", 4, "syn"),
        (DOOR + "tcpflags = syn,", 4, "''"),
        (DOOR + "target = example.org", 4, "'example.org'"),
        (DOOR + "target = 198.18.0.300", 4, "'198.18.0.300'"),
        (DOOR + "open_ports = ssh", 4, "'ssh'"),
        (DOOR + "open_ports = 0/tcp", 4, "'0/tcp'"),
        (DOOR + "open_ports = 70000", 4, "'70000'"),
        (DOOR + "open_ports = 30-20/tcp", 4, "'30-20/tcp'"),
        (DOOR + "open_ports = 22/sctp", 4, "'22/sctp'"),
        (DOOR + "open_ports = 22,20-30/tcp", 4, "20-30/tcp"),
        (f"[ssh]\nsequence = {SECRET},22\nopen_ports = 20-30/tcp", 2, "20-30/tcp"),
        (f"[ssh]\nsequence = {SECRET}\ncommand = x\nopen_timeout = 3", 4, "cmd_timeout"),
        ("[shut]\nsequence = 5,9,7\nclose_door = ssh", 1, "ssh"),
        ("[shut]\nsequence = 5,9,7\nclose_door = shut", 1, "shut"),
        (f"[ssh]\nsequence = {SECRET}\ncommand = x\n[shut]\nsequence = 5,9,7\nclose_door = ssh", 4, "ssh"),
        (DOOR + f"[web]\nsequence = {SECRET.replace(':tcp', '')}\nopen_ports = 443/tcp", 4, "[ssh] and [web]"),
        (
            "[one]\nsequence = 5,9,7\nopen_ports = 600-609/udp\n[two]\nsequence = 6,9,7\nopen_ports = 605-700/udp",
            4,
            "[one] opens 600-609/udp and [two] opens 605-700/udp",
        ),
    ],
)
def test_a_mistake_is_one_error_that_names_line_and_cause(text: str, line: int, named: str) -> None:
    message = fails(text)
    assert message.startswith(f"knockd.conf:{line}: ")
    assert named in message


def test_an_error_about_a_missing_sequence_says_how_to_make_one() -> None:
    assert "lookup('sesame.knock.sequence')" in fails("[ssh]\ncommand = x")


def test_one_sequence_for_two_targets_is_no_mistake() -> None:
    text = "".join(f"[{n}]\nsequence={SECRET}\ntarget=198.18.0.{n}\ncommand=wake {n}\n" for n in (8, 9))
    assert len(parse(text, "k").doors) == 2


def test_a_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.conf", tmp_path):
        with pytest.raises(ConfigError, match=re.escape(str(path))):
            read(str(path))


@given(st.text(alphabet="[]=#%,:\n\r\t -!0123456789ansequcopti_\ufeff\xff\udcff", max_size=200))
def test_any_text_is_settings_or_one_error(text: str) -> None:
    for parser in (parse, parse_guard):
        with contextlib.suppress(ConfigError):
            parser(text, "k")


# Warnings


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("[ssh]\nsequence = 10001,10002,10003\nopen_ports = 22", 2, "once in 6"),
        ("[ssh]\nsequence = 20113\nopen_ports = 22", 2, "single knock"),
        (DOOR + "open_timeout = 0", 4, "open until"),
        (f"[ssh]\nsequence = {SECRET}\nstop_command = x", 3, "start_command"),
        (f"[ssh]\nsequence = {SECRET}\none_time_sequences = /x\ncommand = x", 2, "one_time_sequences counts"),
    ],
)
def test_what_is_doubtful_is_a_warning_that_names_the_line_and_shows_no_sequence(
    text: str, line: int, said: str
) -> None:
    (warning,) = parse(text, "k").warnings
    assert warning.startswith(f"k:{line}: [ssh]: ")
    assert said in warning
    assert not re.search("10001|20113|11873", warning)


def test_a_weak_sequence_is_told_with_the_way_to_a_better_one() -> None:
    (warning,) = parse("[ssh]\nsequence = 1,2\nopen_ports = 22", "k").warnings
    assert "lookup('sesame.knock.sequence')" in warning


# One-time sequences


def test_a_door_gets_the_next_one_time_sequence(tmp_path: Path) -> None:
    (tmp_path / "once").write_text("#0113,1,2\n 20113,11873:udp,28391\n 5,9,7\n")
    path = tmp_path / "knockd.conf"
    path.write_text(f"[ssh]\none_time_sequences = {tmp_path / 'once'}\ncommand = x\n")
    (door,) = read(str(path)).doors
    assert door.sequence == parse_sequence(SECRET)


def test_a_door_without_one_time_sequences_left_stays_shut_and_the_others_live(tmp_path: Path) -> None:
    (tmp_path / "once").write_text("#0113,1,2\n")
    path = tmp_path / "knockd.conf"
    path.write_text(f"[once]\none_time_sequences = {tmp_path / 'once'}\ncommand = x\n{DOOR}")
    settings = read(str(path))
    assert [door.sequence for door in settings.doors] == [(), parse_sequence(SECRET)]
    assert "[once]" in settings.warnings[0]


def test_a_missing_file_of_one_time_sequences_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "knockd.conf"
    path.write_text("[ssh]\none_time_sequences = /nowhere/once\ncommand = x\n")
    with pytest.raises(ConfigError, match="/nowhere/once"):
        read(str(path))


# The guard file

GUARDS = """\
# written by the role
[ssh]
    ports  = 22/tcp, 2222-2223
    allow  = 198.18.0.0/24, fd00:5e5a:1::/64
    refuse = drop
[way out]
    ports  = 2200/tcp
    allow  =
    refuse = reset
    knock  = no
"""


def test_a_guard_file_is_read_with_the_configuration_that_names_it(tmp_path: Path) -> None:
    guard, path = tmp_path / "guard.conf", tmp_path / "knockd.conf"
    guard.write_text(GUARDS)
    path.write_text(f"[options]\nguard = {guard}\n{DOOR}")
    expected = (
        Guard(
            "ssh",
            (PortRange(22, 22, "tcp"), PortRange(2222, 2223, "tcp")),
            (ip_network("198.18.0.0/24"), ip_network("fd00:5e5a:1::/64")),
            "drop",
            True,
        ),
        Guard("way out", (PortRange(2200, 2200, "tcp"),), (), "reset", False),
    )
    assert read_guard(str(guard)) == expected
    assert read(str(path)).guards == expected


def test_no_guard_file_is_no_guard(tmp_path: Path) -> None:
    assert read_guard(str(tmp_path / "none")) == ()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[ssh]\nallow = 198.18.0.0/24", "g:1: [ssh] has no ports"),
        ("[ssh]\nports = 22\nallow = 198.18.0.7/24", "write 198.18.0.0/24"),
        ("[ssh]\nports = 22\nallow = office", "'office'"),
        ("[ssh]\nports = 22\nallow = 198.18.0.0/24,", "''"),
        ("[ssh]\nports = 22\nrefuse = maybe", "reset or drop"),
        ("[ssh]\nports = 22\nknock = 1", "yes or no"),
        ("[ssh]\nports = 22\nsequence = 1", "'sequence'"),
        ("[ssh]\nports = 22\n[out]\nports = 20-30", "g:4: 20-30/tcp is also in [ssh]"),
    ],
)
def test_a_mistake_in_a_guard_file_is_named(text: str, named: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_guard(text, "g")
    assert named in str(error.value)
