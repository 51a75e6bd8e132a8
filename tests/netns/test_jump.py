# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Through a jump host: the knock and the connection leave from there. Real ssh, real sshds, the real daemon."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

from .lab import CLIENT, CLIENT6, FIREWALL, KNOCKS, SERVER, SERVER6, SSH, Daemon, Lab, Namespace, eventually, run

KNOCK_PROXY = Path(__file__).parents[2] / "roles" / "knock_client" / "files" / "knock-proxy"
SSHD = os.environ.get("SSHD") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")

# The lab's client is the jump host here. The person is one network further away, and the jump host is their router:
# so the server sees the addresses of both, and either could knock.
JUMP, JUMP6 = CLIENT, CLIENT6
HOME, HOME6 = "198.18.1.1", "fd00:5e5a:1::1"
BASTION, BASTION6 = "198.18.1.2", "fd00:5e5a:1::2"
SEQUENCE = ",".join(KNOCKS)
SEQUENCE_OF_JUMP = "9411:udp,6107:tcp,8233:tcp"

JUMP_DOOR = (
    """
[options]
    Mark = 0x1000

[ssh]
    sequence     = %s
    tcpflags     = syn
    open_ports   = 22/tcp
    open_timeout = 2
"""
    % SEQUENCE_OF_JUMP
)


