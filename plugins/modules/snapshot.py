#!/usr/bin/python
# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps the files of a service that a run is about to replace, and puts them back unless the new ones are proven."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: snapshot
author:
  - The sesame.knock authors (@sesame-knock)
version_added: 0.1.0
short_description: Keep the files of a running service until what replaces them is proven
description:
  - Copies files before a run replaces them, and puts them back if the run fails. If nobody comes back to say how the
    run has ended, the host does so by itself, by a timer, and at boot.
  - There is one snapshot on a host. What an unproven run has left is put back before the next run keeps anything.
options:
  state:
    description:
      - V(kept) copies O(paths) if O(unit) is running, and installs the unit that puts them back at boot.
      - V(armed) starts the timer.
      - V(proven) stops the timer. The files are still there for V(restored), but the host no longer acts by itself.
        It fails if there is no snapshot, since the timer has put the files back then.
      - V(restored) puts the files back and restarts the unit, and V(dropped) forgets the snapshot.
      - V(absent) forgets it too, and removes the unit that acts at boot.
      - Without a snapshot V(armed), V(restored) and V(dropped) do nothing.
    type: str
    choices: [kept, armed, proven, restored, dropped, absent]
    required: true
  paths:
    description: The files and folders. One that is not there is removed by V(restored). Required for O(state=kept).
    type: list
    elements: path
  unit:
    description: The unit that is restarted after the files are back. Required for O(state=kept).
    type: str
  seconds:
    description: How long the timer of V(armed) waits.
    type: int
    default: 300
attributes:
  check_mode:
    description: Changes nothing, and there is never a snapshot.
    support: full
  diff_mode:
    description: Files may hold secrets, so none is shown.
    support: none
"""

EXAMPLES = r"""
- name: Keep what the next tasks replace
  sesame.knock.snapshot:
    state: kept
    paths: [/etc/knockd.conf, /etc/default/knockd]
    unit: knockd.service

- name: Put it back, as the new daemon hears nothing
  sesame.knock.snapshot:
    state: restored
"""

RETURN = r"""
kept:
  description: Whether there is a snapshot now.
  returned: always
  type: bool
"""

import os
import shutil
import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.sesame.knock.plugins.module_utils._files import read, write

PLACE = "/var/lib/sesame-knock/previous"
PENDING = PLACE + "/pending"
"""There from before the first change until the new files are proven: a run that ends in between is undone."""
TIMER = "knockd-restore"
BOOT_UNIT = "/etc/systemd/system/knockd-restore-boot.service"
STATES = ("kept", "armed", "proven", "restored", "dropped", "absent")
PATIENCE = 60
"""Seconds in which a restoration that has begun has to end."""

RESTORE = """\
#!/bin/sh
# Puts back the files of a service, whose new ones were not proven. Written by the module sesame.knock.snapshot.
# Each step can be repeated. `restore wait` waits for the restart.
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
block=--no-block
if [ "${1-}" = wait ]; then block=; fi
cd @PLACE@
: >pending
unit=$(cat unit)
tar --extract --file=files.tar --directory=/ --same-owner --same-permissions
while IFS= read -r path; do rm -rf -- "$path"; done <absent
sync
systemctl daemon-reload
systemctl $block restart "$unit"
cd /
rm -rf @PLACE@
""".replace("@PLACE@", PLACE)

BOOT = """\
# Written by the module sesame.knock.snapshot.
[Unit]
Description=Put back the files that a run has replaced and not proven
ConditionPathExists=@PENDING@
Before=knockd.service

[Service]
Type=oneshot
ExecStart=/bin/sh @PLACE@/restore

