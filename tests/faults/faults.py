# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The faults: what happens, at which step of a change, and what has to come of it. Read it as a table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Callable

from . import damages, strikes
from .backends import IPTABLES, NFTABLES, Backend
from .case import Case
from .damages import Damage
from .kinds import BOOKWORM, Kind
from .steps import (
    ANY,
    CONFIRMED,
    CONFIRMING,
    CONNECTING,
    FORGOTTEN,
    JUDGED,
    LATER,
    LIVE,
    REHEARSED,
    SAVED,
    STAGED,
    STEPS,
    TABLE_SAVED,
    UNDOING,
    UNJUDGED,
    UNREHEARSED,
    V4_LIVE,
    V4_SAVED,
    Step,
)

OPEN, CLOSED, KEPT = "open", "closed", "kept"
"""How the host is before: open to all; closed, and a change adds to the allowlist; closed, and nothing is to change."""


@dataclass(frozen=True)
class Fault:
    """One row for each kind of host that has the step."""

    name: str
    step: Step
    start: str
    expected: str
    strike: Callable[[Case], None]
    disk: str = ""
    """What lies on a small disk of its own: `rules` or `journal`."""
    on_legacy: str = ""
    """What is expected where the rules are iptables-legacy's, if that is something else: nft does not see them."""
    only: Backend | None = None
    """The backend that this can happen to, if it is not both."""

    @property
    def words(self) -> tuple[str, str, str]:
        return (self.name, self.step.name, self.start)

    def on(self, kind: Kind) -> Fault | None:
        """What it is there; None if it does not happen there."""
        if self.step not in kind.backend.way or self.only not in (None, kind.backend):
            return None
        return replace(self, expected=self.on_legacy or self.expected) if kind is BOOKWORM else self

    def accepted(self) -> tuple[str, ...]:
        """What may have happened, in the words of `Outcome.happened`."""
        return {
            "never began": ("never began",),
            "undone": ("undone",),
            "kept": ("kept",),
            "kept, the other's": ("kept, the other's",),
            "kept, one of the two": ("kept", "kept, the other's"),
        }[self.expected]


def at(name: str, strike: Callable[[Case], None], *steps: Step, host_dies: bool = False) -> list[Fault]:
    """The fault at each of these steps, on a host that is open before and one that is closed, in turns."""
    return [
        Fault(name, step, (OPEN, CLOSED)[number % 2], step.dies if host_dies else step.lives, strike)
        for number, step in enumerate(steps)
    ]


def candidate(what: str, damage: Damage, *unjudged: str) -> list[Fault]:
    """Broken rules: never applied; and where judging and rehearsing are left out, undone, as the proof fails.

    What cannot be seen from the controller, only judging can tell: `unjudged` names the starts where it can be seen.
    """
    name = "rules with " + what
    refused = "never began" if "syntax" in what else "undone"
    return [Fault(name, JUDGED, start, "never began", strikes.candidate(True, damage)) for start in (OPEN, CLOSED)] + [
        Fault(name, UNJUDGED, start, refused, strikes.candidate(False, damage)) for start in unjudged
    ]


