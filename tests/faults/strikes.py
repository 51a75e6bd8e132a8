# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How each kind of fault is brought about. The product knows nothing of it: it happens to host and controller."""

from __future__ import annotations

import time
from typing import Callable

from .case import Case
from .controller import Play

UNDO_BEGINS = ("before run sh /var/lib/knock_firewall/change/undo",)
UNDO_RESTORES = ("before run ip6tables-restore -w 10 --noflush",)
"""The shell script's calls: they read from a pipe, the module's from a file."""

# --- who began the change, and the way to it -------------------------------------------------------------------------


def kill_controller(case: Case) -> None:
    with case.held() as running:
        running.kill()


def cut_network(case: Case) -> None:
    """Nothing passes until the host has come to rest."""
    with case.held() as running, case.down():
        case.site.wire.pull(case.host)
        case.release(running)
        case.settle()
        case.site.wire.plug(case.host)
        time.sleep(2)  # until IPv6 has seen that its addresses are still its own


def kill_module(case: Case) -> None:
    """SIGKILL to what is held, and to whoever waits for it, up to sudo."""
    with case.play() as running:
        held = case.hold(running)
        case.host.shell(
            """
            process=%d
            while :; do
                case $(cat /proc/$process/comm) in sudo | sshd* | systemd | bash | '') break ;; esac
                parent=$(sed -n 's/^PPid:[[:space:]]*//p' /proc/$process/status)
                kill -KILL $process
                process=$parent
            done
            """
            % held
        )
        case.release(running)
        running.wait()


def stop_sshd(case: Case) -> None:
    """Sessions live on, no new one comes in until the host has come to rest."""
    with case.held() as running, case.down():
        case.host.run("systemctl", "stop", "ssh.service")
        case.release(running)
        case.settle()
        case.host.run("systemctl", "start", "ssh.service")


def kill_sshd(case: Case) -> None:
    """With all its sessions, and whatever runs in them; systemd starts it again."""
    with case.held(), case.down():
        case.host.run("systemctl", "kill", "--signal=KILL", "ssh.service")
        case.host.shell("until systemctl is-active --quiet ssh.service; do sleep 0.1; done")


# --- the host --------------------------------------------------------------------------------------------------------


def lose_power(case: Case) -> None:
    with case.held() as running, case.down():
        _give_up(case, running)
        case.host.lose_power()


def reboot(case: Case) -> None:
    with case.held() as running, case.down():
        _give_up(case, running)
        case.host.reboot()


def _give_up(case: Case, running: Play) -> None:
    """Nobody comes back to finish what the host has to finish alone; only one that has yet to connect does."""
    if not case.fault.step.then_next_connection:
        running.kill()


def fill_disk(case: Case) -> None:
    """From the step on there is no space left, until the end."""
    with case.held():
        case.host.shell("cat /dev/zero >%s/full 2>/dev/null; true" % case.fault.disk)


def flush_rules(case: Case) -> None:
    with case.held():
        case.host.run("nft", "flush", "ruleset")


def reload_nftables(case: Case) -> None:
    with case.held():
        case.host.shell("systemctl start nftables.service && systemctl reload nftables.service")


def forget_connections(case: Case) -> None:
    with case.held():
        case.host.run("conntrack", "-F")


def restart_fail2ban(case: Case) -> None:
    case.host.shell(FAIL2BAN, timeout=120)
    with case.held():
        case.host.run("systemctl", "restart", "fail2ban.service")
        case.host.shell("until fail2ban-client status fault >/dev/null 2>&1; do sleep 0.2; done")


FAIL2BAN = """
    apt-get install -y --no-install-recommends fail2ban >/dev/null 2>&1
    rm -f /etc/fail2ban/jail.d/*
    touch /var/log/fault.log
    cat >/etc/fail2ban/jail.d/fault.conf <<'JAIL'
[fault]
enabled = true
filter = sshd
backend = polling
logpath = /var/log/fault.log
banaction = iptables-multiport
JAIL
    systemctl restart fail2ban.service
    until fail2ban-client status fault >/dev/null 2>&1; do sleep 0.2; done
    fail2ban-client set fault banip 198.19.99.99
"""
"""A ban makes its jump in INPUT."""


def mark_everything(case: Case) -> None:
    """Somebody else sets every bit of the mark, early, on every packet."""
    case.host.shell(
        "for t in iptables ip6tables; do $t -t mangle -A PREROUTING -j MARK --set-xmark 0xffffffff || exit 1; done"
    )
    case.rerun()


def run_at_once(case: Case) -> None:
    """Two controllers with different changes begin in the same moment."""
    with case.play() as one, case.play_of_the_other() as other:
        one.wait()
        other.wait()


def overtake(case: Case) -> None:
    """One controller is held at the step, and another one makes its change from beginning to end."""
    with case.play() as one:
        case.hold(one)
        with case.play_of_the_other() as other:
            other.wait(40)
            case.release(one)
            one.wait()


