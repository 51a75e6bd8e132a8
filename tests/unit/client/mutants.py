# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The client's tests can fail: each feature is taken out of a copy of the project, and its test has to see that.

Run by `make client-mutants` (as root, for those of tests/netns), and not by `make test`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Iterator, NamedTuple

import pytest

from ...taken_out import take_out

ROOT = Path(__file__).parents[3]
UTILS = "plugins/module_utils/"
KNOCKER, PROFILE, MEMO, JUMP = (UTILS + name for name in ("_knocker.py", "_profile.py", "_memo.py", "_jump.py"))
CLIENT = "roles/knock_client/files/sesame_knock/"
PROXY, COMMAND, ACCOUNT = (CLIENT + name for name in ("proxy.py", "knock.py", "account.py"))
COMPLETION = "roles/knock_client/files/completion/knock.bash"
ROLE = "roles/knock_client/tasks/ssh.yml"
SSH_ARGS, LOOKUP = "plugins/lookup/ssh_args.py", "plugins/lookup/knock.py"
ACTION, TASK = "plugins/action/knock.py", UTILS + "_knock_task.py"
HERE, NETNS = "tests/unit/client/", "tests/netns/"


class Mutant(NamedTuple):
    """The project without one feature."""

    lacks: str
    file: str
    old: str
    new: str
    test: str
    """What has to fail."""


