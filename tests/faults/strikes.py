# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How each kind of fault is brought about. The product knows nothing of it: it happens to host and controller."""

from __future__ import annotations

import time
from typing import Callable

from .backends import CHANGE, FILE
from .case import Case
from .controller import ALLOWLIST, Play
from .damages import Damage

UNDO_BEGINS = ("before run sh %s/undo" % CHANGE,)

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
        case.host.shell("cat /dev/zero >%s/full 2>/dev/null; true" % case.backend.disks[case.fault.disk])


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
    case.host.shell(FAIL2BAN % case.backend.ban_action, timeout=120)
    with case.held():
        case.host.run("systemctl", "restart", "fail2ban.service")
        case.host.shell("until fail2ban-client status fault >/dev/null 2>&1; do sleep 0.2; done")


FAIL2BAN = """
    apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends fail2ban >/dev/null 2>&1
    rm -f /etc/fail2ban/jail.d/*
    touch /var/log/fault.log
    cat >/etc/fail2ban/jail.d/fault.conf <<'JAIL'
[fault]
enabled = true
filter = sshd
backend = polling
logpath = /var/log/fault.log
banaction = %s
JAIL
    systemctl restart fail2ban.service
    until fail2ban-client status fault >/dev/null 2>&1; do sleep 0.2; done
    fail2ban-client set fault banip 198.19.99.99
"""
"""A ban makes its jump in INPUT, or a table of its own."""


def mark_everything(case: Case) -> None:
    """Somebody else sets every bit of the mark, early, on every packet."""
    case.host.shell(case.backend.mark_everything)
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


def candidate(judged: bool, damage: Damage) -> Callable[[Case], None]:
    """A run with damaged rules; where they are neither judged nor rehearsed, only proof and deadline protect."""

    def strike(case: Case) -> None:
        case.refuse(is_judged=judged, damage=damage._asdict())

    return strike


def drop_knockers(rehearsed: bool) -> Callable[[Case], None]:
    """Another program's chain lets the allowlist in and nobody else: the judge does not read it, only packets tell.

    It comes when the controller is in already, or that could not even begin.
    """

    def strike(case: Case) -> None:
        with case.held(knock_firewall_rehearse=rehearsed) as running:
            case.host.run("nft", "-f", "-", text=ANOTHERS_CHAIN % ALLOWLIST)
            case.release(running)
            if running.wait() == 0:
                case.outcome.problems.append("the play has succeeded, and no knock gets in")
            case.settle()
        case.host.run("nft", "delete", "table", "inet", "another")

    return strike


ANOTHERS_CHAIN = """
table inet another {
    chain early {
        type filter hook prerouting priority raw; policy accept;
        iif lo accept
        ip saddr %s accept
        ip6 saddr %s accept
        tcp dport 22 tcp flags & (fin | syn | rst | ack) == syn drop
    }
}
"""


# --- while the host undoes a change ----------------------------------------------------------------------------------


def _undoing(case: Case, moments: tuple[str, ...]) -> int:
    """The controller is killed when all is live, and the undoing held."""
    with case.held() as running:
        running.kill()
    return case.wait_at(moments)


def kill_the_undoing(case: Case) -> None:
    """Where the families are apart, IPv4 is back, and IPv6 is not."""
    _undoing(case, (case.backend.restoring,))
    case.host.run("systemctl", "kill", "--signal=KILL", "knock-firewall-revert.service")
    case.release()


def lose_power_at_the_undoing(case: Case) -> None:
    _undoing(case, (case.backend.restoring,))
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


def break_saved_table(case: Case) -> None:
    """The same in the file of nftables."""
    case.host.run("sed", "-i", "s/ goto admit/ gotoo admit/", FILE)
    with case.down():
        case.host.reboot()


def crash_daemon_later(case: Case) -> None:
    case.host.run("systemctl", "kill", "--signal=KILL", "knockd.service")
    time.sleep(3)


def lose_power_later(case: Case) -> None:
    with case.down():
        case.host.lose_power()
