# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The faults: what happens, at which step of a change, and what has to come of it. Read it as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, NamedTuple

from . import strikes
from .case import Case

CHANGE = "/var/lib/knock_firewall/change"
TIMER = "systemd-run *knock-firewall-revert*"


class Step(NamedTuple):
    """A moment of a change, in the order of a change, and what becomes of it from there."""

    name: str
    moments: tuple[str, ...] = ()
    """What the host is held at; see trap.c."""
    dies: str = ""
    """What becomes of the change if the host is the one that dies: `never began`, `undone` or `kept`."""
    lives: str = ""
    """The same if the controller dies, and what runs on the host goes on."""
    then: tuple[str, ...] = ()
    """After those moments, the host is held at these."""
    then_next_connection: bool = False
    """After those moments, the controller is held before it connects again."""


def moments_of(what: str, *paths: str) -> tuple[str, ...]:
    return tuple("%s %s" % (what, path) for path in paths)


V4 = moments_of("after run", "iptables-restore -w 10 --noflush /*")
BOTH = moments_of("after run", "ip6tables-restore -w 10 --noflush /*")
CONNECTION = moments_of("before run", "sshd -D -R*", "sshd-session*")
STEPS = (
    SAVED := Step("before the journal", moments_of("before move", CHANGE + "/token"), "never began", "undone"),
    STAGED := Step("files staged", moments_of("before run", TIMER), "never began", "undone"),
    TIMED := Step("timer set", moments_of("after run", TIMER), "never began", "undone"),
    ARMED := Step("journal armed", moments_of("after move", CHANGE + "/armed"), "undone", "undone"),
    V4_LIVE := Step("IPv4 live, IPv6 not", V4, "undone", "undone"),
    LIVE := Step("both live", BOTH, "undone", "undone"),
    CONNECTING := Step("before the new connection", BOTH, "undone", "undone", then_next_connection=True),
    LOGGING_IN := Step("new connection, no login yet", BOTH, "undone", "undone", then=CONNECTION),
    CONFIRMING := Step("confirming", moments_of("before move", CHANGE + "/confirmed"), "undone", "kept"),
    CONFIRMED := Step("journal confirmed", moments_of("after move", CHANGE + "/confirmed"), "kept", "kept"),
    V4_SAVED := Step("rules.v4 saved", moments_of("after move", "/etc/iptables/rules.v4"), "kept", "kept"),
    V6_SAVED := Step("rules.v6 saved", moments_of("after move", "/etc/iptables/rules.v6"), "kept", "kept"),
    GUARD_SAVED := Step("guard saved", moments_of("before run", "systemctl reload knockd.service"), "kept", "kept"),
    FORGOTTEN := Step("journal gone", moments_of("after move", "/var/lib/knock_firewall/done"), "kept", "kept"),
)
LATER = Step("a change that was kept")
ANY = Step("the whole change")
JUDGED = Step("judged and rehearsed")
UNJUDGED = Step("neither judged nor rehearsed")
UNDOING = Step("while the host undoes", BOTH)

OPEN, CLOSED, KEPT = "open", "closed", "kept"
"""How the host is before: open to all; closed, and a change adds to the allowlist; closed, and nothing is to change."""


@dataclass(frozen=True)
class Fault:
    """One row for each Debian."""

    name: str
    step: Step
    start: str
    expected: str
    strike: Callable[[Case], None]
    disk: str = ""
    """The folder that lies on a small disk of its own."""
    on_legacy: str = ""
    """What is expected where the rules are iptables-legacy's, if that is something else: nft does not see them."""

    @property
    def words(self) -> tuple[str, str, str]:
        return (self.name, self.step.name, self.start)

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


