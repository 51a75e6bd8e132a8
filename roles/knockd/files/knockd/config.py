# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""knockd.conf to doors: reads C knockd's format, our additions to it, and the guard file of role knock_firewall.

The format: lines are trimmed; empty lines and lines that begin with `#` are skipped; `[name]` begins a door,
`[options]` the options; all else is `key = value`, split at the first `=`, keys in any case, the last of equal keys
wins. A ` #...` after a value is a comment, except in commands, which are verbatim to the end of the line.

All that is wrong is a ConfigError with the line and the cure; what is doubtful becomes a warning. Neither shows a
sequence: they go to logs.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Callable, NamedTuple, TypeVar

from . import one_time
from .model import CLASSIC, Address, Door, Guard, Network, PortRange, Settings, TcpFlags
from .sequence import Knock, SequenceError, parse_sequence, weaknesses

T = TypeVar("T")

GENERATE = (
    "generate a better one: ansible localhost -m ansible.builtin.debug -a \"msg={{ lookup('sesame.knock.sequence') }}\""
)
LONGEST = 366 * 86400
"""Seconds; a longer time-out is a slip."""
MOST_STRAYS = 512
LEAST_KNOCKERS, MOST_KNOCKERS = 10, 10_000_000
NO_CONTROL = "none"
NAMES = (
    "Classic = names: with -l, a stranger who owns the name server of his address sees which ports are knocked on, as"
    " it is asked at the first right knock: leave names out"
)
FLAGS = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32}  # RFC 9293, 3.1

ALIASES = {"timeout": "seq_timeout", "command": "start_command", "command_6": "start_command_6"}
COMMANDS = ("start_command", "start_command_6", "stop_command", "stop_command_6")
OPTIONS = (
    *("usesyslog", "logfile", "pidfile", "interface", "mark", "guard", "published", "state_dir"),
    *("classic", "strays", "knockers", "control"),
)
DOOR = (
    *("sequence", "one_time_sequences", "seq_timeout", "tcpflags", "target"),
    *("open_ports", "open_timeout", "close_door", *COMMANDS, "cmd_timeout"),
)
GUARD = ("ports", "allow", "refuse", "knock")

_BLANKS = " \t\r\n\v\f"  # what C's isspace calls so
_HEADER = re.compile(r"\[([^\]]*)\]\s+#.*")
_COMMENT = re.compile(r"(?:^|\s+)#.*", re.ASCII)
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
# Numbers with something between them that neither addresses nor ranges of ports have; or long ones with anything.
_SEVERAL = re.compile(r"[0-9][a-z:/]*[^0-9a-z.:/_-]+[0-9]|[0-9]{5}[^0-9-].*[0-9]{5}", re.IGNORECASE | re.DOTALL)
_PORTS = re.compile(r"([0-9]{1,5})(?:\s*-\s*([0-9]{1,5}))?(?:\s*[/:]\s*([A-Za-z]+))?")


class ConfigError(Exception):
    """A file that cannot be used: `FILE:LINE: what is wrong: cure`; line 0 stands for the file as a whole."""

    def __init__(self, name: str, line: int, message: str) -> None:
        super().__init__(f"{name}:{line}: {message}" if line else f"{name}: {message}")


class _Value(NamedTuple):
    text: str
    line: int


class _Section(NamedTuple):
    name: str
    line: int
    values: dict[str, _Value]


def read(path: str) -> Settings:
    """Read a knockd.conf, the one-time sequences of its doors, and its guard file if that exists."""
    settings = parse(_text(path), path)
    warnings = list(settings.warnings)
    doors = [_supplied(door, path, warnings) for door in settings.doors]
    _check_distinct(path, doors)
    guards = read_guard(settings.guard_file) if settings.guard_file else ()
    return replace(settings, doors=tuple(doors), guards=guards, warnings=tuple(warnings))