MUTANTS = (
    # The knocker
    Mutant("one address", KNOCKER, "sock.sendto(b", "sock.sendto(b'', resolve('127.0.0.2').at(item.port)) or (b",
           HERE + "test_knocker.py::test_all_knocks_and_the_connect_go_to_one_address"),
    Mutant("the family", KNOCKER, "None, _FAMILIES[family], socket", "None, 0, socket",
           HERE + "test_knocker.py::test_a_host_without_an_address_of_the_family_is_not_resolved"),
    Mutant("udp", KNOCKER, 'if item.protocol == "udp":', "if False:",
           HERE + "test_knocker.py::test_knocks_arrive_in_order"),
    Mutant("slower after a miss", KNOCKER, "min(delay * 4**rounds, SLOWEST_DELAY)", "delay",
           HERE + "test_knocker.py::test_each_repetition_is_slower"),
    Mutant("repetition", KNOCKER, "            attempt += 1\n            if time.monotonic() >= deadline:",
           "            attempt += 1\n            if True:",
           HERE + "test_knocker.py::test_a_knock_that_was_lost_is_repeated"),
    Mutant("jitter", KNOCKER, " * (1 + os.urandom(1)[0] / 512)", "",
           HERE + "test_knocker.py::test_clients_that_fail_together_knock_at_different_times_then"),
    Mutant("staggered connects", KNOCKER, "_FIRST_GAP, _LAST_GAP = 0.003, 0.25", "_FIRST_GAP, _LAST_GAP = 3.0, 3.0",
           HERE + "test_knocker.py::test_a_port_that_opens_late_is_reached_without_another_knock"),
    Mutant("connects that race", KNOCKER, "_FIRST_GAP, _LAST_GAP = 0.003, 0.25", "_FIRST_GAP, _LAST_GAP = 3.0, 3.0",
           NETNS + "test_client.py::test_a_connect_that_comes_too_early_delays_nothing"),
    Mutant("the deadline", KNOCKER, "    deadline = time.monotonic() + timeout\n    attempt",
           "    deadline = time.monotonic() + 20 * timeout\n    attempt",
           HERE + "test_knocker.py::test_the_deadline_ends_it"),
    Mutant("looks that cost nothing", KNOCKER, "socket.TCP_DEFER_ACCEPT, 1)", "socket.TCP_DEFER_ACCEPT, 0)",
           HERE + "test_knocker.py::test_looking_costs_the_server_no_connection"),
    Mutant("waits that cost nothing", KNOCKER, "socket.TCP_DEFER_ACCEPT, 1)", "socket.TCP_DEFER_ACCEPT, 0)",
           NETNS + "test_client.py::test_waiting_costs_no_connection_at_all"),
    Mutant("open without a knock", KNOCKER, "self.was_open = sock is", "self.was_open = False and sock is",
           HERE + "test_knocker.py::test_that_a_port_was_open_without_the_knock_is_told"),
    Mutant("the status of an unknown host", KNOCKER, "status = 3", "status = 1",
           HERE + "test_knock_proxy.py::test_the_statuses_tell_what_is_wrong_and_no_message_tells_the_sequence"),
    Mutant("the status of no route", KNOCKER, "status = 4", "status = 1",
           HERE + "test_knock_names.py::test_errors_are_json_with_the_same_status"),
    Mutant("the status of a closed port", KNOCKER, "status = 5", "status = 1",
           HERE + "test_knock_proxy.py::test_the_statuses_tell_what_is_wrong_and_no_message_tells_the_sequence"),
    Mutant("the likely causes", KNOCKER, "(NAT, VPN)", "",
           HERE + "test_knocker.py::test_a_closed_port_is_told_without_the_sequence"),
    # knock-proxy
    Mutant("fd passing", PROXY, "return stat.S_ISSOCK(os.fstat(STDOUT).st_mode)", "return False",
           HERE + "test_knock_proxy.py::test_ssh_gets_the_connected_socket"),
    Mutant("nothing in between", PROXY, "return stat.S_ISSOCK(os.fstat(STDOUT).st_mode)", "return False",
           HERE + "test_knock_proxy.py::test_ssh_logs_in_through_the_knock_and_nothing_stands_between"),
    Mutant("the relay", PROXY, "                _write(data)\n", "                pass\n",
           HERE + "test_knock_proxy.py::test_without_a_socket_it_relays_both_ways"),
    Mutant("keep-alive", PROXY, "connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)", "pass",
           HERE + "test_knock_proxy.py::test_ssh_gets_the_connected_socket"),
    Mutant("the bind address", KNOCKER, "        if target.source:\n", "        if False:\n",
           HERE + "test_knocker.py::test_knocks_leave_from_the_address_that_was_asked_for"),
    Mutant("0600", PROFILE, "& 0o077", "& 0", HERE + "test_profile.py::test_a_profile_that_others_can_read_is_refused"),
    Mutant("few imports", PROXY, "import array\n", "import array\nimport typing\n",
           HERE + "test_knock_proxy.py::test_it_imports_little"),
    Mutant("what ssh says of an error", PROXY, "    if is_passing_descriptors():\n        try:",
           "    if False:\n        try:",
           HERE + "test_knock_proxy.py::test_ssh_itself_says_what_is_wrong_also_where_it_throws_stderr_away"),
    Mutant("the jump host", PROXY, "        if profile.jump:\n", "        if False:\n",
           NETNS + "test_jump.py::test_the_knock_and_the_connection_leave_from_the_jump_host"),
    Mutant("an ignored jump is an error", JUMP,
           '    for option, value in _options_in(arguments):\n        if option == "-J"',
           '    for option, value in ():\n        if option == "-J"',
           HERE + "test_jump.py::test_a_jump_that_would_be_ignored_is_an_error"),
    # The command knock
    Mutant("--wait", COMMAND, "    if order.port:\n        state = wait(", "    if False:\n        state = wait(",
           HERE + "test_knock_command.py::test_a_port_that_stays_closed_is_status_5"),
    Mutant("--json", COMMAND, "    if order.json:\n        print_json(account",
           "    if False:\n        print_json(account",
           HERE + "test_knock_names.py::test_json_says_how_it_went"),
    Mutant("names", COMMAND, "profile = read_named(rest[0])", "profile = read_profile(rest[0])",
           HERE + "test_knock_names.py::test_a_name_is_a_host_a_port_and_a_sequence"),
    Mutant("C knock's --udp", COMMAND, 'Knock(item.port, "udp")', "item",
           HERE + "test_knock_command.py::test_it_speaks_as_c_knock_does"),
    Mutant("the account of -v", COMMAND, "            order.verbose = True", "            pass",
           HERE + "test_knock_names.py::test_the_account_tells_each_step_and_its_time"),
    Mutant("--check", COMMAND, "return WAS_OPEN_STATUS if", "return 0 if",
           HERE + "test_knock_names.py::test_a_port_that_was_open_before_is_told_and_costs_no_connection"),
    Mutant("the completion", COMPLETION, "complete ", ": complete ", HERE + "test_completion.py::test_tab_in_bash"),
    # The role knock_client
    Mutant("removing a host", ROLE, 'loop: "{{ __knock_client_managed | difference(knock_client_hosts) }}"', "loop: []",
           HERE + "test_role.py::test_it_makes_what_it_says_twice_the_same_and_takes_all_of_it_away"),
    Mutant("the include", ROLE, "block: Include sesame_knock.conf", "block: '#'",
           HERE + "test_role.py::test_ssh_and_the_commands_work_from_there"),
    # Ansible
    Mutant("the line", SSH_ARGS, "            return [self._words_for(variables)]", '            return [""]',
           HERE + "test_ansible.py::test_ssh_args_name_a_private_profile"),
    Mutant("the host of the task", SSH_ARGS, "given_sequences(variables, self._templar)",
           'given_sequences(variables["hostvars"][variables["inventory_hostname"]], self._templar)',
           HERE + "test_ansible.py::test_delegation_takes_the_sequence_of_the_host_that_is_connected_to"),
    Mutant("no sequence, no ProxyCommand", SSH_ARGS,
           '        if not sequences and variables.get(_variables.JUMP) is None:\n            return ""',
           '        sequences = sequences or {"sequence": "1"}',
           HERE + "test_ansible.py::test_a_host_without_a_sequence_gets_no_arguments"),
    Mutant("one knock per window", MEMO, "0 <= time.time() - found.st_mtime < seconds", "False",
           HERE + "test_ansible.py::test_the_lookup_knocks_once_for_all_evaluations_and_forks"),
    Mutant("the end of the window", MEMO, "0 <= time.time() - found.st_mtime < seconds", "True",
           HERE + "test_ansible.py::test_the_lookup_knocks_again_when_the_door_may_be_closed"),
    Mutant("the lock", MEMO, "        fcntl.flock(descriptor, fcntl.LOCK_EX)", "        pass",
           HERE + "test_ansible.py::test_the_lookup_knocks_once_for_all_evaluations_and_forks"),
    Mutant("names by a key", UTILS + "_runtime.py", "hmac.digest(self._secret,", "hmac.digest(b'everybody',",
           HERE + "test_runtime.py::test_a_name_tells_nothing_of_the_sequence"),
    Mutant("confirm", LOOKUP, 'return not self.get_option("confirm") or', "return True or",
           HERE + "test_ansible.py::test_a_remembered_knock_is_confirmed_on_request"),
    Mutant("nothing in check mode", LOOKUP, "if sequences and not in_check_mode(variables):", "if sequences:",
           HERE + "test_ansible.py::test_the_lookup_sends_nothing_in_check_mode_or_without_a_sequence"),
    Mutant("ansible_host by the lookup", LOOKUP, 'self._variable(variables, "knock_host", "inventory_hostname")',
           'self._variable(variables, "ansible_host")',
           HERE + "test_ansible.py::test_the_lookup_can_be_the_ansible_host"),
    Mutant("the module's knock", TASK, "        opened = origin.wait_open(target, port, [knocks], delay, timeout)",
           "        opened = origin.wait_open(target, port, [()], delay, timeout)",
           HERE + "test_ansible.py::test_the_module_knocks_from_the_controller_for_the_host_of_the_task"),
    Mutant("the module's check mode", TASK, "    if check_mode:\n", "    if False:\n",
           HERE + "test_ansible.py::test_in_check_mode_the_module_sends_nothing_and_says_what_it_would"),
    Mutant("the module's jump host", ACTION, "origin = origin_for(lookup, self._connection, task_vars)",
           "from ansible_collections.sesame.knock.plugins.module_utils import _knocker as origin",
           NETNS + "test_jump.py::test_the_module_knock_knocks_and_looks_from_the_jump_host"),
    Mutant("bad lines", KNOCKER, "_WINDOWS = (0.5, 1.2, 2.0)", "_WINDOWS = (0.03, 0.03, 0.03)",
           NETNS + "test_slow_line.py::test_a_long_way_makes_no_second_connection"),
)  # fmt: skip