def queue_up(case: Case) -> None:
    """One controller is held at the step, another one has to wait for it."""
    with case.play() as one:
        case.hold(one)
        with case.play_of_the_other() as other:
            time.sleep(6)
            case.release(one)
            one.wait()
            other.wait()


# --- the daemon ------------------------------------------------------------------------------------------------------


def stop_daemon(case: Case) -> None:
    with case.held() as running:
        case.host.run("systemctl", "stop", "knockd.service")
        case.release(running)
        running.wait()
        case.settle()
    case.host.run("systemctl", "start", "knockd.service")


def crash_daemon(case: Case) -> None:
    with case.held():
        case.host.run("systemctl", "kill", "--signal=KILL", "knockd.service")


def change_sequence(case: Case) -> None:
    """The daemon listens for another sequence than the controller knocks."""
    with case.held() as running:
        case.host.shell("sed -i.right 's/52813/52814/' /etc/knockd.conf && systemctl restart knockd.service")
        case.release(running)
        running.wait()
        case.settle()
    case.host.shell("cat /etc/knockd.conf.right >/etc/knockd.conf && systemctl restart knockd.service")


# --- the candidate ---------------------------------------------------------------------------------------------------

NO_SESSIONS = [
    [r"^-A KNOCK-ADMIT .*RELATED,ESTABLISHED.*\n", ""],
    [r"^-A KNOCK-ADMIT -p tcp .*-j REJECT.*", "-A KNOCK-ADMIT -p tcp -j REJECT --reject-with tcp-reset"],
]
"""What the article does: no ESTABLISHED rule, and each packet is refused, not only what opens a connection."""
NO_ALLOWLIST = [[r"^-A KNOCK-ADMIT -s .*\n", ""]]
NO_KNOCK = [[r"^-A KNOCK-ADMIT -m mark .*\n", ""]]
NO_REFUSAL = [[r"^-A KNOCK-ADMIT -p tcp .*-j REJECT.*\n", ""]]
NO_RULES = [[r"(?s).+", "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n"]]
NO_SENSE = [[r"-j KNOCK-ADMIT$", "-j KNOCK-ADMIT --sport"]]


def candidate(judged: bool, damage: dict[str, list[list[str]]]) -> Callable[[Case], None]:
    """A run with damaged rules; where they are neither judged nor rehearsed, only proof and deadline protect."""

    def strike(case: Case) -> None:
        case.refuse(is_judged=judged, **{"damage_" + family: steps for family, steps in damage.items()})

    return strike


# --- while the host undoes a change ----------------------------------------------------------------------------------


def _undoing(case: Case, moments: tuple[str, ...]) -> int:
    """The controller is killed when all is live, and the undoing held."""
    with case.held() as running:
        running.kill()
    return case.wait_at(moments)


def kill_the_undoing(case: Case) -> None:
    """IPv4 is back, IPv6 is not."""
    _undoing(case, UNDO_RESTORES)
    case.host.run("systemctl", "kill", "--signal=KILL", "knock-firewall-revert.service")
    case.release()


def lose_power_at_the_undoing(case: Case) -> None:
    _undoing(case, UNDO_RESTORES)
    with case.down():
        case.host.lose_power()


def come_back_at_the_undoing(case: Case) -> None:
    """The deadline and a new run of the controller meet."""
    _undoing(case, UNDO_BEGINS)
    with case.play() as again:
        time.sleep(6)
        case.release()
        again.wait()


# --- when the change is kept -----------------------------------------------------------------------------------------


def flush_kept_rules(case: Case) -> None:
    """Until the host puts them back by itself, the daemon's guard is what keeps strangers out."""
    case.host.run("nft", "flush", "ruleset")
    case.look()
    time.sleep(CHECKS_AGAIN)


CHECKS_AGAIN = 75
"""Seconds in which a host has seen for sure that rules are missing."""


def reload_nftables_later(case: Case) -> None:
    case.host.shell("systemctl start nftables.service && systemctl reload nftables.service")


def enable_nftables(case: Case) -> None:
    case.host.run("systemctl", "enable", "--now", "nftables.service")
    case.rerun()
    with case.down():
        case.host.reboot()


def break_saved_rules(case: Case) -> None:
    """A typing mistake in rules.v4, which the boot could not load."""
    case.host.shell("sed -i '/^-A KNOCK/s/-j /-jj /' /etc/iptables/rules.v4")
    with case.down():
        case.host.reboot()


def break_all_saved_rules(case: Case) -> None:
    case.host.shell("echo garbage >/etc/iptables/rules.v4; echo garbage >/etc/iptables/rules.v6")
    with case.down():
        case.host.reboot()


def crash_daemon_later(case: Case) -> None:
    case.host.run("systemctl", "kill", "--signal=KILL", "knockd.service")
    time.sleep(3)


def lose_power_later(case: Case) -> None:
    with case.down():
        case.host.lose_power()