class Way:
    """The person's home, the jump host and the server, and an ssh that goes all the way."""

    def __init__(self, lab: Lab, home: Namespace) -> None:
        self.lab = lab
        self.home = home
        self.jump = lab.client
        self.directory = lab.directory
        self.runtime = lab.directory / "run"
        self.bastion: list[str] = []
        """More lines of ssh's configuration for the jump host."""
        self.address = BASTION
        self.profile: dict[str, Any] = {
            "sequence": SEQUENCE,
            "jump": ["-F", str(self.directory / "bastion"), "bastion"],
        }
        self._sshds: list[subprocess.Popen[bytes]] = []

    def start_sshd(self, namespace: Namespace, name: str, *lines: str, **environment: str) -> None:
        """Start an sshd that knows nothing of this machine's profiles of shells, and logs what it does."""
        environment = {"HOME": str(self.directory), **environment}
        lines += ("SetEnv " + " ".join("%s=%s" % item for item in environment.items()),)
        config = self.directory / (name + ".sshd")
        config.write_text(
            f"HostKey {self.directory}/host\nAuthorizedKeysFile {self.directory}/user.pub\nStrictModes no\nUsePAM no\n"
            f"PidFile none\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n%s\n" % "\n".join(lines)
        )
        words = namespace.command(str(SSHD), "-D", "-f", str(config), "-E", str(self.directory / (name + ".log")))
        self._sshds.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        with namespace:
            eventually(lambda: self.lab.is_open(SERVER) if namespace is self.lab.server else listens(), name)

    def options(self, fdpass: bool = True) -> list[str]:
        """Write the configuration, and give the options of an ssh to the server."""
        common = [
            "IdentityFile %s/user" % self.directory,
            "IdentitiesOnly yes",
            "UserKnownHostsFile %s/known" % self.directory,
            "StrictHostKeyChecking no",
            "BatchMode yes",
            "LogLevel ERROR",
        ]
        self._write(
            "bastion", "\n".join(["Host bastion", "HostName " + self.address, *self.bastion, "Host *", *common, ""])
        )
        profile = self.write_profile("profile", self.profile)
        ours = [
            "ProxyCommand %s %s %%h %%p" % (KNOCK_PROXY, profile),
            "ProxyUseFdpass %s" % ("yes" if fdpass else "no"),
        ]
        self._write("config", "\n".join([*ours, *common, ""]))
        return ["-F", str(self.directory / "config")]

    def write_profile(self, name: str, values: dict[str, Any]) -> Path:
        return self._write(name + ".json", json.dumps(values))

    def _write(self, name: str, text: str) -> Path:
        """Whole, as another ssh may just be reading it."""
        path = self.directory / name
        draft = self.directory / (name + ".draft")
        draft.write_text(text)
        draft.chmod(0o600)
        draft.replace(path)
        return path

    @property
    def environment(self) -> dict[str, str]:
        self.runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
        return {**os.environ, "XDG_RUNTIME_DIR": str(self.runtime), "HOME": str(self.directory)}

    def start(self, *words: str, fdpass: bool = True, to: str = SERVER) -> subprocess.Popen[str]:
        # A shell lets what it runs in the background ignore SIGINT, and so would this ssh
        command = self.home.command("env", "--default-signal=INT", "ssh", *self.options(fdpass), to, *words)
        return subprocess.Popen(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ssh(self, *words: str, fdpass: bool = True, to: str = SERVER) -> subprocess.CompletedProcess[str]:
        process = self.start(*words, fdpass=fdpass, to=to)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def proxy(self, to: str = SERVER, port: int = 22) -> subprocess.CompletedProcess[str]:
        """knock-proxy alone, whose exit status ssh does not tell."""
        self.options()
        words = self.home.command(str(KNOCK_PROXY), str(self.directory / "profile.json"), to, str(port))
        return subprocess.run(
            words, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )

    def logins(self, name: str) -> int:
        return (self.directory / (name + ".log")).read_text().count("Accepted publickey")

    def masters(self) -> list[Path]:
        return [path for path in (self.runtime / "sesame-knock").glob("jump-*") if path.is_socket()]

    def end_masters(self) -> None:
        for path in self.masters():
            words = ["ssh", "-F", "none", "-o", "ControlPath=" + path.name, "-O", "exit", "any"]
            subprocess.run(self.home.command(*words), capture_output=True, cwd=path.parent)

    def processes(self, namespace: Namespace | None = None) -> str:
        """The command lines of what runs in a namespace, by default at home."""
        pids = run("ip", "netns", "pids", (namespace or self.home).name).split()
        return subprocess.run(["ps", "ww", "-o", "args=", *pids], capture_output=True, text=True).stdout if pids else ""

    def remove(self) -> None:
        self.end_masters()
        for process in self._sshds:
            process.kill()
            process.wait()
        for namespace in (self.home, self.jump, self.lab.server):
            for pid in run("ip", "netns", "pids", namespace.name).split():
                os.kill(int(pid), signal.SIGKILL)


def listens() -> bool:
    return ":22 " in subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Way]:
    """The way, with an sshd on the server; the jump host has none yet, and nothing is closed."""
    if not SSHD:
        pytest.skip("sshd is not installed")
    lab = Lab(tmp_path)
    home = way = None
    run_sshd = Path("/run/sshd")  # where sshd locks its unprivileged half up
    made = not run_sshd.exists()
    run_sshd.mkdir(mode=0o755, exist_ok=True)
    try:
        lab.build()
        home = Namespace(lab.client.name.replace("-c-", "-h-"))
        home.ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth1", "netns", lab.client.name)
        for namespace, device, *addresses in ((home, "eth0", HOME, HOME6), (lab.client, "eth1", BASTION, BASTION6)):
            namespace.ip("link", "set", device, "up")
            namespace.ip("address", "add", addresses[0] + "/24", "dev", device)
            namespace.ip("address", "add", addresses[1] + "/64", "dev", device, "nodad")
        lab.client.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        home.ip("route", "add", "default", "via", BASTION)
        home.ip("-6", "route", "add", "default", "via", BASTION6)
        lab.server.ip("route", "add", "default", "via", JUMP)
        lab.server.ip("-6", "route", "add", "default", "via", JUMP6)
        for name in ("host", "user"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name))
        way = Way(lab, home)
        way.start_sshd(lab.server, "server", "MaxStartups 100")
        yield way
    finally:
        if way:
            way.remove()
        if home:
            home.remove()
        lab.remove()
        if made:
            run_sshd.rmdir()


@pytest.fixture
def way(bare: Way) -> Way:
    """The same with an sshd on the jump host, and a server that wants a knock."""
    bare.start_sshd(bare.jump, "jump", "MaxStartups 3")
    close_server(bare)
    return bare


def close_server(way: Way, open_timeout: int = 3) -> Daemon:
    way.lab.nft(FIREWALL)
    return way.lab.daemon(SSH.format(open_timeout=open_timeout))