NEED_NO_LINE = {
    "test_without_the_line_nobody_gets_in",
    "test_a_host_without_a_sequence_is_reached_without_a_proxy",
    "test_a_task_on_the_controller_itself_knocks_at_nobody",
    "test_synchronize_knocks_through_ssh_config",
    "test_synchronize_with_neither_fails_by_the_error_of_the_docs",
    "test_ssh_retries_knock_anew",  # without a retry, the host is out of reach anyway
}
"""Of the tests of Ansible's features: those of what is not knocked for, or by ssh_config."""


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The project, where something can be taken out."""
    made = tmp_path_factory.mktemp("mutants") / "knock"
    shutil.copytree(ROOT, made, symlinks=True, ignore=shutil.ignore_patterns(".cache", ".git", "__pycache__"))
    (made / ".cache").mkdir()
    (made / ".cache" / "c-knockd").symlink_to(ROOT / ".cache" / "c-knockd")
    home = made / ".cache" / "collections" / "ansible_collections" / "sesame"
    home.mkdir(parents=True)
    (home / "knock").symlink_to(made)
    yield made
    shutil.rmtree(made)


@contextlib.contextmanager
def without(copy: Path, mutant: Mutant) -> Iterator[None]:
    """Take the feature out of the copy, and put it back."""
    path = copy / mutant.file
    whole = path.read_text(encoding="utf-8")
    take_out(path, mutant.old, mutant.new)
    try:
        yield
    finally:
        path.write_text(whole, encoding="utf-8")


def run(copy: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    """Run tests of the copy, which see nothing but the copy."""
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(copy / ".cache" / "collections"),
        "PYTHONPATH": str(ROOT / ".cache" / "fleet" / "mitogen"),
        "SESAME_FLEET_HOSTS": "10",
    }
    words = [sys.executable, "-m", "pytest", "-q", *tests]
    return subprocess.run(words, cwd=copy, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_with_all_features_these_tests_pass(copy: Path) -> None:
    done = run(copy, "-x", *sorted({mutant.test for mutant in MUTANTS}))
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.lacks for mutant in MUTANTS])
def test_a_missing_feature_is_seen(copy: Path, mutant: Mutant) -> None:
    with without(copy, mutant):
        done = run(copy, mutant.test)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout


def test_without_the_line_no_feature_of_ansible_works(copy: Path) -> None:
    (the_line,) = (mutant for mutant in MUTANTS if mutant.lacks == "the line")
    with without(copy, the_line):
        done = run(copy, "--tb=no", "-rpf", "tests/fleet/test_ansible.py")
    passed, failed = (re.findall(r"^%s \S+::(\S+)" % word, done.stdout, re.MULTILINE) for word in ("PASSED", "FAILED"))
    assert len(failed) > 30, done.stdout
    assert {name.partition("[")[0] for name in passed} == NEED_NO_LINE, done.stdout
