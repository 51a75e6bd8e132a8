# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ansible-builder finds in this collection when it builds an execution environment with it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest


def test_an_execution_environment_gets_ssh_and_nothing_from_pypi() -> None:
    pytest.importorskip("ansible_builder", reason="ansible-builder comes with one of the controllers")
    folder = os.environ["ANSIBLE_COLLECTIONS_PATH"].split(":")[0]
    run = [sys.executable, "-m", "ansible_builder", "introspect", folder]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    # "# from collection" is what it says of a line that it has taken.
    taken = re.findall(r"^ *(?:- )?'?(\S+) .*# from collection sesame\.knock'?$", done.stdout, re.MULTILINE)
    assert sorted(taken) == ["openssh-client", "openssh-clients", "rsync"], done.stdout
