# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""knock-proxy gives ssh a connected socket and is gone; where it cannot, it relays. Real ssh, real sshd."""

from __future__ import annotations

import array
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from .door import Door

FILES = Path(__file__).parents[3] / "roles" / "knock_client" / "files"
KNOCK_PROXY = str(FILES / "knock-proxy")
SSHD = os.environ.get("SSHD") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")
Profile = Callable[..., Path]
Command = Callable[..., "subprocess.CompletedProcess[str]"]


def test_ssh_gets_the_connected_socket(door: Door, write_profile: Profile) -> None:
    ours, theirs = socket.socketpair()
    words = [KNOCK_PROXY, str(write_profile(sequence=door.sequence)), "127.0.0.1", str(door.port)]
    process = subprocess.Popen(words, stdin=theirs.fileno(), stdout=theirs.fileno())
    theirs.close()
    data, ancillary, _flags, _address = ours.recvmsg(1, socket.CMSG_SPACE(4))
    assert process.wait(30) == 0  # gone, and the connection lives on
    assert len(data) == 1
    (descriptor,) = array.array("i", ancillary[0][2][:4])
    ours.close()
    with socket.socket(fileno=descriptor) as connection:
        assert connection.getpeername() == ("127.0.0.1", door.port)
        assert connection.recv(100).startswith(b"SSH-2.0-")
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert os.get_blocking(descriptor)
    assert door.settle() == 1


def test_without_a_socket_it_relays_both_ways(command: Command, door: Door, write_profile: Profile) -> None:
    def echo(connection: socket.socket) -> None:
        with connection.makefile("rb") as received:
            connection.sendall(received.read().upper())  # until the client has ended its side
        connection.close()

    door.serve = echo
    text = "sesame " * 20_000
    done = command("knock-proxy", write_profile(sequence=door.sequence), "127.0.0.1", door.port, input=text)
    assert done.returncode == 0, done.stderr
    assert done.stdout == text.upper()


def test_the_statuses_tell_what_is_wrong_and_no_message_tells_the_sequence(
    command: Command, door: Door, write_profile: Profile
) -> None:
    profile = write_profile(sequence="4242:udp,1717:udp", timeout=0.3)
    failures = {
        2: command("knock-proxy", "/nonexistent", "127.0.0.1", door.port),
        3: command("knock-proxy", profile, "no-such-host.invalid", door.port),
        5: command("knock-proxy", profile, "127.0.0.1", door.port),
    }
    for status, done in failures.items():
        assert done.returncode == status
        assert done.stderr.startswith("knock-proxy: ")
        assert "Traceback" not in done.stderr
        assert "4242" not in done.stderr
    assert command("knock-proxy").returncode == 2


def test_ssh_itself_says_what_is_wrong_also_where_it_throws_stderr_away(write_profile: Profile, tmp_path: Path) -> None:
    profile = write_profile(sequence="4242:udp,1717:udp", timeout=0.3)
    options = ["-F", "none", "-o", "ProxyUseFdpass=yes", "-o", f"ProxyCommand={KNOCK_PROXY} {profile} %h %p"]
    options += ["-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-o", f"ControlPath={tmp_path}/master"]
    done = subprocess.run(["ssh", *options, "-p", "9", "127.0.0.1"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 255
    assert "knock-proxy: port 9 of 127.0.0.1 stays closed after knocking" in done.stderr
    assert "4242" not in done.stderr


def test_it_imports_little() -> None:
    """Every login waits for the imports: these modules would each cost more than a knock."""
    code = "import sys; sys.path.insert(0, %r); from sesame_knock import proxy; proxy.resolve('127.0.0.1')" % str(FILES)
    code += "; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-IS", "-c", code], capture_output=True, text=True, check=True).stdout
    dear = {"argparse", "asyncio", "subprocess", "dataclasses", "inspect", "ipaddress", "logging", "random"}
    dear |= {"typing", "encodings.idna"}
    assert not dear & set(loaded.split())


