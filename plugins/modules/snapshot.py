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
  - Copies files before a run replaces them, and puts them back if the run fails. A timer of the host does the same if
    nobody comes back to say how the run has ended.
  - There is one snapshot on a host. What an unproven run has left is kept until it is resolved.
options:
  state:
    description:
      - V(kept) copies O(paths), if O(unit) is running. An armed snapshot of an earlier run stays as it is, and its
        timer stops.
      - V(armed) starts the timer, and V(disarmed) stops it. V(disarmed) fails if there is no snapshot, since the timer
        has put the files back then.
      - V(restored) puts the files back and restarts the unit at once, and V(dropped) forgets the snapshot.
      - Without a snapshot V(armed), V(restored) and V(dropped) do nothing.
    type: str
    choices: [kept, armed, disarmed, restored, dropped]
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
    default: 180
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

PLACE = "/var/lib/sesame-knock/previous"
TIMER = "knockd-restore"
STATES = ("kept", "armed", "disarmed", "restored", "dropped")
PATIENCE = 60
"""Seconds in which a restoration that has begun has to end."""

RESTORE = """\
#!/bin/sh
# Puts back the files of a service, whose new ones were not proven. Written by the module sesame.knock.snapshot.
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
cd @PLACE@
tar --extract --file=files.tar --directory=/ --same-owner --same-permissions
while IFS= read -r path; do rm -rf -- "$path"; done <absent
systemctl daemon-reload
systemctl restart "$(cat unit)"
cd /
rm -rf @PLACE@
""".replace("@PLACE@", PLACE)


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
        if self.is_there and os.path.exists(PLACE + "/armed"):
            self._disarm()
            return
        self.drop()
        if self._state_of(unit) != "active":
            return
        os.umask(0o077)  # a configuration with secrets is among them
        os.makedirs(PLACE)
        there = [path for path in paths if os.path.lexists(path)]
        self._run(
            "tar", "--create", "--file=%s/files.tar" % PLACE, "--directory=/", *(path.lstrip("/") for path in there)
        )
        self._write("absent", "".join("%s\n" % path for path in paths if path not in there))
        self._write("unit", unit + "\n")
        self._write("restore", RESTORE)

    def arm(self, seconds: int) -> None:
        """Let the host restore by itself, unless somebody says in time that all is well."""
        self._disarm()
        self._write("armed", "")
        self._run(
            *("systemd-run", "--quiet", "--collect", "--unit=" + TIMER, "--on-active=%d" % seconds),
            *("--timer-property=AccuracySec=1s", "/bin/sh", PLACE + "/restore"),
        )

    def disarm(self) -> None:
        """The new files are proven: the next run may keep those instead."""
        self._disarm()
        if not self.is_there:
            raise Failure(
                "nobody said in time that the new files work, so the host has put back those of before. Run it again"
            )
        if os.path.exists(PLACE + "/armed"):
            os.unlink(PLACE + "/armed")

    def restore(self) -> None:
        self._disarm()
        if self.is_there:  # the timer may just have done it
            self._run("/bin/sh", PLACE + "/restore")

    def drop(self) -> None:
        self._disarm()
        shutil.rmtree(PLACE, ignore_errors=True)

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

    @staticmethod
    def _write(name: str, text: str) -> None:
        with open(os.path.join(PLACE, name), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def main() -> None:
    """Run on the managed host."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": list(STATES), "required": True},
            "paths": {"type": "list", "elements": "path"},
            "unit": {"type": "str"},
            "seconds": {"type": "int", "default": 180},
        },
        required_if=[("state", "kept", ("paths", "unit"))],
        supports_check_mode=True,
    )
    state = module.params["state"]
    snapshot = Snapshot(module)
    if module.check_mode or (not snapshot.is_there and state not in ("kept", "disarmed")):
        module.exit_json(changed=False, kept=False)
    try:
        if state == "kept":
            snapshot.keep(module.params["paths"], module.params["unit"])
        elif state == "armed":
            snapshot.arm(module.params["seconds"])
        elif state == "disarmed":
            snapshot.disarm()
        elif state == "restored":
            snapshot.restore()
        else:
            snapshot.drop()
    except (Failure, OSError) as failure:
        module.fail_json(msg="sesame.knock.snapshot: %s" % failure)
    # Bookkeeping is no change of the host; files that are put back are one
    module.exit_json(changed=state == "restored", kept=snapshot.is_there)


if __name__ == "__main__":
    main()
