# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a change needs to know of the firewall that holds our rules, and which firewall that is."""

from __future__ import annotations

from typing import Any, Mapping, Protocol, Sequence

from ._change import Plan
from ._gates import Gate
from ._iptables import Iptables
from ._judge import Judgement
from ._loads import Load
from ._nftables_backend import Nftables


class Backend(Protocol):
    """Our rules as they shall be on a host, or none of them, for uninstalling."""

    @property
    def files(self) -> dict[str, str | None]:
        """Path to content of what the boot loads."""

    @property
    def is_installed(self) -> bool:
        """Whether the host has the commands."""

    def validate(self) -> None:
        """Let the host's commands read the rules as the boot will. Raises Failure."""

    def at_boot(self) -> list[str]:
        """What keeps the next boot from loading the files: each one with its line. Raises CannotTry."""

    def plan(self) -> Plan:
        """What has to change. Raises Failure where the commands would refuse it."""

    def judge(self, gates: Sequence[Gate]) -> Judgement:
        """Hold the rules, as text, to what the gates promise."""

    def loads(self) -> dict[str, Load]:
        """How the rules of each family, `v4` and `v6`, get into a kernel for a rehearsal, with the rules of others."""

    def make_live(self) -> None:
        """Change the live rules. Raises Failure."""

    def differs(self) -> list[str]:
        """The commands that list other rules than the wanted ones."""

    def originals(self) -> dict[str, str | None]:
        """The files as they were without us."""

    def left_behind(self, originals: Mapping[str, str] | None) -> dict[str, str | None]:
        """The files as they shall be without us; `originals` are those of before the first change, by base name."""


def wanted(module: Any) -> Backend:
    """The one whose rules the module was given."""
    if module.params["rules_nft"] is not None:
        return Nftables(module, module.params["rules_nft"])
    return Iptables(module, {"v4": module.params["rules_v4"], "v6": module.params["rules_v6"]})


def to_remove(module: Any) -> list[Backend]:
    """Those that may hold rules of ours."""
    both: list[Backend] = [Iptables(module, {"v4": "", "v6": ""}), Nftables(module, "")]
    return [backend for backend in both if backend.is_installed]