def _supplied(door: Door, name: str, warnings: list[str]) -> Door:
    """Give a door with one-time sequences the one that counts now."""
    if not door.one_time_sequences:
        return door
    try:
        left = one_time.supply(door.one_time_sequences)
    except OSError as error:
        message = f"[{door.name}]: {door.one_time_sequences}: {error.strerror}: make it readable for the daemon"
        raise ConfigError(name, door.line, message) from error
    warnings.extend(left.warnings)
    if not left.sequence:
        warnings.append(
            f"{name}:{door.line}: [{door.name}]: all sequences in {door.one_time_sequences} are used, "
            "the door stays shut: add new ones"
        )
    return replace(door, sequence=left.sequence)


def parse(text: str, name: str) -> Settings:
    """Make settings of the text of a knockd.conf; opens no file, so doors with one-time sequences have none yet."""
    warnings: list[str] = []
    sections = _sections(text, name, lambda section: OPTIONS if section == "options" else DOOR, warnings)
    doors = tuple(_door(section, name, warnings) for section in sections if section.name != "options")
    _check_distinct(name, doors)
    _check_ranges(name, doors)
    _check_closers(name, doors)
    options: dict[str, _Value] = {}
    for section in sections:
        if section.name == "options":
            options.update(section.values)

    classic = _read(options, "classic", name, _classic, Settings.classic)
    if "names" in classic:
        warnings.append("{}:{}: {}".format(name, options["classic"].line, NAMES))

    def path_of(key: str) -> str | None:
        return _read(options, key, name, _path, "") or None

    return Settings(
        doors=doors,
        interfaces=tuple(re.split(r"[\s,]+", options["interface"].text)) if "interface" in options else (),
        use_syslog="usesyslog" in options,
        log_file=path_of("logfile"),
        pid_file=path_of("pidfile"),
        mark=_read(options, "mark", name, _mark, Settings.mark),
        guard_file=path_of("guard"),
        published=_read(options, "published", name, _one_of("no", "yes"), "no") == "yes",
        state_dir=path_of("state_dir"),
        classic=classic,
        strays=_read(options, "strays", name, _strays, Settings.strays),
        knockers=_read(options, "knockers", name, _knockers, Settings.knockers),
        control=_read(options, "control", name, _control, None),
        warnings=tuple(warnings),
    )


def read_guard(path: str) -> tuple[Guard, ...]:
    """Read a guard file; one that does not exist says that nothing is guarded (yet)."""
    return parse_guard(_text(path, absent=""), path)


def parse_guard(text: str, name: str) -> tuple[Guard, ...]:
    """Make guards of the text of a guard file."""
    guards: list[Guard] = []
    for section in _sections(text, name, lambda _section: GUARD, []):
        if "ports" not in section.values:
            raise ConfigError(name, section.line, f"[{section.name}] has no ports: add ports = 22/tcp")
        guard = Guard(
            name=section.name,
            ports=_read(section.values, "ports", name, _port_ranges, ()),
            allow=_read(section.values, "allow", name, _networks, ()),
            refuse=_read(section.values, "refuse", name, _one_of("reset", "drop"), Guard.refuse),
            knock=_read(section.values, "knock", name, _one_of("yes", "no"), "yes") == "yes",
        )
        for other in guards:
            for ports in guard.ports:
                if any(_overlap(ports, others) for others in other.ports):
                    raise ConfigError(
                        name,
                        section.values["ports"].line,
                        f"{ports} is also in [{other.name}]: name each port once",
                    )
        guards.append(guard)
    return tuple(guards)


# From text to sections


def _text(path: str, absent: str | None = None) -> str:
    """Read a file; bytes that are not UTF-8 survive as surrogates, so that a command runs exactly as written."""
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
            return file.read()
    except FileNotFoundError as error:
        if absent is not None:
            return absent
        raise ConfigError(path, 0, "there is no such file: name another with -c") from error
    except OSError as error:
        raise ConfigError(path, 0, f"{error.strerror}: make it readable for the daemon") from error