[Install]
WantedBy=multi-user.target
""".replace("@PENDING@", PENDING).replace("@PLACE@", PLACE)


class Failure(Exception):
    """What fail_json will say."""


class Snapshot:
    """The one snapshot of a host."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module

    @property
    def is_there(self) -> bool:
        return os.path.exists(PLACE + "/restore")

    def keep(self, paths: list[str], unit: str) -> None:
        """Copy the files of a unit that runs: nobody wants those back with which it did not."""
        self._disarm()
        if self.is_there and os.path.exists(PENDING):
            self.restore()
        self.drop()
        if self._state_of(unit) != "active":
            return
        self._install()
        os.umask(0o077)  # a configuration with secrets is among them
        os.makedirs(PLACE)
        there = [path for path in paths if os.path.lexists(path)]
        names = [path.lstrip("/") for path in there]
        self._run("tar", "--create", "--file=%s/files.tar" % PLACE, "--directory=/", *names)
        for name, text in (
            ("absent", "".join("%s\n" % path for path in paths if path not in there)),
            ("unit", unit + "\n"),
            ("restore", RESTORE),
            ("pending", ""),
        ):
            write("%s/%s" % (PLACE, name), text, mode=0o600)
        self._run("sync", PLACE + "/files.tar")

    def arm(self, seconds: int) -> None:
        """Let the host restore by itself, unless somebody says in time that all is well."""
        self._disarm()
        self._run(
            *("systemd-run", "--quiet", "--collect", "--unit=" + TIMER, "--on-active=%d" % seconds),
            *("--timer-property=AccuracySec=1s", "/bin/sh", PLACE + "/restore"),
        )

    def prove(self) -> None:
        self._disarm()
        if not self.is_there:
            raise Failure(
                "nobody said in time that the new files work, so the host has put back the previous ones. Run it again"
            )
        if os.path.exists(PENDING):
            os.unlink(PENDING)

    def restore(self) -> None:
        self._disarm()
        if self.is_there:  # the timer may just have done it
            self._run("/bin/sh", PLACE + "/restore", "wait")

    def drop(self) -> None:
        self._disarm()
        shutil.rmtree(PLACE, ignore_errors=True)

    def remove(self) -> bool:
        """Forget the snapshot and the unit; returns whether there was one."""
        self.drop()
        if not os.path.exists(BOOT_UNIT):
            return False
        self._run("systemctl", "disable", "--quiet", os.path.basename(BOOT_UNIT))
        os.unlink(BOOT_UNIT)
        self._run("systemctl", "daemon-reload")
        return True

    def _install(self) -> None:
        if read(BOOT_UNIT) != BOOT:
            write(BOOT_UNIT, BOOT, mode=0o644)
            self._run("systemctl", "daemon-reload")
            self._run("systemctl", "enable", "--quiet", os.path.basename(BOOT_UNIT))

    def _disarm(self) -> None:
        """Stop the timer, and wait for a restoration that it has begun. Not by `start`, which would begin one."""
        self._module.run_command(["systemctl", "stop", TIMER + ".timer"])
        deadline = time.monotonic() + PATIENCE
        while self._state_of(TIMER + ".service") in ("activating", "active", "deactivating"):
            if time.monotonic() > deadline:
                raise Failure("%s.service is still putting the files back after %d s" % (TIMER, PATIENCE))
            time.sleep(0.2)

    def _state_of(self, unit: str) -> str:
        show = ["systemctl", "show", "--property=ActiveState", "--value", unit]
        return str(self._module.run_command(show)[1]).strip()

    def _run(self, *command: str) -> None:
        status, out, err = self._module.run_command(list(command))
        if status != 0:
            raise Failure("%s: %s" % (os.path.basename(command[0]), (err or out).strip()))


def main() -> None:
    """Run on the managed host."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": list(STATES), "required": True},
            "paths": {"type": "list", "elements": "path"},
            "unit": {"type": "str"},
            "seconds": {"type": "int", "default": 300},
        },
        required_if=[("state", "kept", ("paths", "unit"))],
        supports_check_mode=True,
    )
    state = module.params["state"]
    snapshot = Snapshot(module)
    if module.check_mode or (not snapshot.is_there and state in ("armed", "restored", "dropped")):
        module.exit_json(changed=False, kept=False)
    changed = state == "restored"  # the rest is bookkeeping
    try:
        if state == "kept":
            snapshot.keep(module.params["paths"], module.params["unit"])
        elif state == "armed":
            snapshot.arm(module.params["seconds"])
        elif state == "proven":
            snapshot.prove()
        elif state == "restored":
            snapshot.restore()
        elif state == "dropped":
            snapshot.drop()
        else:
            changed = snapshot.remove()
    except (Failure, OSError) as failure:
        module.fail_json(msg="sesame.knock.snapshot: %s" % failure)
    module.exit_json(changed=changed, kept=snapshot.is_there)


if __name__ == "__main__":
    main()
