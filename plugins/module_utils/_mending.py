# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The script that keeps a host as the last change has left it: our live rules, and the files that the boot loads.

A file that somebody has changed is theirs, as long as it can be loaded. One that cannot, by a typing mistake or a crash
in the middle of an editor's write, would leave the host without any of its rules after a boot. So would one that nobody
has changed where what it names is gone: a set, a user, a line of /etc/hosts. Then our rules alone are put there.
"""

from __future__ import annotations

from shlex import quote
from typing import Mapping, NamedTuple

from ._at_boot import REFUSED, SHELL


class Saved(NamedTuple):
    """A file that the boot loads."""

    text: str
    ours: str
    """The file without the rules of others."""
    load: str
    """The command that loads what it reads from its standard input."""
    check: str
    """One that only reads it, for a host where nothing can be loaded for a trial."""


_FILES = (
    """\
if [ "${1-}" = files ]; then
    failed=0
"""
    + "".join("    %s\n" % line for line in SHELL.splitlines())
    + """
    loads() { # LOAD CHECK [KEPT]: what standard input holds; what was kept could be loaded then
        # shellcheck disable=SC2086 # both are commands with arguments
        as_at_boot '' $1 >/dev/null 2>&1
        case $? in
        0) ;;
        @REFUSED@) return 1 ;;
        *) [ -n "${3-}" ] || $2 >/dev/null 2>&1 ;;
        esac
    }
    mend() { # PATH LOAD CHECK TEXT OURS
        same=
        if printf '%s\\n' "$4" | cmp -s - "$1"; then same=1; fi
        if [ -s "$1" ] && loads "$2" "$3" "$same" <"$1"; then return; fi
        if [ -z "$same" ] && printf '%s\\n' "$4" | loads "$2" "$3" kept; then
            text=$4 what='What the last change has left there is back'
        elif ! printf '%s\\n' "$5" | cmp -s - "$1" && printf '%s\\n' "$5" | loads "$2" "$3"; then
            text=$5 what='Our rules alone are there now'
        else
            echo "$1 cannot be loaded, and nothing that could take its place can, so it stays as it is" >&2
            failed=1
            return
        fi
        if ! (umask 022 && mkdir -p "${1%/*}") || ! (umask 027 && printf '%s\\n' "$text" >"$1.mended"); then
            rm -f "$1.mended"
            failed=1
            return
        fi
        broken=$1.$(date +%FT%T)~
        if [ -e "$broken" ]; then broken=${broken%"~"}.$$~; fi # a change of the same second
        if [ -e "$1" ]; then ln "$1" "$broken"; else broken='not there any more'; fi
        mv -f "$1.mended" "$1" || failed=1
        sync "${1%/*}"
        echo "$1 could not be loaded. $what; what was there is $broken" >&2
    }
"""
)


def keep_script(rules: str, files: Mapping[str, Saved]) -> str:
    """The script `rules`, which gives our rules their content, and before it what `files` as its argument does."""
    shebang, dummy, rest = rules.partition("\n")
    mends = [
        "    mend %s %s %s %s %s"
        % (
            quote(path),
            quote(saved.load),
            quote(saved.check),
            quote(saved.text.rstrip("\n")),
            quote(saved.ours.rstrip("\n")),
        )
        for path, saved in files.items()
    ]
    return "\n".join(
        [shebang, _FILES.replace("@REFUSED@", str(REFUSED)) + "\n".join(mends), "    exit $failed", "fi", rest]
    )
