# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Our chains by the iptables commands that a host's alternatives name, iptables-nft and iptables-legacy alike."""

from __future__ import annotations

import functools
import os
from typing import Any, Mapping, NamedTuple, Sequence

from ._at_boot import refusal
from ._change import Failure, Plan
from ._files import read, write
from ._gates import Gate
from ._judge import Case, Judgement, judge_all
from ._loads import Load, iptables_load
from ._mending import Saved, keep_script
from ._nftables import managed_by_iptables, of_others
from ._rules import (
    OWN_CHAINS,
    OWN_JUMPS,
    Table,
    after,
    chain_of,
    delta,
    foreign,
    has_own,
    jumps_of_others,
    leads,
    own_text,
    parse,
    parse_ports,
    place_of,
    render,
    target_of,
    value_of,
    words_of,
)
from ._saved import sort
from ._walk import base_chains


class Family(NamedTuple):
    name: str
    command: str
    file: str


FAMILIES = (
    Family("v4", "iptables", "/etc/iptables/rules.v4"),
    Family("v6", "ip6tables", "/etc/iptables/rules.v6"),
)

Rules = Mapping[str, Mapping[str, Table]]
"""Family name to tables."""


class Iptables:
    """The live rules of a host, and the two files that netfilter-persistent loads at boot."""

    def __init__(self, module: Any, texts: Mapping[str, str]) -> None:
        self._module = module
        self.texts = dict(texts)
        """Family name to the whole text of its file; empty to remove our chains."""
        self.wanted = {name: parse(text) for name, text in self.texts.items()}

    @property
    def files(self) -> dict[str, str | None]:
        return {family.file: self.texts[family.name] for family in FAMILIES}

    def validate(self) -> None:
        """Let iptables-restore read the files as the boot will."""
        for family in FAMILIES:
            self._restore(family, self.texts[family.name], "--test")

    def at_boot(self) -> list[str]:
        """What keeps the next boot from loading the files: each one with its line. Raises CannotTry."""
        found = []
        for family in filter(is_there, FAMILIES):
            command, text = self._path(family.command + "-restore"), self.texts[family.name]
            if command and text:
                said = refusal(self._module, [command, "-w", "10"], text, self._candidate(family, text))
                found += ["%s could not be loaded: %s." % (family.file, said)] if said else []
        return found

    def live(self) -> dict[str, dict[str, Table]]:
        """The tables as they are now; none on a host that has no iptables yet (which only check mode may meet)."""
        return {family.name: self._live(family) for family in FAMILIES}

    @functools.cached_property
    def _before(self) -> dict[str, dict[str, Table]]:
        """The tables that a change begins with: planned, judged and rehearsed are the same ones."""
        return self.live()

    def plan(self) -> Plan:
        """What has to change. Raises Failure where iptables-restore would refuse it."""
        live = self._before
        self._refuse_what_others_use(live)
        deltas = self._deltas(live)
        for family in FAMILIES:
            self._restore(family, deltas.get(family.name, ""), "--noflush", "--test")
        return Plan(
            changes_live=any(deltas.values()),
            undo=script(live, moved=True),
            keep=self._keep() if any(map(has_own, self.wanted.values())) else None,
            diff=[
                ("live rules of %s" % family.command, own_text(live[family.name]), own_text(self.wanted[family.name]))
                for family in FAMILIES
            ],
        )

    def judge(self, gates: Sequence[Gate]) -> Judgement:
        """Hold what would be live, and what the next boot would load, to what the gates promise."""
        live = self._before
        cases = []
        for family in filter(is_there, FAMILIES):
            wanted = self.wanted[family.name]
            for tables, when in ((after(live[family.name], wanted), ""), (wanted, "After the next boot: ")):
                cases.append(Case(base_chains(tables, family.name), family.name, when))
        return judge_all(cases, gates)

    def loads(self) -> dict[str, Load]:
        """How each family's rules, those of others included, get into a kernel for a rehearsal."""
        live, others = self._before, ""
        nft = self._path("nft")
        if nft:
            dummy, listing, warnings = self._module.run_command([nft, "-s", "list", "ruleset"])
            others = of_others(listing, managed_by_iptables(warnings))
        return {
            family.name: iptables_load(
                self._path(family.command + "-restore") or "",
                after(live[family.name], self.wanted[family.name]),
                nft or "nft",
                others,
            )
            for family in FAMILIES
            if is_there(family)
        }

    def make_live(self) -> None:
        """Apply both families; again where a command door's hole has closed meanwhile, which makes places wrong."""
        for attempts_left in (2, 1, 0):
            try:
                for family, text in self._deltas(self.live()).items():
                    self._restore(_family(family), text, "--noflush")
                return
            except Failure:
                if not attempts_left:
                    raise

    def differs(self) -> list[str]:
        """The commands that list other rules than the wanted ones, compared as text."""
        return [_family(name).command + "-save" for name, text in self._deltas(self.live()).items() if text]

    def originals(self) -> dict[str, str | None]:
        """The files as they were without us."""
        return {family.file: without_own(read(family.file)) for family in FAMILIES}

    def left_behind(self, originals: Mapping[str, str] | None) -> dict[str, str | None]:
        """The files as they shall be without us: of before, but what others have saved since counts more than that."""
        files = {}
        for path, rest in self.originals().items():
            original = None if originals is None else originals.get(os.path.basename(path))
            is_unchanged = originals is not None and is_all_that_was_kept(rest, original, read(path))
            files[path] = original if is_unchanged else rest
        return files

    @property
    def is_installed(self) -> bool:
        return self._path(FAMILIES[0].command + "-save") is not None

    def _path(self, command: str) -> str | None:
        path: str | None = self._module.get_bin_path(command, opt_dirs=["/sbin", "/usr/sbin"])
        return path

    def _keep(self) -> str:
        files = {
            family.file: Saved(
                self.texts[family.name],
                render(own(self.wanted[family.name])),
                load="%s-restore -w 10" % family.command,
                check="%s-restore -w 10 --test" % family.command,
            )
            for family in FAMILIES
            if is_there(family)
        }
        return keep_script(script(self.wanted), files)

    def _deltas(self, live: Rules) -> dict[str, str]:
        return {
            family.name: delta(dict(live[family.name]), self.wanted[family.name])
            for family in FAMILIES
            if is_there(family)
        }

    def _refuse_what_others_use(self, live: Rules) -> None:
        found = [
            (family.command, table, rule)
            for family in FAMILIES
            for table, rule in dict.fromkeys(jumps_of_others(dict(live[family.name]), self.wanted[family.name]))
        ]
        if found:
            raise Failure(
                "Nothing has been changed: chains of ours are to go, and rules that are not ours lead to them: %s. "
                "Remove these first, and from what makes them: %s"
                % (
                    "; ".join("`%s` in table %s of %s" % (rule, table, command) for command, table, rule in found),
                    "; ".join("%s -t %s -D%s" % (command, table, rule[2:]) for command, table, rule in found),
                )
            )

    def _live(self, family: Family) -> dict[str, Table]:
        command = self._path(family.command + "-save")
        if not is_there(family) or (command is None and self._module.check_mode):
            return {}
        if command is None:
            raise Failure("%s-save is missing: install iptables" % family.command)
        status, out, err = self._module.run_command([command])
        if status != 0:
            raise Failure("%s-save failed: %s" % (family.command, err.strip()))
        return parse(out)

    def _restore(self, family: Family, text: str, *options: str) -> None:
        """Feed text to iptables-restore; it takes a table whole or not at all."""
        if not text or not is_there(family):
            return
        command = self._path(family.command + "-restore")
        if command is None and self._module.check_mode:
            return
        status, out, err = self._module.run_command(
            [command or family.command + "-restore", "-w", "10", *options, self._candidate(family, text)]
        )
        if status != 0:
            answer = (err or out).strip()
            raise Failure("%s-restore %s refused the rules: %s" % (family.command, " ".join(options), answer))

    def _candidate(self, family: Family, text: str) -> str:
        """A file that holds the text: run_command ends the module if a command does not read all of its input."""
        path: str = os.path.join(self._module.tmpdir, "rules." + family.name)
        write(path, text)
        return path