def _sections(text: str, name: str, keys: Callable[[str], tuple[str, ...]], warnings: list[str]) -> list[_Section]:
    """Split a file; `keys` tells which ones a section may have. Equal section names stay apart."""
    sections: list[_Section] = []
    for number, raw in enumerate(text.lstrip("\ufeff").split("\n"), 1):
        line = raw.strip(_BLANKS)
        if not line or line.startswith("#"):
            continue
        if "\0" in line:
            raise ConfigError(name, number, "this line holds a NUL byte, which no path, name or command can: remove it")
        header = _header(line)
        if header is not None:
            if header != line[1:-1]:
                warnings.append(_comment_warning(name, number))
            if not header.strip():
                raise ConfigError(name, number, "the section has no name: write [name]")
            sections.append(_Section(header, number, {}))
            continue
        key, equals, value = (part.strip(_BLANKS) for part in line.partition("="))
        if not sections:
            raise ConfigError(name, number, "this line is in no section: put [options] or the door's [name] above it")
        section = sections[-1]
        lower = ALIASES.get(key.lower(), key.lower())
        if not equals:
            bare = _COMMENT.sub("", key)
            if bare != key:
                warnings.append(_comment_warning(name, number))
            if bare.lower() == "usesyslog" and "usesyslog" in keys(section.name):
                section.values["usesyslog"] = _Value("", number)
                continue
            raise ConfigError(
                name, number, f"{_word(bare, 'this line')} is neither [section] nor key = value: correct it"
            )
        if lower not in keys(section.name):
            possible = ", ".join(keys(section.name))
            raise ConfigError(
                name, number, f"{_word(key, 'a key')} is unknown in [{section.name}]: possible are {possible}"
            )
        if lower == "usesyslog":
            raise ConfigError(name, number, "UseSyslog takes no value: write it alone, or leave it out")
        if lower not in COMMANDS:
            bare = _COMMENT.sub("", value)
            if bare != value:
                warnings.append(_comment_warning(name, number))
            value = bare
            if not value and lower != "allow":
                raise ConfigError(name, number, f"{key} is empty: give it a value or remove the line")
        section.values[lower] = _Value(value, number)
    return sections


def _word(text: str, other: str) -> str:
    """Quote a text for a message if it is one word; anything else may be a sequence in the wrong place."""
    return repr(text) if _WORD.fullmatch(text) else other


def _header(line: str) -> str | None:
    """Return the name in `[name]` or `[name]  # comment`, or None for another line."""
    if not line.startswith("["):
        return None
    match = _HEADER.fullmatch(line)
    if match:
        return match.group(1)
    return line[1:-1] if line.endswith("]") and len(line) > 1 else None


def _comment_warning(name: str, line: int) -> str:
    return f"{name}:{line}: the comment after the value is left out: put it on a line of its own"


# From sections to doors


