# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A process that evaluates expressions as Ansible does in a role: a line of JSON in, a line of JSON out.

A process of its own, because Ansible wants to load collections in its own way, and tests have imported ours already.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template

ROLE = Path(__file__).parents[3] / "roles" / sys.argv[1]


def role_variables(loader: DataLoader) -> dict[str, Any]:
    known: dict[str, Any] = {"inventory_hostname": "host", "ansible_search_path": [str(ROLE)]}
    for place in ("defaults", "vars"):
        known.update(loader.load_from_file(str(ROLE / place / "main.yml"), trusted_as_template=True))
    return known


def main() -> None:
    init_plugin_loader()
    loader = DataLoader()
    known = role_variables(loader)
    for line in sys.stdin:
        question = json.loads(line)
        templar = Templar(loader=loader, variables={**known, **question["variables"]})
        try:
            answer = {"value": templar.template(trust_as_template("{{ %s }}" % question["expression"]))}
        except Exception as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