def _family(name: str) -> Family:
    return next(family for family in FAMILIES if family.name == name)


def is_there(family: Family) -> bool:
    """Whether the host has the family at all: a kernel without IPv6 has nothing to protect."""
    return family.name == "v4" or os.path.isdir("/proc/sys/net/ipv6")


def is_all_that_was_kept(rest: str | None, original: str | None, ours: str | None) -> bool:
    """Whether others have changed nothing in our file: bans, and holes in what it protects, were never in it."""
    protected = [
        parse_ports("%s/%s" % (value_of(words_of(rule), "--dport").replace(":", "-"), value_of(words_of(rule), "-p")))
        for rule in parse(ours or "").get("filter", Table()).rules_of("KNOCK")
        if target_of(rule) == "KNOCK-ADMIT" and value_of(words_of(rule), "--dport")
    ]
    kept = sort(foreign(parse(original or "")), protected).kept
    return _essence(kept) == _essence(foreign(parse(rest or "")))


def _essence(tables: dict[str, Table]) -> dict[str, Any]:
    """Rules, chains and policies, without what only says that a chain accepts as ever."""
    return {
        name: (table.rules, {chain: policy for chain, policy in table.chains.items() if policy != "ACCEPT"})
        for name, table in tables.items()
    }


def own(tables: Mapping[str, Table]) -> dict[str, Table]:
    """Our chains and the jumps to them, in tables that let everything else pass."""
    found = {}
    for name, chains in OWN_CHAINS.items():
        table = tables.get(name, Table())
        jumps = ["-A %s -j %s" % jump for jump in OWN_JUMPS[name]]
        found[name] = Table(
            {
                chain: "-" if policy == "-" else "ACCEPT"
                for chain, policy in table.chains.items()
                if policy != "-" or chain in chains
            },
            [rule for rule in table.rules if rule in jumps or chain_of(rule) in chains],
        )
    return found