def _door(section: _Section, name: str, warnings: list[str]) -> Door:
    values = section.values
    where = f"[{section.name}]"

    def warn(line: int, message: str) -> None:
        warnings.append(f"{name}:{line}: {where}: {message}")

    door = Door(
        name=section.name,
        sequence=_read(values, "sequence", name, parse_sequence, ()),
        seq_timeout=_read(values, "seq_timeout", name, _positive, Door.seq_timeout),
        tcpflags=_read(values, "tcpflags", name, _tcpflags, Door.tcpflags),
        target=_read(values, "target", name, _address, None),
        open_ports=_read(values, "open_ports", name, _port_ranges, ()),
        open_timeout=_read(values, "open_timeout", name, _seconds, Door.open_timeout),
        close_door=values["close_door"].text if "close_door" in values else None,
        start_command=values["start_command"].text or None if "start_command" in values else None,
        start_command_6=values["start_command_6"].text if "start_command_6" in values else None,
        stop_command=values["stop_command"].text or None if "stop_command" in values else None,
        stop_command_6=values["stop_command_6"].text if "stop_command_6" in values else None,
        cmd_timeout=_read(values, "cmd_timeout", name, _seconds, Door.cmd_timeout),
        one_time_sequences=_read(values, "one_time_sequences", name, _path, "") or None,
        line=section.line,
    )

    if not door.sequence and not door.one_time_sequences:
        raise ConfigError(name, door.line, f"{where} has no sequence: add sequence = ...; {GENERATE}")
    if door.one_time_sequences and door.sequence:
        warn(values["sequence"].line, "one_time_sequences counts, the sequence does not: remove one of them")
        door = replace(door, sequence=())
    commands = any(getattr(door, command) for command in COMMANDS)
    if not (door.open_ports or door.close_door or commands):
        raise ConfigError(
            name, door.line, f"{where} opens nothing and runs nothing: add open_ports, close_door or start_command"
        )
    if bool(door.open_ports) + bool(door.close_door) + commands > 1:
        raise ConfigError(
            name, door.line, f"{where} mixes open_ports, close_door and commands: a door does one of them, keep one"
        )
    if "open_timeout" in values and not door.open_ports:
        raise ConfigError(
            name, values["open_timeout"].line, f"{where} has no open_ports: for commands the time is cmd_timeout"
        )
    for ports in door.open_ports:
        if any(_overlap(ports, PortRange(knock.port, knock.port, knock.protocol)) for knock in door.sequence):
            raise ConfigError(
                name,
                values["sequence"].line,
                f"{where}: a port that it opens, {ports}, is in its own sequence: knock elsewhere",
            )
    if door.open_ports and not door.open_timeout:
        warn(values["open_timeout"].line, "open_timeout 0 leaves its ports open until a close_door or the daemon's end")
    if (door.stop_command or door.stop_command_6) and not (door.start_command or door.start_command_6):
        line = values["stop_command" if door.stop_command else "stop_command_6"].line
        warn(line, "stop_command never runs without a start_command: add one")
    if door.sequence:
        weak = weaknesses(door.sequence)
        if weak:
            warn(values["sequence"].line, "its sequence is weak: {}: {}".format("; ".join(weak), GENERATE))
    return door


def _check_distinct(name: str, doors: Iterable[Door]) -> None:
    """Two doors with one sequence are a slip, unless they are for different targets."""
    seen: dict[tuple[tuple[Knock, ...], Address | None], Door] = {}
    for door in doors:
        if not door.sequence:
            continue
        other = seen.setdefault((door.sequence, door.target), door)
        if other is not door:
            raise ConfigError(
                name,
                door.line,
                f"[{other.name}] and [{door.name}] have the same sequence: give one of them another; {GENERATE}",
            )


def _check_ranges(name: str, doors: Iterable[Door]) -> None:
    """The kernel's set of ranges takes equal ones, but none that overlap in part."""
    seen: dict[PortRange, Door] = {}
    for door in doors:
        for ports in (ports for ports in door.open_ports if ports.first != ports.last):
            for others, other in seen.items():
                if ports != others and _overlap(ports, others):
                    problem = f"[{other.name}] opens {others} and [{door.name}] opens {ports}, which overlap in part"
                    raise ConfigError(name, door.line, f"{problem}: use equal ranges")
            seen.setdefault(ports, door)


def _check_closers(name: str, doors: tuple[Door, ...]) -> None:
    native: set[str] = {door.name for door in doors if door.open_ports}
    for door in doors:
        if door.close_door is not None and door.close_door not in native:
            known = "known are {}".format(", ".join(sorted(native))) if native else "there is none"
            raise ConfigError(
                name,
                door.line,
                f"[{door.name}]: close_door names {_quoted(door.close_door)}, no door with open_ports: {known}",
            )


# From text to values: each raises ValueError with what is wrong and the cure


def _quoted(text: str) -> str:
    """Quote a value for a message; one with several numbers may be a sequence in the wrong place."""
    return "a list" if _SEVERAL.search(text) else repr(text.strip())


def _read(values: dict[str, _Value], key: str, name: str, convert: Callable[[str], T], default: T) -> T:
    if key not in values:
        return default
    try:
        return convert(values[key].text)
    except SequenceError as error:
        raise ConfigError(name, values[key].line, f"{error}: correct the item") from error
    except ValueError as error:
        raise ConfigError(name, values[key].line, f"{key}: {error}") from error


def _seconds(text: str) -> float:
    if not _NUMBER.fullmatch(text) or float(text) > LONGEST:
        raise ValueError(f"{_quoted(text)} is no number of seconds: write one from 0 to {LONGEST}")
    return float(text)