def candidate(what: str, *unjudged: str, **damage: list[list[str]]) -> list[Fault]:
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
    *at("network cut", strikes.cut_network, *STEPS[3:10], V6_SAVED),
    *at("power lost", strikes.lose_power, *STEPS[::-1], host_dies=True),
    *at("rebooted", strikes.reboot, STAGED, *STEPS[3:7], CONFIRMING, CONFIRMED, V4_SAVED, host_dies=True),
    *at("module killed", strikes.kill_module, *STEPS[1:6], CONFIRMING, CONFIRMED, V4_SAVED, FORGOTTEN, host_dies=True),
    *at("sshd stopped", strikes.stop_sshd, LIVE, CONNECTING, CONFIRMED),
    *at("sshd and its sessions killed", strikes.kill_sshd, V4_LIVE, CONFIRMED),
    Fault("the undoing killed", UNDOING, OPEN, "undone", strikes.kill_the_undoing),
    Fault("the undoing killed", UNDOING, CLOSED, "undone", strikes.kill_the_undoing),
    Fault("power lost", UNDOING, CLOSED, "undone", strikes.lose_power_at_the_undoing),
    Fault("the controller comes back", UNDOING, CLOSED, "kept", strikes.come_back_at_the_undoing),
    Fault("two controllers at once", ANY, CLOSED, "kept, one of the two", strikes.run_at_once),
    Fault("two controllers, one waits", V4_LIVE, CLOSED, "kept, one of the two", strikes.queue_up),
    Fault("two controllers, one overtakes", CONNECTING, CLOSED, "kept, the other's", strikes.overtake),
    Fault("daemon stopped", LIVE, OPEN, "undone", strikes.stop_daemon),
    Fault("daemon stopped", LIVE, CLOSED, "undone", strikes.stop_daemon),
    Fault("daemon stopped", CONFIRMED, OPEN, "kept", strikes.stop_daemon),
    Fault("daemon crashed", LIVE, OPEN, "kept", strikes.crash_daemon),
    Fault("daemon crashed", CONFIRMED, CLOSED, "kept", strikes.crash_daemon),
    Fault("daemon crashed", LATER, KEPT, "kept", strikes.crash_daemon_later),
    Fault("daemon with another sequence", LIVE, OPEN, "undone", strikes.change_sequence),
    Fault("disk of the rules full", STAGED, OPEN, "kept", strikes.fill_disk, disk="/etc/iptables"),
    Fault("disk of the rules full", SAVED, CLOSED, "never began", strikes.fill_disk, disk="/etc/iptables"),
    Fault("disk of the journal full", SAVED, CLOSED, "never began", strikes.fill_disk, disk="/var/lib/knock_firewall"),
    Fault("disk of the journal full", LIVE, CLOSED, "kept", strikes.fill_disk, disk="/var/lib/knock_firewall"),
    Fault("nft flush ruleset", LIVE, OPEN, "undone", strikes.flush_rules, on_legacy="kept"),
    Fault("nft flush ruleset", CONFIRMED, OPEN, "kept", strikes.flush_rules),
    Fault("nft flush ruleset", LATER, KEPT, "kept", strikes.flush_kept_rules),
    Fault("systemctl reload nftables", CONNECTING, OPEN, "undone", strikes.reload_nftables, on_legacy="kept"),
    Fault("systemctl reload nftables", CONNECTING, CLOSED, "kept", strikes.reload_nftables),
    Fault("systemctl reload nftables", LATER, KEPT, "kept", strikes.reload_nftables_later),
    Fault("nftables and netfilter-persistent at boot", LATER, CLOSED, "kept", strikes.enable_nftables),
    Fault("rules.v4 broken at boot", LATER, KEPT, "kept", strikes.break_saved_rules),
    Fault("both files broken at boot", LATER, KEPT, "kept", strikes.break_all_saved_rules),
    Fault("foreign mark on every packet", ANY, OPEN, "kept", strikes.mark_everything),
    Fault("foreign mark on every packet", LATER, KEPT, "kept", strikes.mark_everything),
    Fault("conntrack -F", LIVE, OPEN, "kept", strikes.forget_connections),
    Fault("conntrack -F", CONFIRMED, CLOSED, "kept", strikes.forget_connections),
    *candidate("no ESTABLISHED rule", OPEN, CLOSED, v4=strikes.NO_SESSIONS, v6=strikes.NO_SESSIONS),
    *candidate("no ESTABLISHED rule in IPv6", v6=strikes.NO_SESSIONS),
    *candidate("the allowlist forgotten", v4=strikes.NO_ALLOWLIST, v6=strikes.NO_ALLOWLIST),
    *candidate("the allowlist forgotten in IPv6", v6=strikes.NO_ALLOWLIST),
    *candidate("IPv6 forgotten", v6=strikes.NO_RULES),
    *candidate("a syntax error in IPv6", OPEN, v6=strikes.NO_SENSE),
    *candidate("the knock forgotten", OPEN, CLOSED, v4=strikes.NO_KNOCK, v6=strikes.NO_KNOCK),
    *candidate("nobody refused", OPEN, v4=strikes.NO_REFUSAL, v6=strikes.NO_REFUSAL),
    Fault("fail2ban restarts", LIVE, OPEN, "kept", strikes.restart_fail2ban),
    Fault("fail2ban restarts", CONNECTING, CLOSED, "kept", strikes.restart_fail2ban),
    Fault("power lost", LATER, KEPT, "kept", strikes.lose_power_later),
]

SAMPLE = (
    ("controller killed", "both live"),
    ("controller killed", "rules.v4 saved"),
    ("power lost", "IPv4 live, IPv6 not"),
    ("power lost", "journal confirmed"),
    ("module killed", "IPv4 live, IPv6 not"),
    ("network cut", "before the new connection"),
    ("systemctl reload nftables", "a change that was kept"),
    ("rules.v4 broken at boot", "a change that was kept"),
)
"""What `make test` runs of it."""