FAULTS = [
    *at("controller killed", strikes.kill_controller, *STEPS),
    *at("network cut", strikes.cut_network, *STEPS),
    *at("power lost", strikes.lose_power, *STEPS[::-1], host_dies=True),
    *at("rebooted", strikes.reboot, *STEPS, host_dies=True),
    *at("module killed", strikes.kill_module, *STEPS[1:6], CONFIRMING, CONFIRMED, V4_SAVED, FORGOTTEN, host_dies=True),
    *at("module killed", strikes.kill_module, TABLE_SAVED, host_dies=True),
    *at("sshd stopped", strikes.stop_sshd, LIVE, CONNECTING, CONFIRMED),
    *at("sshd and its sessions killed", strikes.kill_sshd, V4_LIVE, CONFIRMED),
    Fault("the undoing killed", UNDOING, OPEN, "undone", strikes.kill_the_undoing),
    Fault("the undoing killed", UNDOING, CLOSED, "undone", strikes.kill_the_undoing),
    Fault("power lost", UNDOING, CLOSED, "undone", strikes.lose_power_at_the_undoing),
    Fault("the controller comes back", UNDOING, CLOSED, "kept", strikes.come_back_at_the_undoing),
    Fault("two controllers at once", ANY, CLOSED, "kept, one of the two", strikes.run_at_once),
    Fault("two controllers, one waits", V4_LIVE, CLOSED, "kept, one of the two", strikes.queue_up),
    Fault("two controllers, one waits", LIVE, CLOSED, "kept, one of the two", strikes.queue_up, only=NFTABLES),
    Fault("two controllers, one overtakes", CONNECTING, CLOSED, "kept, the other's", strikes.overtake),
    Fault("daemon stopped", LIVE, OPEN, "undone", strikes.stop_daemon),
    Fault("daemon stopped", LIVE, CLOSED, "undone", strikes.stop_daemon),
    Fault("daemon stopped", CONFIRMED, OPEN, "kept", strikes.stop_daemon),
    Fault("daemon crashed", LIVE, OPEN, "kept", strikes.crash_daemon),
    Fault("daemon crashed", CONFIRMED, CLOSED, "kept", strikes.crash_daemon),
    Fault("daemon crashed", LATER, KEPT, "kept", strikes.crash_daemon_later),
    Fault("daemon with another sequence", LIVE, OPEN, "undone", strikes.change_sequence),
    Fault("disk of the rules full", STAGED, OPEN, "kept", strikes.fill_disk, disk="rules"),
    Fault("disk of the rules full", SAVED, CLOSED, "never began", strikes.fill_disk, disk="rules"),
    Fault("disk of the journal full", SAVED, CLOSED, "never began", strikes.fill_disk, disk="journal"),
    Fault("disk of the journal full", LIVE, CLOSED, "kept", strikes.fill_disk, disk="journal"),
    Fault("nft flush ruleset", LIVE, OPEN, "undone", strikes.flush_rules, on_legacy="kept"),
    Fault("nft flush ruleset", CONFIRMED, OPEN, "kept", strikes.flush_rules),
    Fault("nft flush ruleset", LATER, KEPT, "kept", strikes.flush_kept_rules),
    Fault("systemctl reload nftables", CONNECTING, OPEN, "undone", strikes.reload_nftables, on_legacy="kept"),
    Fault("systemctl reload nftables", CONNECTING, CLOSED, "kept", strikes.reload_nftables),
    Fault("systemctl reload nftables", LATER, KEPT, "kept", strikes.reload_nftables_later),
    Fault("nftables and netfilter-persistent at boot", LATER, CLOSED, "kept", strikes.enable_nftables, only=IPTABLES),
    Fault("rules.v4 broken at boot", LATER, KEPT, "kept", strikes.break_saved_rules, only=IPTABLES),
    Fault("both files broken at boot", LATER, KEPT, "kept", strikes.break_all_saved_rules, only=IPTABLES),
    Fault("rules broken at boot", LATER, KEPT, "kept", strikes.break_saved_table, only=NFTABLES),
    Fault("foreign mark on every packet", ANY, OPEN, "kept", strikes.mark_everything),
    Fault("foreign mark on every packet", LATER, KEPT, "kept", strikes.mark_everything),
    Fault("conntrack -F", LIVE, OPEN, "kept", strikes.forget_connections),
    Fault("conntrack -F", CONFIRMED, CLOSED, "kept", strikes.forget_connections),
    *candidate("no ESTABLISHED rule", damages.NO_SESSIONS, OPEN, CLOSED),
    *candidate("no ESTABLISHED rule in IPv6", damages.NO_SESSIONS_6),
    *candidate("the allowlist forgotten", damages.NO_ALLOWLIST),
    *candidate("the allowlist forgotten in IPv6", damages.NO_ALLOWLIST_6),
    *candidate("IPv6 forgotten", damages.NO_IPV6),
    *candidate("a syntax error in IPv6", damages.NO_SENSE_6, OPEN),
    *candidate("the knock forgotten", damages.NO_KNOCK, OPEN, CLOSED),
    *candidate("nobody refused", damages.NO_REFUSAL, OPEN),
    Fault("another's chain drops knockers", REHEARSED, OPEN, "never began", strikes.drop_knockers(True)),
    Fault("another's chain drops knockers", REHEARSED, CLOSED, "never began", strikes.drop_knockers(True)),
    Fault("another's chain drops knockers", UNREHEARSED, OPEN, "undone", strikes.drop_knockers(False)),
    Fault("another's chain drops knockers", UNREHEARSED, CLOSED, "undone", strikes.drop_knockers(False)),
    Fault("fail2ban restarts", LIVE, OPEN, "kept", strikes.restart_fail2ban),
    Fault("fail2ban restarts", CONNECTING, CLOSED, "kept", strikes.restart_fail2ban),
    Fault("power lost", LATER, KEPT, "kept", strikes.lose_power_later),
]

SAMPLE = (
    ("trixie", "controller killed", "both live"),
    ("native", "controller killed", "rules saved"),
    ("trixie", "power lost", "IPv4 live, IPv6 not"),
    ("native", "power lost", "journal confirmed"),
    ("trixie", "module killed", "IPv4 live, IPv6 not"),
    ("trixie", "network cut", "before the new connection"),
    ("native", "systemctl reload nftables", "a change that was kept"),
    ("trixie", "rules.v4 broken at boot", "a change that was kept"),
)
"""What `make test` runs of it."""