def close_jump(way: Way) -> Daemon:
    """Let the jump host want a knock too."""
    way.jump.run("nft", "-f", "-", text=FIREWALL)
    directory = way.directory / "jump"
    directory.mkdir()
    daemon: Daemon = way.lab._keep(Daemon(way.jump, directory, ("-i", "eth1"), JUMP_DOOR))
    daemon.await_ready()
    return daemon


def daemon_of(way: Way) -> Daemon:
    """The server's daemon."""
    return next(thing for thing in way.lab._things if isinstance(thing, Daemon))


def home_gets_in(way: Way, to: str) -> bool:
    words = way.home.command("ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "ConnectTimeout=2", to)
    said = subprocess.run(words, capture_output=True, text=True, env=way.environment).stderr
    return "Connection refused" not in said


@pytest.mark.parametrize("fdpass", [True, False])
@pytest.mark.parametrize(("to", "seen"), [(SERVER, JUMP), (SERVER6, JUMP6)])
def test_the_knock_and_the_connection_leave_from_the_jump_host(way: Way, fdpass: bool, to: str, seen: str) -> None:
    assert not way.lab.is_open(to)
    done = way.ssh("echo $SSH_CONNECTION", fdpass=fdpass, to=to)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == seen
    assert way.lab.is_open(to)  # from the jump host
    assert not home_gets_in(way, to)
    assert HOME not in daemon_of(way).log and HOME6 not in daemon_of(way).log


@pytest.mark.parametrize("fdpass", [True, False])
def test_nothing_stays_behind(way: Way, fdpass: bool) -> None:
    done = way.ssh("true", fdpass=fdpass)
    assert done.returncode == 0, done.stderr
    eventually(lambda: len(way.processes().splitlines()) == 1, "only the master is left")
    assert len(way.masters()) == 1
    way.end_masters()
    eventually(lambda: not way.processes(), "the master ends")
    eventually(lambda: "python3 -IS" not in way.processes(way.jump), "the sender has ended")


def test_the_way_is_ipv6_all_along(way: Way) -> None:
    way.address = BASTION6
    done = way.ssh("echo $SSH_CONNECTION", to=SERVER6)
    assert done.stdout.split()[:1] == [JUMP6], done.stderr


def test_connections_at_the_same_time_are_one_login_at_the_jump_host(way: Way) -> None:
    """Its sshd refuses more than three logins that are under way; one session each would be refused as well."""
    started = [way.start("echo in") for _connection in range(12)]
    outcomes = [(process.communicate(timeout=60), process.returncode) for process in started]
    assert [outcome for outcome in outcomes if outcome != (("in\n", ""), 0)] == []
    assert way.logins("jump") == 1
    assert way.logins("server") == 12


def test_a_jump_host_behind_a_knock_is_knocked_at_first(bare: Way) -> None:
    way = bare
    way.start_sshd(way.jump, "jump")
    close_server(way)
    daemon = close_jump(way)
    profile = way.write_profile("jump", {"sequence": SEQUENCE_OF_JUMP})
    assert way.ssh("true").returncode == 255
    way.bastion = ["ProxyCommand %s %s %%h %%p" % (KNOCK_PROXY, profile), "ProxyUseFdpass yes"]
    done = way.ssh("echo $SSH_CONNECTION")
    assert done.stdout.split()[:1] == [JUMP], done.stderr
    assert HOME in daemon.log


def test_scp_goes_through_and_arrives_whole(way: Way, tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(os.urandom(3 << 20))
    words = ["scp", *way.options(), str(tmp_path / "here"), "%s:%s" % (SERVER, tmp_path / "there")]
    done = subprocess.run(way.home.command(*words), env=way.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "there").read_bytes() == (tmp_path / "here").read_bytes()
    assert JUMP in daemon_of(way).log


def test_the_previous_sequence_is_tried_from_there_too(way: Way) -> None:
    way.profile.update(sequence="4242,1717,3131", previous=SEQUENCE)
    done = way.ssh("true")
    assert done.returncode == 0, done.stderr


def test_the_name_is_looked_up_by_the_jump_host(way: Way) -> None:
    """`localhost` is another machine there: the jump host itself, whose sshd is open. Nothing listens at home."""
    done = way.proxy(to="localhost", port=22)
    assert done.stdout.startswith("SSH-2.0-"), done.stderr


@pytest.mark.parametrize(
    ("change", "to", "status", "words"),
    [
        ({"sequence": "4242,1717,3131", "timeout": 2}, SERVER, 5, "from bastion: port 22 of 198.18.0.2 stays closed"),
        ({}, "no-such-host.invalid", 3, "from bastion: no address for the host no-such-host.invalid"),
        ({"family": "ipv4"}, "203.0.113.9", 4, "from bastion: no route to 203.0.113.9"),
    ],
)
def test_what_goes_wrong_there_keeps_its_status_and_words(
    way: Way, change: dict[str, Any], to: str, status: int, words: str
) -> None:
    way.profile.update(change)
    done = way.proxy(to)
    assert (done.returncode, done.stdout) == (status, "")
    assert words in done.stderr
    assert "4242" not in done.stderr
    # And ssh says it too, where it would throw stderr away.
    done = way.ssh("true", to=to)
    assert done.returncode == 255
    assert words in done.stderr


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("PATH", "the jump host bastion has no python3, which sends the knocks"),
        ("ForceCommand echo no shell >&2; exit 1", "bastion did not run python3, which sends the knocks from there ("),
        ("AllowTcpForwarding no", "does not connect to 198.18.0.2:22: "),
        ("DenyUsers root", "no login at the jump host bastion: "),
    ],
)
def test_a_jump_host_that_does_not_do_its_part_is_told(bare: Way, line: str, words: str) -> None:
    environment = {"PATH": "/nonexistent"} if line == "PATH" else {}
    bare.start_sshd(bare.jump, "jump", *([] if environment else [line]), **environment)
    close_server(bare)
    done = bare.ssh("true")
    assert done.returncode == 255
    assert "knock-proxy: " in done.stderr and words in done.stderr, done.stderr
    if "AllowTcpForwarding" not in line:
        assert bare.proxy().returncode == 7
    bare.end_masters()
    eventually(lambda: not bare.processes(), "nothing stays behind")


