# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person's own configuration of ssh says of a jump host, which our ProxyCommand would make ssh ignore.

Asking ssh takes some milliseconds, so that it is asked only if a file of the configuration speaks of such things at
all, and once for each host in a process.
"""

from __future__ import annotations

import glob
import os
import pwd
import re
import shlex
import subprocess
from functools import lru_cache
from typing import NamedTuple, Optional

SYSTEM = "/etc/ssh/ssh_config"
_INCLUDE = re.compile(r"^[ \t]*include[ \t=]+(.+)$", re.IGNORECASE | re.MULTILINE)
# Every ProxyCommand, but none, ours, and the one of systemd, which is for machines that no network reaches.
_JUMPS = re.compile(
    r"^[ \t]*(?:proxyjump\b|proxycommand\b(?!.*(?:knock-proxy|systemd-ssh-proxy))(?![ \t=]*none[ \t]*$))",
    re.IGNORECASE | re.MULTILINE,
)
_DEEPEST = 16  # READCONF_MAX_DEPTH in readconf.c


class Configured(NamedTuple):
    """What the configuration says for one host."""

    jump: str = ""
    """As in ProxyJump; empty without one."""
    command: str = ""
    """A ProxyCommand of the user's own, which ours would replace; empty without one."""


@lru_cache(maxsize=1024)
def look_up(host: str, port: str = "", user: str = "", file: Optional[str] = None) -> Configured:
    """Ask ssh for a host, as it would be called."""
    if not host or host.startswith("-") or not speaks_of_jumps(file):
        return Configured()
    words = ["ssh", "-G"]
    for option, value in (("-F", file), ("-p", port), ("-l", user)):
        words += [option, value] if value else []
    try:
        done = subprocess.run([*words, host], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return Configured()  # ssh will say it
    found = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    jump, command = found.get("proxyjump", "none"), found.get("proxycommand", "")
    if command.lower() == "none" or "knock-proxy" in command:
        command = ""
    return Configured("" if jump.lower() == "none" else jump, command)


@lru_cache(maxsize=16)
def speaks_of_jumps(file: Optional[str] = None) -> bool:
    """Does any file of the configuration name a jump host, for whomever? `file` is in place of the usual ones (-F)."""
    ssh = os.path.join(pwd.getpwuid(os.getuid()).pw_dir, ".ssh")  # as ssh does, whatever $HOME is
    if file:
        return file.lower() != "none" and _speaks(os.path.expanduser(file), ssh, 0)
    return _speaks(os.path.join(ssh, "config"), ssh, 0) or _speaks(SYSTEM, os.path.dirname(SYSTEM), 0)


def _speaks(path: str, directory: str, depth: int) -> bool:
    try:
        with open(path, encoding="utf-8", errors="replace") as config:
            text = config.read()
    except OSError:
        return False
    if _JUMPS.search(text):
        return True
    if depth == _DEEPEST:
        return False
    for line in _INCLUDE.findall(text):
        try:
            patterns = shlex.split(line, comments=True)
        except ValueError:
            continue
        for pattern in patterns:
            for included in glob.glob(os.path.join(directory, os.path.expanduser(pattern))):
                if _speaks(included, directory, depth + 1):
                    return True
    return False
