# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action of `sesame.knock.knock`: knocks from the controller, or has the module do it where it is delegated to."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader

from ansible_collections.sesame.knock.plugins.module_utils._knock_task import ARGUMENT_SPEC, BadTask, fill_in, perform
from ansible_collections.sesame.knock.plugins.module_utils._knocker import KnockError
from ansible_collections.sesame.knock.plugins.plugin_utils._inventory.origin import origin_for


class ActionModule(ActionBase):
    """What Ansible looks for."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Fill in the arguments for the host that the task is for, then knock."""
        result = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        arguments = fill_in(self._task.args, task_vars, self._templar.template)
        checked = ArgumentSpecValidator(ARGUMENT_SPEC).validate(arguments)
        if checked.error_messages:
            return dict(result, failed=True, msg="sesame.knock.knock: %s" % "; ".join(checked.error_messages))
        if self._task.delegate_to:
            result.update(
                self._execute_module(module_name="sesame.knock.knock", module_args=arguments, task_vars=task_vars)
            )
            return result
        lookup = lookup_loader.get("sesame.knock.ssh_args", loader=self._loader, templar=self._templar)
        try:
            origin = origin_for(lookup, self._connection, task_vars)
            result.update(perform(checked.validated_parameters, self._task.check_mode, origin))
        except (BadTask, KnockError, ValueError) as error:  # the last one of a sequence, or a jump that is none
            result.update(failed=True, msg=str(error))
        return result
