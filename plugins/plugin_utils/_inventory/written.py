# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a value of an inventory must be like to be written into a file that a program or a shell reads. Pure.

Each function gives the text to write, which its reader takes for exactly this value, or says why there is none. What
would have to be quoted is refused where the readers of one file do not agree on how.
"""

from __future__ import annotations

import re
from typing import Any, Mapping

_BLANKS = " \t\r\n\v\f"
_USER = re.compile(r"[\w.+@][\w.+@:,/=~ -]*(?:\\[\w.+@][\w.+@:,/=~ -]*)?\$?")
_HOST = re.compile(r"[\w:][\w.:@%+-]*")
_PATH = re.compile(r"(?:/[\w.@+:,=-]*)+")
_INTERFACE = re.compile(r"[\w.:@+][\w.:@+-]{0,14}", re.ASCII)
_SECTION = re.compile(r"[^\[\]#\s](?:[^\[\]#]*[^\[\]#\s])?")


class NotWritable(ValueError):
    """A value that cannot be written; the message is a sentence without the name of the variable."""


def port(value: Any) -> str:
    """Write the number of a port."""
    text = str(value).strip()
    if isinstance(value, bool) or not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 65535):
        raise NotWritable("%r is not a port: ports go from 1 to 65535" % str(value))
    return str(int(text))


def user(value: Any) -> str:
    """Write the name of an account between double quotes in ssh_config, whose newer versions expand % and ${}."""
    if not _USER.fullmatch(str(value)) or " -" in str(value):  # valid_ruser in ssh.c
        raise NotWritable("%r is not the name of an account: quotes, #, %% and ${ are not possible" % str(value))
    return str(value)


def host(value: Any) -> str:
    """Write the name or address of a host as a pattern of ssh_config that is nothing but this host."""
    if not (_HOST.fullmatch(str(value)) and str(value).isprintable()):
        raise NotWritable("%r cannot be written as a Host of ssh_config" % str(value))
    return str(value)


def path(value: Any) -> str:
    """Write an absolute path that no reader splits, unquotes or expands."""
    if not (_PATH.fullmatch(str(value)) and str(value).isprintable()):
        raise NotWritable(
            "%r is not a plain path: it begins with /, and has letters, digits and . _ - + @ : , = only" % str(value)
        )
    return str(value)


def user_path(value: Any) -> str:
    """Write such a path for the shell of a user, which may begin with the user's home."""
    text = str(value)
    return "~" + path(text[1:]) if text.startswith("~/") else path(text)


def key_file(value: Any) -> str:
    """Write the path of a key between double quotes in ssh_config; ssh expands its % there, as it does for Ansible."""
    text = str(value)
    if not text.isprintable() or set(text) & set('"\\') or "${" in text:
        raise NotWritable("%r cannot be written as an IdentityFile of ssh_config" % text)
    return text


def interfaces(value: Any) -> str:
    """Write names of interfaces with commas, for a shell and for systemd, which both split and unquote."""
    names = [name.strip() for name in str(value).split(",")]
    for name in names:
        if not _INTERFACE.fullmatch(name):
            raise NotWritable("%r is not the name of an interface" % name)
    return ",".join(names)


def setting(value: Any) -> str:
    """Write the value of a key in knockd.conf, where a blank and # begin a comment."""
    text = _joined(value).strip(_BLANKS)
    if not text.isprintable() or re.search(r"(?:^|\s)#", text) or not text:
        raise NotWritable("%r cannot be the value of a key in knockd.conf: it is one line without a comment" % text)
    return text


def word(value: Any) -> str:
    """Write a key in knockd.conf; which ones there are is the daemon's to say."""
    if not re.fullmatch(r"\w+", str(value), re.ASCII):
        raise NotWritable("%r is not a key of knockd.conf" % str(value))
    return str(value)


def command(value: Any) -> str:
    """Write a command in knockd.conf, which is verbatim to the end of the line."""
    text = _joined(value).strip(_BLANKS)
    if set(text) & set("\n\0"):
        raise NotWritable("%r cannot be a command in knockd.conf: it is one line" % text)
    return text


def section(value: Any) -> str:
    """Write the name of a section in knockd.conf."""
    text = str(value)
    if not text.isprintable() or not _SECTION.fullmatch(text):
        raise NotWritable("%r cannot be the name of a section in knockd.conf" % text)
    return text


def _joined(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


_ALL = (port, user, host, path, user_path, key_file, interfaces, setting, word, command, section)
KINDS = {each.__name__: each for each in _ALL}
"""By their names."""


def check_host(name: str, variables: Mapping[str, Any]) -> None:
    """Refuse variables of a host that cannot be arguments or settings of ssh; the message names host and variable."""
    for variable, kind in _OF_A_HOST:
        value = variables.get(variable)
        if value not in (None, ""):
            try:
                kind(value)
            except NotWritable as error:
                raise NotWritable("%s of %s: %s" % (variable, name, error)) from None


_OF_A_HOST = (
    *(("knock_host", host), ("ansible_host", host)),
    *(("ansible_port", port), ("ansible_ssh_port", port), ("ansible_user", user), ("ansible_ssh_user", user)),
    *(("ansible_ssh_private_key_file", key_file), ("ansible_private_key_file", key_file)),
)
