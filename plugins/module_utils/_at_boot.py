# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a boot can load a file of rules: it is loaded where nothing is that a boot does not have yet.

That is a network namespace of its own, so that there is no network, no live set and no other object of the kernel's
netfilter; and an empty /run, so that no daemon answers for names. /etc/hosts, and whatever else nsswitch.conf reads
from files, is there at boot, and so it is here. Sets are there if ipset-persistent restores them before the rules.
"""

from __future__ import annotations

import os
import re
from typing import Any, Sequence

REFUSED = 9
"""The exit status of what the rules are given to, as `as_at_boot` returns it. Any other one: it could not be tried."""

SHELL = """\
as_at_boot() { # NAMESPACES COMMAND...: status 9 if the command fails, another one if nothing can be tried here
    # shellcheck disable=SC2016,SC2086 # each namespace is a word; the script is for the inner shell
    unshare --net --mount $1 sh -c '
        shift
        for place in /run /sys/fs/bpf /var/lib/sss/pipes; do
            if [ -d "$place" ]; then mount -t tmpfs none "$place" || exit 1; fi
        done
        sets=/usr/share/netfilter-persistent/plugins.d/10-ipset
        if [ -x "$sets" ]; then "$sets" start </dev/null >/dev/null 2>&1; fi
        "$@" || exit 9' sh "$@"
}
"""

_CURE = (
    "At boot there is no network, no name service, and nothing that only lives in memory. Write addresses in place of "
    "names, or put the names into /etc/hosts; let the package ipset-persistent restore the sets (ipset save "
    ">/etc/iptables/ipsets); take the rule out of the file where neither helps"
)


class CannotTry(Exception):
    """Why nothing can be tried out here. That says nothing about any rule."""


def refusal(module: Any, command: Sequence[str], text: str, path: str) -> str:
    """What the command says against the text, in one line that quotes what it is about; empty if it takes it.

    `path`: a file that holds the text, for run_command ends the module if a command does not read all of its input.
    """
    # A control group of a service is there now, and not at boot: the namespace hides it
    script = SHELL + 'file=$1\nshift\nas_at_boot --cgroup "$@" <"$file"\n'
    status, out, err = module.run_command(["/bin/sh", "-c", script, "sh", path, *command])
    if status == 0:
        return ""
    answer = " ".join((err or out).split())
    if status != REFUSED:
        raise CannotTry(answer)
    what = re.sub(r" Error occurred at line.*", "", answer).rstrip(". ")
    return "%s refuses %s: %s" % (os.path.basename(command[0]), _quoted(answer, text), what)


def _quoted(answer: str, text: str) -> str:
    """The line that an answer is about. The kernel tells iptables-legacy no more than the table, at its end."""
    number = re.search(r"\bline:? (\d+)", answer) or re.search(r":(\d+):\d+", answer)
    lines = text.splitlines()[: int(number.group(1))] if number else []
    if lines and lines[-1] == "COMMIT":
        lines = [line for line in lines if line.startswith("*")]
    return "`%s`" % lines[-1].strip() if lines else "it"


def message(refused: Sequence[str]) -> str:
    """What keeps a boot from loading files, what has not been changed, and the cure."""
    return "Nothing has been changed, because of what the next boot would do. %s %s" % (" ".join(refused), _CURE)