def _positive(text: str) -> float:
    seconds = _seconds(text)
    if not seconds:
        raise ValueError("0 leaves no time to knock: write a number of seconds such as 5")
    return seconds


def _mark(text: str) -> int:
    try:
        mark = int(text, 0)
    except ValueError:
        mark = 0
    if not 0 < mark < 1 << 32 or mark & (mark - 1):
        raise ValueError(f"{_quoted(text)} is no single bit of the packet mark: write one such as 0x1000")
    return mark


def _classic(text: str) -> frozenset[str]:
    words = frozenset(item.strip().lower() for item in text.split(","))
    for word in sorted(words - CLASSIC):
        raise ValueError(f"{_quoted(word)} is no classic behaviour: possible are {', '.join(sorted(CLASSIC))}")
    return words


def _strays(text: str) -> int:
    return _number(text, "ports", 0, MOST_STRAYS)


def _knockers(text: str) -> int:
    return _number(text, "knockers", LEAST_KNOCKERS, MOST_KNOCKERS)


def _number(text: str, of: str, least: int, most: int) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or not least <= int(text) <= most:
        raise ValueError(f"{_quoted(text)} is no number of {of}: write one from {least} to {most}")
    return int(text)


def _path(text: str) -> str:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        encoding = sys.getfilesystemencoding()
        raise ValueError(f"the locale's encoding, {encoding}, cannot write this path: set LC_ALL=C.UTF-8") from None
    return text


def _control(text: str) -> str:
    if text.lower() == NO_CONTROL:
        return NO_CONTROL
    if not text.startswith("/"):
        raise ValueError(f"{_quoted(text)} is no path: write one from / on, or none")
    return _path(text)


def _tcpflags(text: str) -> TcpFlags:
    mask = value = 0
    for item in text.split(","):
        flag = item.strip().lower()
        clear = flag.startswith("!")
        bit = FLAGS.get(flag.lstrip("!").strip())
        if bit is None:
            raise ValueError(
                "unknown flag {}: possible are {}, each with a ! for not".format(_quoted(item), ", ".join(FLAGS))
            )
        wanted = 0 if clear else bit
        if mask & bit and value & bit != wanted:
            raise ValueError("{} must be both set and clear: keep one".format(flag.lstrip("!")))
        mask |= bit
        value |= wanted
    return TcpFlags(mask, value)


def _address(text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError:
        raise ValueError(f"{_quoted(text)} is no address: write one IPv4 or IPv6 address") from None


def _port_ranges(text: str) -> tuple[PortRange, ...]:
    ranges: list[PortRange] = []
    for item in text.split(","):
        match = _PORTS.fullmatch(item.strip())
        if not match:
            raise ValueError(f"{_quoted(item)} is no port: write 22/tcp or 60000-60010/udp")
        first, last = int(match.group(1)), int(match.group(2) or match.group(1))
        protocol = (match.group(3) or "tcp").lower()
        if protocol not in ("tcp", "udp"):
            raise ValueError(f"{_quoted(item)} has an unknown protocol: tcp and udp are possible")
        if not 1 <= first <= last <= 65535:
            raise ValueError(f"{_quoted(item)} is no port: ports go from 1 to 65535, the smaller first")
        ports = PortRange(first, last, protocol)
        for other in ranges:
            if _overlap(ports, other):
                raise ValueError(f"{other} and {ports} overlap: name each port once")
        ranges.append(ports)
    return tuple(ranges)


def _overlap(one: PortRange, other: PortRange) -> bool:
    return one.protocol == other.protocol and one.first <= other.last and other.first <= one.last


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(_network(item.strip()) for item in text.split(",")) if text else ()


def _network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{_quoted(text)} is no network: write one such as 198.18.0.0/24") from None
    raise ValueError(f"{text!r} has host bits: write {network}")


def _one_of(*words: str) -> Callable[[str], str]:
    def choose(text: str) -> str:
        if text.lower() not in words:
            raise ValueError("{} is not possible: write {}".format(_quoted(text), " or ".join(words)))
        return text.lower()

    return choose