@pytest.fixture
def ssh(door: Door, tmp_path: Path, write_profile: Profile) -> Iterator[SimpleNamespace]:
    """A real sshd behind the door, one for each accepted connection, and the arguments that ssh needs."""
    if not SSHD:
        pytest.skip("sshd is not installed")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    (tmp_path / "sshd_config").write_text(
        f"HostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/user.pub\nStrictModes no\nUsePAM no\nPidFile none\n"
        "PermitRootLogin yes\nSubsystem sftp internal-sftp\n"
        f"SetEnv HOME={tmp_path}\n"  # a person's ~/.bashrc can take its time
    )
    made = Path("/run/sshd")  # where sshd locks its unprivileged half up
    mine = os.geteuid() == 0 and not made.exists()
    if mine:
        made.mkdir(mode=0o755)
    running: list[subprocess.Popen[bytes]] = []

    def serve(connection: socket.socket) -> None:
        words = [str(SSHD), "-i", "-f", str(tmp_path / "sshd_config"), "-E", str(tmp_path / "sshd.log")]
        running.append(
            subprocess.Popen(words, stdin=connection.fileno(), stdout=connection.fileno(), stderr=subprocess.DEVNULL)
        )
        connection.close()

    door.serve = serve
    profile = write_profile(sequence=door.sequence)
    options = [
        "ProxyCommand=%s %s %%h %%p" % (KNOCK_PROXY, profile),
        "ProxyUseFdpass=yes",
        "IdentityFile=%s/user" % tmp_path,
        "IdentitiesOnly=yes",
        "UserKnownHostsFile=%s/known" % tmp_path,
        "StrictHostKeyChecking=no",
        "BatchMode=yes",
        "ControlPath=%s/mux" % tmp_path,
        "LogLevel=ERROR",
    ]
    words = ["-F", "none", *(word for option in options for word in ("-o", option))]
    yield SimpleNamespace(options=words, user=getpass.getuser(), profile=profile)
    for process in running:
        process.kill()
        process.wait()
    if mine:
        made.rmdir()


def run_ssh(ssh: SimpleNamespace, door: Door, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    words = ["ssh", *ssh.options, "-p", str(door.port), *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, **options)  # type: ignore[call-overload]


def test_ssh_logs_in_through_the_knock_and_nothing_stands_between(ssh: SimpleNamespace, door: Door) -> None:
    between = "pgrep -fc '[p]ython3 -IS .*knock-proxy %s' || true" % ssh.profile
    done = run_ssh(ssh, door, ssh.user + "@127.0.0.1", "echo $SSH_CONNECTION; " + between)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "127.0.0.1"
    assert done.stdout.split()[-1] == "0"
    assert door.arrived == door.ports
    assert door.settle() == 1


def test_sessions_that_share_a_connection_do_not_knock(ssh: SimpleNamespace, door: Door) -> None:
    master = run_ssh(
        ssh,
        door,
        "-o",
        "ControlMaster=yes",
        "-o",
        "ControlPersist=30",
        "-fN",
        ssh.user + "@127.0.0.1",
        stdin=subprocess.DEVNULL,
    )
    assert master.returncode == 0, master.stderr
    try:
        for _session in range(3):
            assert run_ssh(ssh, door, ssh.user + "@127.0.0.1", "true").returncode == 0
    finally:
        run_ssh(ssh, door, "-O", "exit", ssh.user + "@127.0.0.1")
    assert door.arrived == door.ports


def test_scp_goes_through_the_knock(ssh: SimpleNamespace, door: Door, tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(os.urandom(1 << 20))
    there = "%s@127.0.0.1:%s" % (ssh.user, tmp_path / "there")
    words = ["scp", *ssh.options, "-P", str(door.port), str(tmp_path / "here"), there]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "there").read_bytes() == (tmp_path / "here").read_bytes()


def test_the_sequence_is_in_no_list_of_processes_and_in_no_message(ssh: SimpleNamespace, door: Door) -> None:
    words = [
        "ssh",
        *ssh.options,
        "-vvv",
        "-o",
        "LogLevel=DEBUG3",
        "-p",
        str(door.port),
        ssh.user + "@127.0.0.1",
        "sleep 1",
    ]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seen = ""
    while process.poll() is None:
        seen += subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
        time.sleep(0.02)
    assert process.stdout
    seen += process.stdout.read()
    assert process.returncode == 0
    assert "knock-proxy" in seen
    assert not any("%d:udp" % port in seen for port in door.ports)
    assert not any(str(port) in line for port in door.ports for line in seen.splitlines() if "knock" in line)
