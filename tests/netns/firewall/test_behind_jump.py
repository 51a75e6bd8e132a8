# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Closing a host that is reached through a jump host only: the proof knocks, and sees the port closed, from there."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Iterator

import pytest

from ..lab import CLIENT, KNOCKS, SERVER, SSH, Daemon, Lab, Namespace, eventually, run
from .firewall_host import SshdHost
from .ssh_controller import INSIDE, ROUTER, controller, host, lab

__all__ = ("controller", "host", "lab")

JUMP_SSHD = (
    """
ListenAddress %s
HostKey {directory}/jump
AuthorizedKeysFile {directory}/key.pub
StrictModes no
UsePAM no
PermitRootLogin yes
PidFile none
SetEnv HOME={directory} SHLVL=1
"""
    % ROUTER
)
ELSEWHERE = ["198.18.9.0/24"]


@pytest.fixture
def behind(lab: Lab, host: SshdHost, controller: Namespace, tmp_path: Path) -> Iterator[SshdHost]:
    """The host, with the daemon; the controller's only way to it is ssh to the lab's client."""
    lab.client.run("sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0")
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "jump"))
    (tmp_path / "sshd_config").write_text(JUMP_SSHD.format(directory=tmp_path))
    (tmp_path / "ssh_config").write_text(
        "IdentityFile %s/key\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n" % tmp_path
    )
    Path("/run/sshd").mkdir(exist_ok=True)  # where sshd locks its unprivileged half up
    words = ("/usr/sbin/sshd", "-D", "-f", str(tmp_path / "sshd_config"), "-E", str(tmp_path / "sshd.log"))
    sshd = subprocess.Popen(lab.client.command(*words), stdin=subprocess.DEVNULL)
    directory = tmp_path / "daemon"
    directory.mkdir()
    daemon: Daemon = lab._keep(Daemon(lab.server, directory, ("-i", "eth0"), SSH.format(open_timeout=3)))
    try:
        daemon.await_ready()
        eventually(lambda: ":22 " in lab.client.run("ss", "-Hltn"), "the jump host's sshd listens")
        yield host
    finally:
        sshd.kill()
        sshd.wait()
        subprocess.run(["kill", "-KILL", *run("ip", "netns", "pids", lab.client.name).split()], capture_output=True)


def close(host: SshdHost, controller: Namespace, tmp_path: Path, **variables: Any) -> str:
    return " ".join(
        host.play(
            *("variables", "preflight", "commit"),
            controller=controller,
            name="server",
            ansible_connection="ssh",
            ansible_host=SERVER,
            ansible_user="root",
            ansible_ssh_args="-F %s/ssh_config -o ControlMaster=auto -o ControlPersist=30s" % tmp_path,
            ansible_ssh_common_args="{{ lookup('sesame.knock.ssh_args') }}",
            ansible_remote_tmp=str(tmp_path / "remote"),
            knock_sequence=",".join(KNOCKS),
            knock_firewall_allowlist=ELSEWHERE,
            **variables,
        ).split()
    )


def test_the_proof_leaves_from_the_jump_host(behind: SshdHost, controller: Namespace, lab: Lab, tmp_path: Path) -> None:
    said = close(behind, controller, tmp_path, knock_jump="root@" + ROUTER)
    assert "failed=0" in said, said
    for step in ("port 22 is closed without a knock", "a knock opens it", "a new login works", "closed again"):
        assert step in said
    assert behind.is_protected()
    daemon = next(thing for thing in lab._things if isinstance(thing, Daemon))
    assert CLIENT in daemon.log and INSIDE not in daemon.log


def test_a_jump_host_that_is_none_is_told_before_anything_changes(
    behind: SshdHost, controller: Namespace, tmp_path: Path
) -> None:
    said = close(behind, controller, tmp_path, knock_jump="root@")
    assert "knock_jump is 'root@', which is neither a host of the inventory nor [user@]host[:port]" in said
    assert not behind.is_protected()
