# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action of `sesame.knock.firewall`: applies on the host, proves from the controller, confirms over a new login.

The connection that is open when the task begins stays open until it ends: if the new one does not come about, the old
one takes the change back at once, and if that is gone too, the host does it alone.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
import shutil
import tempfile
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import connection_loader, lookup_loader
from ansible.utils.display import Display

from ansible_collections.sesame.knock.plugins.module_utils._firewall_task import (
    ARGUMENT_SPEC,
    CHECKS,
    ON_THE_CONTROLLER,
)
from ansible_collections.sesame.knock.plugins.module_utils._host_command import COMMAND
from ansible_collections.sesame.knock.plugins.module_utils._knock_task import fill_in
from ansible_collections.sesame.knock.plugins.module_utils._knocker import KnockError, StillOpen
from ansible_collections.sesame.knock.plugins.module_utils._rules import Ports, parse_ports
from ansible_collections.sesame.knock.plugins.module_utils._sequence import SequenceError, parse_sequence
from ansible_collections.sesame.knock.plugins.plugin_utils._inventory.origin import origin_for

display = Display()

A_SESSION_OF_ITS_OWN = (
    "-o ControlMaster=auto -o ControlPersist=60s -o ControlPath=%s -o ServerAliveInterval=5 -o ServerAliveCountMax=3"
)
"""For ssh: one new connection for the proof and the confirmation, which notices when the network is gone."""

PATIENCE = 20
"""Seconds until a host that is asked to take a change back is believed to be out of reach."""


class NotProven(Exception):
    """The controller has not come back in; the message says how far it got."""