def test_a_jump_host_that_is_not_there_is_told(bare: Way) -> None:
    done = bare.ssh("true")
    assert (
        "no login at the jump host bastion: ssh: connect to host 198.18.1.2 port 22: Connection refused" in done.stderr
    )


def test_what_a_login_shell_says_is_no_answer(bare: Way) -> None:
    bare.start_sshd(bare.jump, "jump", 'ForceCommand echo welcome; sh -c "$SSH_ORIGINAL_COMMAND"')
    close_server(bare)
    done = bare.ssh("true")
    assert done.returncode == 0, done.stderr


def test_no_list_of_processes_shows_the_sequence(way: Way) -> None:
    way.profile.update(delay_ms=300)  # for a sender that is seen
    process = way.start("sleep 1")
    seen: set[str] = set()
    while process.poll() is None:
        seen |= set(run("ps", "axww", "-o", "args").splitlines())
    assert process.returncode == 0, process.communicate()
    assert any(line.startswith("python3 -IS -") for line in seen)
    assert any("-W" in line.split() for line in seen)
    assert not [line for line in seen if KNOCKS[1] in line]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_an_ssh_that_goes_away_during_the_knock_leaves_nothing(way: Way, number: int) -> None:
    way.profile.update(sequence="4242,1717,3131", timeout=30)
    process = way.start("true")
    eventually(lambda: "python3 -IS -" in way.processes(way.jump), "the sender runs")
    process.send_signal(number)
    process.communicate(timeout=20)
    eventually(lambda: len(way.processes().splitlines()) == 1, "only the master is left")


def test_an_ssh_that_is_killed_in_the_session_leaves_nothing(way: Way) -> None:
    process = way.start("sleep 100")
    eventually(lambda: "sleep 100" in way.processes(way.lab.server), "the session is there")
    process.kill()
    process.communicate()
    eventually(lambda: len(way.processes().splitlines()) == 1, "only the master is left")


def test_a_master_that_was_killed_is_replaced(way: Way) -> None:
    assert way.ssh("true").returncode == 0
    for pid in run("ip", "netns", "pids", way.home.name).split():
        os.kill(int(pid), signal.SIGKILL)
    assert len(way.masters()) == 1  # its socket is still there
    done = way.ssh("true")
    assert done.returncode == 0, done.stderr
    assert way.logins("jump") == 2
    assert way.ssh("true").returncode == 0
    assert way.logins("jump") == 2