def without_own(text: str | None) -> str | None:
    """A file of saved rules as it was before us; None where there was none, or nothing but ours."""
    if text is None or not has_own(parse(text)):
        return text
    return render(foreign(parse(text))) or None


# --- scripts that need no Python -------------------------------------------------------------------------------------

_HEAD = """\
#!/bin/sh
# Gives the KNOCK chains of this host the content below, both families, and touches no other chain. Written by the
# module sesame.knock.firewall; run by the command knock-firewall.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
failed=0
is_check=${1-} # else it is an undoing, of which nobody has to hear more

own() { # COMMAND TABLE: our chains and what leads to them, as they are now
    "$1-save" -t "$2" 2>/dev/null | sed -n '@OWN@' | LC_ALL=C sort -s -k 2,2
}

transaction() { # COMMAND TABLE PLACES CHAINS WANTED: for COMMAND-restore --noflush
    ours=$(own "$1" "$2")
    others=$("$1-save" -t "$2" | grep '^-A ' | grep -vxF "$ours")
    echo "*$2"
    for chain in $4; do echo ":$chain - [0:0]"; done # creates it, or empties it
    echo "$5" | grep '^-A KNOCK'
    for place in $3; do
        from=${place%=*} place=${place#*=}
        there=$(echo "$ours" | grep "^-A $from ")
        asked=$(echo "$5" | grep "^-A $from ")
        if [ "$place" = 0 ] && [ "$there" = "$asked" ]; then continue; fi
        echo "$there" | sed -n 's/^-A /-D /p'
        last=$(($(printf '%s\\n' "$others" | grep -c "^-A $from ") + 1))
        place=$((place == 0 ? 1 : place < last ? place : last))
        echo "$asked" | sed -n "s/^-A $from /-I $from $place /p"
    done
    for chain in $4; do
        if echo "$5" | grep -q "^:$chain -\\$"; then continue; fi
        # Where somebody else leads to it, it stays, and is empty: the rest would not come back either
        if printf '%s\\n' "$others" | grep -q -- " -[jg] $chain\\$"; then continue; fi
        echo "-X $chain"
    done
    echo COMMIT
}

bring() { # COMMAND TABLE PLACES CHAINS: to what standard input says; a place of 0 does not matter
    wanted=$(cat)
    if [ "$1" = ip6tables ] && [ ! -d /proc/sys/net/ipv6 ]; then return; fi
    case $3 in
    *=[1-9]*) ;;
    *) if [ "$(own "$1" "$2")" = "$wanted" ]; then return; fi ;;
    esac
    for _ in 1 2 3; do # the rules of others may change between reading and writing
        if transaction "$1" "$2" "$3" "$4" "$wanted" | "$1-restore" -w 10 --noflush; then
            [ -z "$is_check" ] || echo "put back our rules of $1, table $2" >&2
            return
        fi
    done
    failed=1
}
"""


def script(rules: Rules, moved: bool = False) -> str:
    """A shell script that gives our chains the content that they have in `rules`, or removes them.

    With `moved`, a jump of ours goes back to its place even where it is there: it was not the first, and is now.
    """
    every = [chain for chains in OWN_CHAINS.values() for chain in chains]
    either = r"\(%s\)" % r"\|".join(every)
    jumps = r"\(%s\)" % r"\|".join("%s -j %s" % jump for jumps in OWN_JUMPS.values() for jump in jumps)
    own = r"s/ \[[0-9]*:[0-9]*\]$//; /^:%s -$/p; /^-A %s /p; /^-A %s$/p" % (either, either, jumps)
    parts = [_HEAD.replace("@OWN@", own)]
    for family in FAMILIES:
        for name, chains in OWN_CHAINS.items():
            table = rules.get(family.name, {}).get(name, Table())
            lines = _own_lines(table, chains, OWN_JUMPS[name])
            places = [
                (builtin, place_of(table, chain, builtin) if moved and not leads(table, chain, builtin) else 0)
                for builtin, chain in OWN_JUMPS[name]
            ]
            where = " ".join("%s=%d" % place for place in places)
            call = "bring %s %s '%s' '%s' <<'RULES'" % (family.command, name, where, " ".join(chains))
            parts.append("\n".join(["", call, *lines, "RULES", ""]))
    return "".join(parts) + "exit $failed\n"


def _own_lines(table: Table, chains: tuple[str, ...], jumps: tuple[tuple[str, str], ...]) -> list[str]:
    """As `own` of the script prints them."""
    lines = [":%s -" % chain for chain in chains if chain in table.chains]
    lines += list(dict.fromkeys(rule for rule in table.rules if rule in ["-A %s -j %s" % jump for jump in jumps]))
    lines += [rule for rule in table.rules if chain_of(rule) in chains]
    return sorted(lines, key=lambda line: line.split()[1])
