# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manual: every key, option and event there is, and none that there is not."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from knockd import __main__, config, knockctl
from knockd.log import MESSAGE_IDS
from knockd.model import CLASSIC, Settings

ROLES = Path(__file__).parents[3] / "roles"
MANUAL = ROLES / "knockd" / "files" / "man"


def page(name: str) -> str:
    return (MANUAL / name).read_text()


def test_knockd_conf_documents_every_key_and_no_other() -> None:
    keys = re.findall(r"^\.(?:It )?Ic (\w+)(?: No =.*)?$", page("knockd.conf.5"), re.MULTILINE)
    documented = {key.lower() for key in keys}
    known = {*config.OPTIONS, *config.DOOR, *config.GUARD, *config.ALIASES}
    assert documented == known


def test_knockd_conf_documents_every_classic_behaviour() -> None:
    assert set(re.findall(r"^\.It Cm (\w+)$", page("knockd.conf.5"), re.MULTILINE)) == CLASSIC


def test_defaults_in_the_manual_are_those_of_the_daemon() -> None:
    text = " ".join(page("knockd.conf.5").split())
    assert "by default %#x" % Settings.mark in text
    assert "by default %d, at most %d" % (Settings.strays, config.MOST_STRAYS) in text


@pytest.mark.parametrize(("name", "parser"), [("knockd.8", __main__.parser()), ("knockctl.8", knockctl.parser())])
def test_every_option_is_documented(name: str, parser: argparse.ArgumentParser) -> None:
    text = page(name)
    for action in parser._actions:
        for option in action.option_strings:
            flag = "Fl -" + option[2:] if option.startswith("--") else "Fl " + option[1:]
            assert re.search(r"\b%s\b" % flag, text), option
        for command in action.choices or ():
            assert re.search(r"^\.It Cm %s\b" % command, text, re.MULTILINE), command


def test_every_event_of_the_journal_is_documented() -> None:
    listed = page("knockd.8").partition(".It Va KNOCKD_EVENT\n")[2].partition(".It")[0]
    assert set(re.findall(r"\w+", listed)) - {"or"} == set(MESSAGE_IDS)


def test_every_option_of_knock_is_documented() -> None:
    usage = (ROLES / "knock_client" / "files" / "sesame_knock" / "knock.py").read_text().partition('"""\\')[2]
    text = (ROLES / "knock_client" / "files" / "man" / "knock.1").read_text()
    options = re.findall(r"^  -(\w), --(\w+)", usage, re.MULTILINE)
    assert len(options) > 5
    for short, long in options:
        assert ".It Fl %s , Fl -%s" % (short, long) in text
