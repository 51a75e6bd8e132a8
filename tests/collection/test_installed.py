# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection as a user has it: installed from its tarball, `sesame.knock.site` against a bare host over SSH.

The tests run in the order in which they stand here, on one host: first what must change nothing, then what must be put
back, then the run that succeeds.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
INVENTORY = Path(__file__).parent / "inventory"
SHARED = ROOT / "molecule" / "shared"
HOST = "sesame-installed"
ADDRESS = "198.18.14.13"
ADDRESS6 = "fd00:5e5a:14::13"
KNOCKS = ("31337", "12093", "27205", "9746")
NEXT_SEQUENCE = "4411:tcp,1718:udp,29003:tcp,2204:tcp"
ALLOWED = "198.18.14.200"

FirstRun = tuple[subprocess.CompletedProcess[str], set[str]]
"""The run, and the arguments of all processes meanwhile."""

sys.path.insert(0, str(ROOT / "roles" / "knock_client" / "files"))

from sesame_knock import _knocker


def play(playbook: str | Path, *options: str, **variables: Any) -> subprocess.CompletedProcess[str]:
    """Run a playbook with the collections of ANSIBLE_COLLECTIONS_PATH, which the job has set to the installed copy."""
    command = ["ansible-playbook", "-i", str(INVENTORY), *options, "--extra-vars", json.dumps(variables), str(playbook)]
    # Not in the checkout: nothing of it may help.
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=900, cwd="/")


def on_host(command: str) -> str:
    """What a command on the host prints; `docker exec` does not cross its firewall."""
    run = ["docker", "exec", HOST, "sh", "-c", command]
    return subprocess.run(run, check=True, capture_output=True, text=True, timeout=60).stdout


def is_open(address: str = ADDRESS, port: int = 22) -> bool:
    """Look at a port of the host, without a connection that sshd would count."""
    return _knocker.is_open(_knocker.resolve(address), port)


@pytest.fixture(scope="module", autouse=True)
def bare_host() -> Iterator[None]:
    """A Debian 13 with sshd and nothing of ours."""
    made = play(SHARED / "create.yml")
    assert made.returncode == 0, made.stdout + made.stderr
    try:
        yield
    finally:
        play(SHARED / "destroy.yml")


class ProcessList:
    """Reads the arguments of all processes again and again; the host is a container, so its own are among them."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> ProcessList:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    self.seen.add((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
                except OSError:
                    pass  # it has ended


def shows_the_sequence(text: str) -> list[str]:
    """Lines in which two of the sequence's ports stand, as numbers of their own."""
    port = re.compile(r"(?<![0-9.])(?:%s)(?![0-9])" % "|".join(KNOCKS))
    return [line[:300] for line in text.splitlines() if len(set(port.findall(line))) > 1]


def test_check_mode_runs_through_on_a_bare_host_and_changes_nothing() -> None:
    files = "find /etc /usr/local -type f | sort | xargs md5sum"
    before = on_host(files)
    run = play("sesame.knock.site", "--check", "--diff")
    assert run.returncode == 0, run.stdout + run.stderr
    assert on_host(files) == before
    assert is_open()


def test_a_daemon_that_hears_no_knock_closes_nothing() -> None:
    run = play("sesame.knock.site", knockd_interface="lo")
    assert run.returncode != 0
    assert "nothing has been put back" in run.stdout and "The firewall has not been changed" in run.stdout
    assert is_open() and is_open(ADDRESS6)
    assert "KNOCK" not in on_host("iptables-save 2>/dev/null || true; cat /etc/iptables/rules.v4 2>/dev/null || true")


def test_a_door_that_opens_something_else_is_refused_before_anything_changes() -> None:
    run = play("sesame.knock.site", knockd_open_ports=["2222/tcp"], knock_firewall_escape_port=0)
    assert run.returncode != 0
    assert "opens 22/tcp, which knock_firewall_ports closes" in run.stdout
    assert "changed=0 " in run.stdout


def test_a_door_that_does_not_open_is_noticed_and_everything_put_back() -> None:
    # The daemon admits the controller, but the rules look for another mark: nobody could come back in.
    run = play("sesame.knock.site", knock_firewall_mark="0x2000")
    assert run.returncode != 0
    assert "The rules of before are back" in run.stdout
    assert is_open() and is_open(ADDRESS6)
    rules = on_host("iptables-save; ip6tables-save; cat /etc/iptables/rules.v? 2>/dev/null || true")
    assert "KNOCK" not in rules
    assert "knock-firewall-revert" not in on_host("systemctl list-timers --all")