class ActionModule(ActionBase):
    """What Ansible looks for."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False
    _connection: Any

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Do what `state` says: `present` in all its steps, the others by the module alone."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        self._vars = task_vars or {}
        checked = ArgumentSpecValidator(ARGUMENT_SPEC, **CHECKS).validate(self._arguments())
        if checked.error_messages:
            return dict(result, failed=True, msg="sesame.knock.firewall: %s" % "; ".join(checked.error_messages))
        self._parameters = checked.validated_parameters
        if self._parameters["state"] != "present":
            return dict(result, **self._module(state=self._parameters["state"]))
        try:
            self._knocks = parse_sequence(self._parameters["sequence"]) if self._parameters["sequence"] else ()
            closing = self._parameters["close_sequence"]
            self._closing_knocks = parse_sequence(closing) if closing else ()
        except SequenceError as error:
            return dict(result, failed=True, msg="sesame.knock.firewall: sequence: %s" % error)
        if self._parameters["prove"] and not self._knocks:
            return dict(
                result,
                failed=True,
                msg="sesame.knock.firewall: prove needs a sequence: set knock_sequence, or prove: false",
            )
        lookup = lookup_loader.get("sesame.knock.ssh_args", loader=self._loader, templar=self._templar)
        try:
            self._origin = origin_for(lookup, self._connection, self._vars)
        except ValueError as error:  # a jump host that is none
            return dict(result, failed=True, msg="sesame.knock.firewall: %s" % error)
        try:
            result.update(self._module(state="applied"))
        except AnsibleConnectionFailure as error:
            raise AnsibleConnectionFailure(
                "%s. If rules had changed by then, the host puts those of before back within %d s"
                % (error, self._parameters["revert_after"])
            ) from error
        if result.get("failed") or self._task.check_mode or not result["armed"]:
            return result
        return self._prove_and_confirm(result)

    def _arguments(self) -> dict[str, Any]:
        if self._task.args.get("state", "present") != "present":
            return dict(self._task.args)
        return fill_in(self._task.args, self._vars, self._templar.template)

    def _module(self, **changed: Any) -> dict[str, Any]:
        """What the module on the host answers."""
        arguments = {name: value for name, value in self._task.args.items() if name not in ON_THE_CONTROLLER}
        answer: dict[str, Any] = self._execute_module(
            module_name="sesame.knock.firewall", module_args={**arguments, **changed}, task_vars=self._vars
        )
        return answer

    # --- the steps of a change ---------------------------------------------------------------------------------------

    def _prove_and_confirm(self, result: dict[str, Any]) -> dict[str, Any]:
        token, seconds = result["token"], self._parameters["revert_after"]
        result["proof"] = []
        lifeline = self._connection
        try:
            try:
                if self._parameters["prove"] and result["changes_live"]:
                    self._prove(result)
                told = self._command("confirm", token)
                if told:
                    display.warning("%s: %s" % (self._vars.get("inventory_hostname"), told))
            finally:
                if self._connection is not lifeline:
                    self._hang_up(self._connection)
                self._connection = lifeline
        except (NotProven, KnockError, AnsibleError) as failure:
            answer = self._take_back(token)
            if answer.startswith("kept"):  # only the answer to the confirmation was lost
                result["proof"].append("the host says that the change was confirmed")
                return result
            end = {
                "reverted": "The rules of before are back",
                "nothing waits": "The host has put the rules of before back, or another run has come in between",
            }.get(answer, "The host does not answer: within %d s it puts the rules of before back by itself" % seconds)
            return dict(result, failed=True, changed=False, msg="%s. %s." % (str(failure).rstrip("."), end))
        return result

    def _prove(self, result: dict[str, Any]) -> None:
        """See the port closed, knock, log in over a new connection, see the port closed again. Raises if one fails."""
        target = self._origin.resolve(self._parameters["host"])
        port = self._parameters["port"] or 22
        session = self._session()
        seen = session[0].partition("%")[0] if session else ""
        result["seen_address"] = seen
        steps = result["proof"]
        is_stranger = not self._needs_no_knock(seen)

        if is_stranger:
            self._close(target, port)
            steps.append("port %d is closed without a knock" % port)
            self._origin.wait_open(target, port, [self._knocks])
            steps.append("a knock opens it")
        else:
            steps.append("%s is on the allowlist: that strangers are refused cannot be seen from there" % seen)
            if self._parameters["native"]:
                self._knock_until_admitted(target, seen, int(session[3]))
                steps.append("the kernel has admitted it by a knock")
            else:
                self._origin.knock(target, self._knocks)
            if not self._origin.is_open(target, port):
                raise NotProven("port %d of %s is closed to its allowlist" % (port, target))

        self._connection = self._new_connection()
        again = self._session()
        if session and again == session:
            raise NotProven("No new connection came about: ssh shares the one of before the change")
        steps.append("a new login works")
        if is_stranger:
            self._close(target, port)
            steps.append("the port is closed again")

    def _close(self, target: Any, port: int) -> None:
        """Wait for the door to close; a door that stays open gets its closing knock."""
        patience = self._parameters["open_timeout"] + 10
        if not self._closing_knocks:
            return self._origin.wait_closed(target, port, patience)
        for attempts_left in (2, 1, 0):
            self._origin.knock(target, self._closing_knocks)
            try:
                return self._origin.wait_closed(target, port, patience / 3)
            except StillOpen:
                if not attempts_left:
                    raise

    def _knock_until_admitted(self, target: Any, seen: str, port: int) -> None:
        """Knock until the kernel admits this address to this port, or if that is open to a protected one."""
        gates = self._parameters["gates"]
        protected = [ports for ports in map(parse_ports, gates[0]["ports"]) if ports.protocol == "tcp"]
        own = Ports(port, port, "tcp")
        login = [own] if any(map(own.overlaps, protected)) else protected
        for dummy in range(3):
            self._origin.knock(target, self._knocks)
            answer = self._execute_module(module_name="sesame.knock.knock_info", module_args={}, task_vars=self._vars)
            if answer.get("failed"):
                raise NotProven("the host does not say whom it admits: %s" % answer.get("msg", ""))
            if any(_same(entry["address"], seen) and _reaches(entry, login) for entry in answer["admitted"]):
                return
        raise NotProven(
            "knockd does not admit %s, the address that the host sees, to port %s, though it has knocked"
            % (seen, " or ".join(map(str, login)))
        )

    def _needs_no_knock(self, address: str) -> bool:
        gates = self._parameters["gates"]
        try:
            source = ipaddress.ip_address(address)
            return any(source in ipaddress.ip_network(network) for network in gates[0]["allow"]) if gates else False
        except ValueError:
            return False  # no ssh, so no address

    # --- the host, over the connection of the moment -----------------------------------------------------------------

    def _session(self) -> list[str]:
        """Who talks to whom, as sshd sees it: address, port, address, port. Empty where it is no ssh."""
        become, self._connection.become = self._connection.become, None  # sudo forgets the variable
        try:
            answer = self._low_level_execute_command("printenv SSH_CONNECTION", sudoable=False)
        finally:
            self._connection.become = become
        words = str(answer["stdout"]).split()
        return words if len(words) == 4 else []

    def _new_connection(self) -> Any:
        """Another connection to the host, which shares nothing with the one that is open."""
        old = self._connection
        new = connection_loader.get(old.ansible_name, self._play_context)
        options = old.get_options()
        if "ssh_args" in options:
            # ssh takes the first of two values of an option; and a socket's path has to be short
            own = A_SESSION_OF_ITS_OWN % os.path.join(tempfile.mkdtemp(prefix="knock-"), "s")
            options["ssh_args"] = "%s %s" % (own, options["ssh_args"] or "")
        new.set_options(direct=options)
        new.set_become_plugin(old.become)
        # What the connection knows of the shell and the user does not come with its options
        new._shell = old._shell
        return new

    def _hang_up(self, connection: Any) -> None:
        """End a connection of `_new_connection`."""
        connection.reset()
        connection.close()
        if "ssh_args" in connection.get_options():
            socket = re.search(r"ControlPath=(\S+)", connection.get_option("ssh_args"))
            shutil.rmtree(os.path.dirname(socket[1]) if socket else "", ignore_errors=True)

    def _command(self, *arguments: str) -> str:
        """Run the host's `knock-firewall`; raises NotProven if it fails, and Ansible's own if the host is gone."""
        answer = self._low_level_execute_command(shlex.join([COMMAND, *arguments]))
        if answer["rc"] != 0:
            what = "%s%s" % (answer.get("stderr", ""), answer["stdout"])
            raise NotProven("knock-firewall %s: %s" % (arguments[0], what.strip()))
        # Where ssh has a terminal, what a script of the host complains of comes first
        return str(answer["stdout"]).strip().rpartition("\n")[2]

    def _take_back(self, token: str) -> str:
        """What `knock-firewall revert` says over the old connection, or else a new one; empty if both are gone."""
        said = self._revert(token)
        if not said:
            self._connection = self._new_connection()
            said = self._revert(token)
            self._hang_up(self._connection)
        return said

    def _revert(self, token: str) -> str:
        answer: SimpleQueue[str] = SimpleQueue()

        def ask() -> None:
            try:
                answer.put(self._command("revert", token))
            except (NotProven, AnsibleError) as error:
                display.vv("taking the change back: %s" % error)
                answer.put("")

        # Over a network that is cut, ssh itself waits for many minutes
        Thread(target=ask, daemon=True).start()
        try:
            return answer.get(timeout=PATIENCE)
        except Empty:
            return ""


def _reaches(entry: dict[str, Any], login: list[Ports]) -> bool:
    """Whether an admission is to one of these ports."""
    return any(map(parse_ports("%s/%s" % (entry["port"], entry["protocol"])).overlaps, login))


def _same(one: str, other: str) -> bool:
    return ipaddress.ip_address(one) == ipaddress.ip_address(other) if other else False