def test_a_long_runtime_directory_is_no_obstacle(way: Way) -> None:
    way.runtime = way.directory / ("long" * 30) / "run 100%"
    assert [way.ssh("true").returncode for _connection in range(2)] == [0, 0]
    assert way.logins("jump") == 1


def test_a_jump_host_that_freezes_is_given_up(way: Way) -> None:
    way.profile.update(timeout=1)
    assert way.ssh("true").returncode == 0
    way.home.ip("link", "set", "eth0", "down")
    begin = time.monotonic()
    done = way.ssh("true")
    assert done.returncode == 255
    assert "the jump host bastion has not answered for 11 s" in done.stderr
    assert time.monotonic() - begin < 30
    assert not way.masters()


class Inventory:
    """Two hosts of an inventory, web1 behind gate, and the real Ansible at home."""

    def __init__(self, way: Way, gate: dict[str, Any]) -> None:
        way.options()  # writes the file for host keys and the like
        self._way = way
        self._directory = way.directory
        common = {
            "ansible_ssh_args": "-F %s/bastion -o ControlMaster=no" % way.directory,
            "ansible_ssh_private_key_file": "%s/user" % way.directory,
            "ansible_ssh_common_args": "{{ lookup('sesame.knock.ssh_args') }}",
            "knock_jump": "gate",
        }
        hosts = {
            "gate": {"ansible_host": BASTION, **gate},
            "web1": {"ansible_host": SERVER, "knock_sequence": SEQUENCE},
        }
        (way.directory / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts, "vars": common}}))
        tree = way.directory / "collections" / "ansible_collections" / "sesame"
        tree.mkdir(parents=True)
        (tree / "knock").symlink_to(Path(__file__).parents[2])

    def run(self, hosts: str, module: str, arguments: str = "") -> subprocess.CompletedProcess[str]:
        collections = str(self._directory / "collections")
        environment = {**self._way.environment, "ANSIBLE_COLLECTIONS_PATH": collections, "ANSIBLE_NOCOLOR": "1"}
        words = [str(Path(sys.executable).parent / "ansible"), "-i", str(self._directory / "hosts.json"), hosts]
        command = self._way.home.command(*words, "-m", module, "-a", arguments)
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_ansible_goes_through_a_jump_host_that_is_behind_a_knock(bare: Way) -> None:
    """What the lookup ssh_args makes of an inventory, all the way."""
    way = bare
    way.start_sshd(way.jump, "jump")
    close_server(way)
    daemon = close_jump(way)
    done = Inventory(way, gate={"knock_sequence": SEQUENCE_OF_JUMP}).run("all", "raw", "echo from $SSH_CONNECTION")
    assert done.returncode == 0, done.stdout
    assert "from %s " % JUMP in done.stdout  # web1
    assert "from %s " % HOME in done.stdout  # gate, directly
    assert HOME in daemon.log and HOME not in daemon_of(way).log


def test_the_module_knock_knocks_and_looks_from_the_jump_host(way: Way) -> None:
    inventory = Inventory(way, gate={})
    done = inventory.run("web1", "sesame.knock.knock")
    assert done.returncode == 0, done.stdout
    answer = json.loads(done.stdout.partition("=> ")[2])
    assert (answer["address"], answer["knocks"] % 3, answer["was_open"]) == (SERVER, 0, False)
    assert JUMP in daemon_of(way).log and HOME not in daemon_of(way).log
    assert inventory.run("web1", "sesame.knock.knock", "wait=false").returncode == 0
    assert inventory.run("web1", "sesame.knock.knock", "state=closed").returncode == 0
    daemon_of(way).kill()
    failed = inventory.run("web1", "sesame.knock.knock", "timeout=1")
    assert "from %s: port 22 of %s stays closed" % (BASTION, SERVER) in failed.stdout


def test_the_module_knock_says_why_a_jump_host_does_not_knock(bare: Way) -> None:
    """There is no sshd on it."""
    failed = Inventory(bare, gate={}).run("web1", "sesame.knock.knock")
    assert failed.returncode
    assert "the jump host %s is gone: ssh: connect to host %s port 22: Connection refused" % (BASTION, BASTION) in (
        failed.stdout
    )
