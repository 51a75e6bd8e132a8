# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock of a host's rules: nobody but root can hold it, one at a time does, and who waits in vain hears for whom."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Iterator

import pytest

from ..lab import Lab
from .firewall_host import FirewallHost
from .test_firewall import ALLOW

FOLDER = "/run/knock_firewall"
LOCK = FOLDER + "/lock"
HELD = 4
"""The exit status of `knock-firewall` when somebody else holds the lock."""

AS_NOBODY = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
HOLD = "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, 2); print('held', flush=True); time.sleep(99)"

AS_BEFORE = f"mkdir -p {FOLDER}; chmod 755 {FOLDER}; >>{LOCK}; chmod 644 {LOCK}"
"""What an older version left at boot."""


@pytest.fixture
def host(lab: Lab, tmp_path: Path) -> Iterator[FirewallHost]:
    made = FirewallHost(lab, tmp_path, "nft")
    try:
        yield made
    finally:
        made.remove()


@contextlib.contextmanager
def holding(host: FirewallHost, path: str = LOCK, through: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a file by flock: root's, or somebody else's who comes through this command."""
    holder = subprocess.Popen(
        host.command(*through, "/usr/bin/python3", "-c", HOLD, path), stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        yield holder
    finally:
        holder.kill()
        holder.wait()


def impatient(host: FirewallHost) -> None:
    """The host's command as it is, but for a shorter wait."""
    host.sh(
        "cd /usr/local/sbin; sed -i 's/^patience=30 /patience=1 /' knock-firewall; grep '^patience=1 ' knock-firewall"
    )


def modes(host: FirewallHost) -> str:
    return host.sh(f"stat -c '%a %u %F' {FOLDER} {LOCK}")


ONLY_ROOTS = "700 0 directory\n600 0 regular empty file\n"


@pytest.mark.parametrize("umask", ["000", "022", "077"])
@pytest.mark.parametrize("command", ["boot", "check", "revert"])
def test_the_lock_is_roots_alone_whatever_the_umask_is(host: FirewallHost, command: str, umask: str) -> None:
    host.apply(**ALLOW)
    host.confirm()
    host.sh(f"rm -r {FOLDER}; umask {umask}; knock-firewall {command}")
    assert modes(host) == ONLY_ROOTS


def test_the_lock_of_a_module_is_roots_alone_whatever_the_umask_is(host: FirewallHost) -> None:
    before = os.umask(0)
    try:
        host.apply(**ALLOW)
    finally:
        os.umask(before)
    assert modes(host) == ONLY_ROOTS
    folders = "/var/lib/knock_firewall /etc/systemd/system/nftables.service.d"
    assert host.sh(f"find {folders} -perm /022 ! -type l") == ""
    assert host.sh("stat -c %a /var/lib/knock_firewall") == "700\n"


def test_it_is_never_wider_for_a_moment(host: FirewallHost) -> None:
    """The system calls that make folder and file say the mode, or the umask does."""
    host.apply(**ALLOW)
    host.sh(f"rm -r {FOLDER}")
    host.sh("umask 0; strace -f -o /run/trace -e trace=mkdir,mkdirat,openat,open,umask knock-firewall boot")
    umasks: dict[str, int] = {}
    made = []
    for line in host.sh("cat /run/trace").splitlines():
        process = line.split()[0]
        if "umask(" in line:
            umasks[process] = int(line.partition("umask(")[2].partition(")")[0], 8)
        elif FOLDER in line and ("mkdir" in line or "O_CREAT" in line):
            mode = int(line.rpartition(")")[0].rpartition(", ")[2], 8)
            made.append(mode & ~umasks.get(process, umasks[min(umasks)]) & 0o077)
    assert made == [0, 0]


@pytest.mark.parametrize("ended_by", ["revert", "resolve", "confirm", "module"])
def test_who_is_not_root_stops_nobody_by_holding_what_an_older_version_left(host: FirewallHost, ended_by: str) -> None:
    token = host.apply(**ALLOW)["token"]
    impatient(host)
    host.sh(AS_BEFORE)
    with holding(host, through=AS_NOBODY) as holder:
        if ended_by == "module":
            assert host.revert()["changed"]
        else:
            host.run("knock-firewall", ended_by, token)
        assert holder.poll() is None
        assert host.is_protected() is (ended_by == "confirm")
        assert "token" in host.apply(**{**ALLOW, "knock_firewall_allowlist": ["198.18.0.77"]})
    assert modes(host) == ONLY_ROOTS


@pytest.mark.parametrize(
    "wrong",
    [
        f"chmod 644 {LOCK}",
        f"chmod 660 {LOCK}",
        f"chown nobody {LOCK}",
        f"rm {LOCK}; ln -s /etc/precious {LOCK}",
        f"rm {LOCK}; mkfifo -m 666 {LOCK}",
        f"chmod 666 {LOCK}; install -o nobody -m 666 /dev/null {LOCK}.new; chmod 777 {FOLDER}",
    ],
)
@pytest.mark.parametrize("by", ["command", "module"])
def test_a_lock_that_others_could_open_is_replaced(host: FirewallHost, wrong: str, by: str) -> None:
    host.apply(**ALLOW)
    host.sh("echo precious >/etc/precious")
    before = host.sh(f"stat -c %i {LOCK}")
    host.sh(wrong)
    if by == "command":
        host.run("knock-firewall", "revert")
    else:
        assert "token" in host.apply(**ALLOW)
    assert modes(host) == ONLY_ROOTS
    assert host.sh(f"stat -c %i {LOCK}") != before
    assert host.sh("cat /etc/precious") == "precious\n"
    assert host.sh(f"ls {FOLDER}") == "lock\n"


def test_a_chmod_alone_would_not_have_ended_it(host: FirewallHost) -> None:
    host.apply(**ALLOW)
    impatient(host)
    host.sh(AS_BEFORE)
    with holding(host, through=AS_NOBODY) as holder:
        host.sh(f"chmod 600 {LOCK}")
        assert f"process {holder.pid} of user 65534 " in refused(host, "revert")


def refused(host: FirewallHost, *arguments: str) -> str:
    done = subprocess.run(host.command("knock-firewall", *arguments), capture_output=True, text=True)
    assert done.returncode == HELD, done
    return done.stderr


@pytest.mark.parametrize("older", [False, True])
def test_who_waits_for_root_in_vain_hears_for_whom_and_what_to_do(host: FirewallHost, older: bool) -> None:
    token = host.apply(**ALLOW)["token"]
    impatient(host)
    host.sh(AS_BEFORE if older else "true")
    before = host.rules()
    with holding(host) as holder:
        message = refused(host, "revert", token)
        assert f"{LOCK} is held by process {holder.pid} of user 0 (/usr/bin/python3 -c import" in message
        assert "Nothing has been changed" in message
        assert message.endswith(f"knock-firewall revert {token}\n")
        assert host.rules() == before
    host.run("knock-firewall", "revert", token)
    assert not host.is_protected()


@pytest.mark.parametrize("older", [False, True])
def test_a_module_that_waits_for_root_in_vain_names_it_too(host: FirewallHost, older: bool) -> None:
    host.apply(**ALLOW)
    host.revert()
    host.sh(AS_BEFORE if older else "true")
    take = "from ansible_collections.sesame.knock.plugins.module_utils._lock import locked\nwith locked(1): pass"
    with holding(host) as holder:
        done = subprocess.run(host.python(take), capture_output=True, text=True, timeout=30)
        assert f"LockError: {LOCK} is held by process {holder.pid} of user 0 (/usr/bin/python3 -c import" in done.stderr
    subprocess.run(host.python(take), check=True, timeout=30)


def test_what_others_want_to_be_called_does_not_reach_a_terminal(host: FirewallHost) -> None:
    host.apply(**ALLOW)
    impatient(host)
    with holding(host, through=("sh", "-c", 'exec "$0" "$@" "$(printf "\\033[31m\\nred")"')):
        message = refused(host, "revert")
        assert message.count("\n") == 1
        assert "\033" not in message


ONE_AT_A_TIME = """
import os, sys, time
from ansible_collections.sesame.knock.plugins.module_utils._lock import locked
for dummy in range(5):
    with locked():
        os.close(os.open("/run/inside", os.O_CREAT | os.O_EXCL))
        time.sleep(0.01)
        os.unlink("/run/inside")
"""


@pytest.mark.parametrize("first", ["nothing", "an older one's", "held by nobody", "held by root"])
def test_of_many_that_come_at_once_one_at_a_time_is_in(host: FirewallHost, first: str) -> None:
    """Modules and the command, and all of them meet what has to be replaced first."""
    host.apply(**ALLOW)
    host.revert()
    host.sh(
        "echo '( set -C; : >/run/inside ) || exit 99; sleep 0.01; rm /run/inside' >/run/critical;"
        " sed '/^hold /q' /usr/local/sbin/knock-firewall >/run/shell; cat /run/critical >>/run/shell"
    )
    for dummy in range(4):
        host.sh(f"rm -rf {FOLDER}" if first == "nothing" else AS_BEFORE)
        with contextlib.ExitStack() as held:
            if first.startswith("held"):
                holder = held.enter_context(holding(host, through=AS_NOBODY if first.endswith("nobody") else ()))
            many = [subprocess.Popen(host.python(ONE_AT_A_TIME)) for dummy in range(4)]
            many += [subprocess.Popen(host.command("sh", "/run/shell", "check")) for dummy in range(8)]
            if first == "held by root":
                with pytest.raises(subprocess.TimeoutExpired):
                    many[-1].wait(2)
                assert all(one.poll() is None for one in many), "an older version of ours is waited for"
                holder.kill()
            assert [one.wait(60) for one in many] == [0] * len(many)
        assert modes(host) == ONLY_ROOTS
        assert host.sh(f"ls {FOLDER}") == "lock\n"
