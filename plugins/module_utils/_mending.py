# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The script that keeps a host as the last change has left it: our live rules, and the files that the boot loads.

A file that somebody has changed is theirs, as long as it can be loaded. One that cannot, by a typing mistake or a crash
in the middle of an editor's write, would leave the host without any of its rules after a boot.
"""

from __future__ import annotations

from shlex import quote
from typing import Mapping, NamedTuple


class Saved(NamedTuple):
    """A file that the boot loads."""

    text: str
    test: str
    """The command that reads it from its standard input, and fails where the boot would."""


_FILES = """\
if [ "${1-}" = files ]; then
    failed=0
    mend() { # PATH TEST: standard input is what the last change has left there
        text=$(cat)
        if [ -s "$1" ] && { [ "$(cat "$1")" = "$text" ] || $2 <"$1" >/dev/null 2>&1; }; then return; fi
        if ! mkdir -p "${1%/*}" || ! (umask 027 && printf '%s\\n' "$text" >"$1.mended"); then
            rm -f "$1.mended"
            failed=1
            return
        fi
        broken=$1.$(date +%FT%T)~
        if [ -e "$1" ]; then ln "$1" "$broken"; else broken='not there any more'; fi
        mv -f "$1.mended" "$1" || failed=1
        sync "${1%/*}"
        echo "$1 could not be loaded. What the last change has left there is back; what was there is $broken" >&2
    }
"""


def keep_script(rules: str, files: Mapping[str, Saved]) -> str:
    """The script `rules`, which gives our rules their content, and before it what `files` as its argument does."""
    shebang, dummy, rest = rules.partition("\n")
    mends = [
        "    mend %s %s <<'KNOCK-FILE'\n%s\nKNOCK-FILE" % (quote(path), quote(saved.test), saved.text.rstrip("\n"))
        for path, saved in files.items()
    ]
    return "\n".join([shebang, _FILES + "\n".join(mends), "    exit $failed", "fi", rest])
