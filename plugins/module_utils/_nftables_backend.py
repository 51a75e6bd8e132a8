# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Our table by nft, for hosts whose firewall is nftables itself: one table for both families, and one file of it."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Mapping, Sequence

from . import _nftables
from ._at_boot import CannotTry, message, refusal
from ._change import Failure, Plan
from ._files import read, write
from ._gates import Gate
from ._judge import Case, Judgement, judge_all
from ._loads import Load, nftables_load
from ._mending import Saved, keep_script
from ._native_rules import Texts, native_chains
from ._nftables import DAEMONS_TABLE, FILE, LISTING, SCRATCH, TABLE, WITH_HANDLES, NftablesError, managed_by_iptables

_NAMESPACES = (["unshare", "--net"], ["unshare", "--user", "--map-root-user", "--net"])
"""Where a candidate is loaded to see how nft lists it: the second for root in a container who may not do the first."""

_GIVEN = "/proc/self/fd/0"
"""Standard input. By its name `-`, nft takes zeros for an empty file; a boot, which names the file, does not."""

_IPTABLES = ("iptables", "ip6tables")


class Nftables:
    """The live table of a host, and the file that knock-firewall.service loads at boot."""

    def __init__(self, module: Any, text: str) -> None:
        self._module = module
        self.text = text
        """The whole file; empty to remove our table."""
        self._wanted: str | None = None

    @property
    def files(self) -> dict[str, str | None]:
        return {FILE: self.text or None}

    def validate(self) -> None:
        """Let nft read the file as the boot will, and see that it is our table and nothing else."""
        if self._is_ready():
            self._load("-c")
            self.wanted()

    def at_boot(self) -> list[str]:
        """What keeps the next boot from loading the file. Raises CannotTry."""
        nft = self._nft()
        if not nft or not self.text:
            return []
        said = refusal(self._module, [nft, "-f", _GIVEN], self.text, self._candidate())
        return ["%s could not be loaded: %s." % (FILE, said)] if said else []

    def live(self) -> str:
        """Our table as nft lists it; empty where there is none."""
        return str(self._module.run_command([self._nft(), *LISTING])[1]) if self._is_ready() else ""

    def wanted(self) -> str:
        """The table of the file as this host's nft lists it. Raises Failure if the file is more than our table."""
        if self._wanted is None:
            self._wanted = self._listed() if self.text else ""
        return self._wanted

    def plan(self) -> Plan:
        """What has to change."""
        if not self._is_ready():
            return Plan(bool(self.text), "", None, [("live table " + TABLE, "", self.text)])
        live, wanted = self.live(), self.wanted()
        saved = Saved(self.text, self.text, load="nft -f " + _GIVEN, check="nft -c -f " + _GIVEN)
        return Plan(
            changes_live=_nftables.differs(live, wanted),
            undo=script(live),
            keep=keep_script(script(wanted), {FILE: saved}) if wanted else None,
            diff=[("live table " + TABLE, live, wanted)],
        )

    def judge(self, gates: Sequence[Gate]) -> Judgement:
        """Hold our table beside the live ones of others, and alone as the next boot would load it, to the gates.

        The tables of iptables are left to the rehearsal: nft does not know all that is in them.
        """
        if not self.text or not self._is_ready():
            return Judgement([], [])
        own = _nftables.read_with_handles(self._in_scratch(WITH_HANDLES))
        dummy, live, warnings = self._module.run_command(["sh", "-c", WITH_HANDLES, "sh"])
        others = _nftables.read_with_handles(live)
        without = [TABLE, DAEMONS_TABLE, *managed_by_iptables(warnings)]
        cases = []
        for family in ("v4", "v6"):
            ours = native_chains(own[0], Texts.of(own[1]), family, main=TABLE)
            theirs = native_chains(others[0], Texts.of(others[1]), family, without=without)
            cases += [Case(ours + theirs, family), Case(ours, family, "After the next boot: ")]
        return judge_all(cases, gates)

    def loads(self) -> dict[str, Load]:
        """How our table, and the rules of others, get into a kernel for a rehearsal."""
        nft = self._nft() or ""
        dummy, listing, warnings = self._module.run_command([nft, "-s", "list", "ruleset"])
        by_iptables = [
            ([restore], self._module.run_command([save])[1])
            for restore, save in ((self._path(name + "-restore"), self._path(name + "-save")) for name in _IPTABLES)
            if restore and save
        ]
        load = nftables_load(nft, self.text, _nftables.of_others(listing, managed_by_iptables(warnings)), by_iptables)
        return {"v4": load, "v6": load}

    def make_live(self) -> None:
        """Swap our table for the wanted one, in one transaction."""
        if self.text or self.live():
            self._load()

    def differs(self) -> list[str]:
        """The commands whose live rules are not the wanted ones."""
        return ["nft"] if _nftables.differs(self.live(), self.wanted()) else []

    def originals(self) -> dict[str, str | None]:
        """The file is ours alone."""
        return {FILE: None}

    def left_behind(self, originals: Mapping[str, str] | None) -> dict[str, str | None]:
        return {FILE: None}

    @property
    def is_installed(self) -> bool:
        return self._nft() is not None

    def _listed(self) -> str:
        try:
            return _nftables.read_scratch(self._in_scratch(SCRATCH))
        except NftablesError as error:
            raise Failure(str(error)) from None

    def _in_scratch(self, script: str) -> str:
        """Run a script with the candidate's path in a network namespace of its own."""
        for namespace in _NAMESPACES:
            status, out, err = self._module.run_command([*namespace, "sh", "-c", script, "sh", self._candidate()])
            if status == 0:
                return str(out)
        with contextlib.suppress(CannotTry):  # it may be the rules, and not the namespace
            refused = self.at_boot()
            if refused:
                raise Failure(message(refused))
        raise Failure(
            "The rules cannot be tried in a network namespace of their own, which backend nftables needs: %s"
            % (err or out).strip()
        )

    def _candidate(self) -> str:
        path = os.path.join(self._module.tmpdir, "rules.nft")
        text = self.text or _nftables.REMOVE
        if read(path) != text:
            write(path, text)
        return path

    def _nft(self) -> str | None:
        return self._path("nft")

    def _path(self, command: str) -> str | None:
        path: str | None = self._module.get_bin_path(command, opt_dirs=["/sbin", "/usr/sbin"])
        return path

    def _is_ready(self) -> bool:
        """Only check mode may meet a host that has no nft yet."""
        if not self.is_installed and not self._module.check_mode:
            raise Failure("nft is missing: install nftables")
        return self.is_installed

    def _load(self, *options: str) -> None:
        status, out, err = self._module.run_command([self._nft(), *options, "-f", self._candidate()])
        if status != 0:
            answer = (err or out).strip()
            raise Failure("%s refused the rules: %s" % (" ".join(["nft", *options, "-f"]), answer))


# --- scripts that need no Python -------------------------------------------------------------------------------------

_SCRIPT = """\
#!/bin/sh
# Gives table {table} of this host the content below, and touches no other table. Written by the
# module sesame.knock.firewall; run by the command knock-firewall.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
wanted=$(cat <<'RULES'
{listing}
RULES
)
[ "$(nft -s list table {table} 2>/dev/null)" = "$wanted" ] && exit 0
nft -f - <<RULES || exit 1
{remove}$wanted
RULES
[ -z "${{1-}}" ] || echo "put back table {table}" >&2
"""


def script(listing: str) -> str:
    """A shell script that gives our table the content of a listing, or removes it, where it is not so already."""
    return _SCRIPT.format(table=TABLE, listing=listing.strip("\n"), remove=_nftables.REMOVE)