@pytest.fixture(scope="module")
def idle_session() -> Iterator[subprocess.Popen[str]]:
    """A session that somebody has opened before the first run, and that is idle all through it."""
    directory = ROOT / ".cache" / "collection" / "host"
    options = ["-F", "none", "-i", str(directory / "key"), "-o", "UserKnownHostsFile=%s" % (directory / "known_hosts")]
    session = subprocess.Popen(
        ["ssh", *options, "admin@" + ADDRESS, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield session
    finally:
        session.kill()
        session.wait()


@pytest.fixture(scope="module")
def first_run(idle_session: subprocess.Popen[str]) -> FirstRun:
    """The run that succeeds, as talkative as it can be, and the arguments of all processes meanwhile."""
    with ProcessList() as processes:
        run = play("sesame.knock.site", "-vvv", "--diff")
    return run, processes.seen


def test_the_play_runs_from_the_installed_copy(
    first_run: FirstRun,
) -> None:
    run, _processes = first_run
    assert run.returncode == 0, run.stdout[-20000:] + run.stderr
    paths = re.findall(r"^task path: (.*):\d+$", run.stdout, re.MULTILINE)
    installed = os.environ["ANSIBLE_COLLECTIONS_PATH"] + "/ansible_collections/sesame/knock/"
    assert paths and all(path.startswith(installed) for path in paths)


def test_an_idle_session_from_before_lives_on(first_run: FirstRun, idle_session: subprocess.Popen[str]) -> None:
    assert idle_session.stdin and idle_session.stdout
    print("still here", file=idle_session.stdin, flush=True)
    assert idle_session.stdout.readline() == "still here\n"


def test_nothing_that_the_run_prints_shows_the_sequence(
    first_run: FirstRun,
) -> None:
    run, _processes = first_run
    assert "Write the configuration" in run.stdout and "+-A KNOCK" in run.stdout  # it is talkative
    assert shows_the_sequence(run.stdout + run.stderr) == []


def test_no_process_has_had_the_sequence_in_its_arguments(
    first_run: FirstRun,
) -> None:
    _run, processes = first_run
    assert any("knock-proxy" in arguments for arguments in processes)
    assert [arguments for arguments in processes if shows_the_sequence(arguments.replace("\n", " "))] == []


def test_the_port_is_closed_in_both_families_and_opens_to_a_knock(
    first_run: FirstRun,
) -> None:
    for address in (ADDRESS, ADDRESS6):
        _knocker.wait_closed(_knocker.resolve(address), 22)
    run = play("sesame.knock.site", "--check")
    assert run.returncode == 0 and re.search(r"changed=0 ", run.stdout), run.stdout


def test_the_way_out_listens_beside_port_22_for_the_allowlist_alone(
    first_run: FirstRun,
) -> None:
    assert {"port 22", "port 2222"} <= set(on_host("sshd -T | grep '^port '").splitlines())
    assert re.search(r":2222\s", on_host("ss -H -ltn"))
    assert not is_open(port=2222) and not is_open(ADDRESS6, 2222)
    connect = "import socket; print(socket.create_connection(('%s', 2222), 5).recv(9).decode())" % ADDRESS
    client = ["docker", "run", "--rm", "--network", HOST, "--ip", ALLOWED]
    client += ["--label", "sesame.knock=host", "--label", "sesame.knock.clone=%s" % ROOT]
    client += ["--entrypoint", "python3", "sesame-knock:trixie", "-c", connect]
    assert subprocess.run(client, capture_output=True, text=True, timeout=60).stdout.startswith("SSH-2.0")


def test_a_task_after_the_door_has_closed_knocks_by_itself(
    first_run: FirstRun,
) -> None:
    _knocker.wait_closed(_knocker.resolve(ADDRESS), 22)
    ping = ["ansible", "-i", str(INVENTORY), HOST, "-m", "ansible.builtin.ping"]
    environment = {**os.environ, "ANSIBLE_SSH_ARGS": "-o ControlMaster=no"}  # a connection of its own
    answer = subprocess.run(ping, capture_output=True, text=True, timeout=120, cwd="/", env=environment)
    assert answer.returncode == 0 and '"pong"' in answer.stdout, answer.stdout + answer.stderr
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((ADDRESS6, 22), 2).close()


def test_a_daemon_that_hears_no_knock_goes_back_to_the_one_that_did(first_run: FirstRun) -> None:
    files = "cat /etc/default/knockd /etc/systemd/system/knockd.service /etc/knockd.conf; ls -R /usr/local/lib"
    before = on_host(files)
    run = play("sesame.knock.site", knockd_interface="lo", knockd_open_timeout=3, knockd_lookup=True)
    assert run.returncode != 0 and "rescued=1" in run.stdout, run.stdout
    assert "the previous daemon admits the controller" in run.stdout
    assert on_host(files) == before
    assert on_host("ls /etc/systemd/system/knockd.service.d") == ""
    assert "knockd-restore.timer" not in on_host("systemctl list-timers --all")
    assert play(SHARED / "hang_up.yml").returncode == 0
    _knocker.wait_closed(_knocker.resolve(ADDRESS), 22)
    ping = ["ansible", "-i", str(INVENTORY), HOST, "-m", "ansible.builtin.ping"]
    assert subprocess.run(ping, capture_output=True, timeout=120, cwd="/").returncode == 0


def test_a_new_sequence_is_brought_in_through_the_previous_one(first_run: FirstRun) -> None:
    assert play(SHARED / "hang_up.yml").returncode == 0  # no connection of before may help
    _knocker.wait_closed(_knocker.resolve(ADDRESS), 22)
    before = ["31337/tcp", "12093/udp", "27205/tcp", "9746/udp"]
    run = play("sesame.knock.site", knock_sequence=NEXT_SEQUENCE, knock_sequence_previous=before)
    assert run.returncode == 0, run.stdout
    assert NEXT_SEQUENCE in on_host("cat /etc/knockd.conf") and KNOCKS[0] not in on_host("cat /etc/knockd.conf")


def test_verify_proves_it_again_and_changes_nothing(first_run: FirstRun) -> None:
    assert play(SHARED / "hang_up.yml").returncode == 0
    run = play("sesame.knock.verify", knock_sequence=NEXT_SEQUENCE)
    assert run.returncode == 0 and "changed=0 " in run.stdout, run.stdout
    assert re.search(r"host +closed +opens +closes +allowlist +v6 +boot +versions", run.stdout)
    assert re.search(r"%s +yes +yes, [0-9.]+ s +yes +yes, 2 +yes +yes +knockd " % HOST, run.stdout), run.stdout


def test_verify_shows_all_hosts_and_fails_for_those_that_are_not_as_they_should_be(first_run: FirstRun) -> None:
    on_host("systemctl stop knock-firewall-check.timer")  # it would put our rules back
    on_host("systemctl disable --quiet netfilter-persistent; iptables -A KNOCK-ADMIT -s 198.18.99.0/24 -j RETURN")
    try:
        run = play("sesame.knock.verify", "-i", "absent,", knock_sequence=NEXT_SEQUENCE)
    finally:
        on_host("systemctl enable --quiet netfilter-persistent; systemctl start knock-firewall-check.timer")
        on_host("knock-firewall check && ! iptables-save | grep 198.18.99.0")
    assert run.returncode != 0
    assert "allowlist: NO: live are " in run.stdout
    assert "boot: NO: netfilter-persistent not enabled" in run.stdout
    assert re.search(r"absent +NO: ", run.stdout)
    assert len(re.findall(r"changed=0 .*failed=1", run.stdout)) == 2, run.stdout


def test_uninstall_opens_the_port_and_leaves_nothing_of_ours(first_run: FirstRun) -> None:
    run = play("sesame.knock.uninstall", knock_sequence=NEXT_SEQUENCE)
    assert run.returncode == 0, run.stdout
    assert is_open() and is_open(ADDRESS6)
    assert "KNOCK" not in on_host("iptables-save; ip6tables-save; cat /etc/iptables/rules.v? 2>/dev/null || true")
    assert on_host("sshd -T | grep '^port '") == "port 22\n"
    left = "find / -xdev -name '*knock*' -not -path '/opt/debs/*' -not -path '/proc/*' -not -path '/run/*'"
    assert on_host(left) == ""
    assert re.search(r"changed=0 ", play("sesame.knock.uninstall").stdout)
