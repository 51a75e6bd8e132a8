#!/usr/bin/python
# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds Debian's C knockd and what its owner configured; reads only."""

from __future__ import annotations

DOCUMENTATION = r"""
module: c_knockd_info
short_description: Find Debian's C knockd and what its owner configured
version_added: 0.1.0
description:
  - Tells whether Debian's package C(knockd) is installed, or has left its configuration files,
    and reads the configuration that its owner wrote, or that was adopted from it before.
  - A configuration that is still the one which the package shipped is nobody's, and is not read.
author:
  - The sesame.knock authors (@sesame-knock)
options:
  adopted:
    description: The folder that keeps what was adopted.
    type: path
    default: /etc/knockd.adopted
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: debian
    support: full
notes:
  - The returned configuration holds sequences. Use C(no_log).
seealso:
  - ref: ansible_collections.sesame.knock.knockd_role
    description: The role that adopts it.
"""

EXAMPLES = r"""
- name: Look for Debian's C knockd
  sesame.knock.c_knockd_info:
  register: c_knockd
  become: true
  no_log: true
"""

RETURN = r"""
package:
  description: Whether the package is installed or has left its configuration files, which a later purge would remove.
  returned: always
  type: bool
to_adopt:
  description: The files that the package's owner has changed and that have not been adopted yet.
  returned: always
  type: list
  elements: dict
  contains:
    src:
      description: The path of the file.
      type: str
    dest:
      description: The path below O(adopted) to keep it at.
      type: str
config:
  description:
    - The C(knockd.conf) that was, or is to be, adopted, in base64; empty where there is none.
    - It may hold bytes that are no UTF-8. P(sesame.knock.knockd_conf_text#filter) reads it as the daemon does.
  returned: always
  type: str
interface:
  description: The interface that the owner chose, in C(/etc/default/knockd) or in the configuration; empty where none.
  returned: always
  type: str
"""

import base64
import hashlib
import re
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

CONFIG = "/etc/knockd.conf"
DEFAULT = "/etc/default/knockd"
# What our own templates write into both files: they are not the package's, whatever dpkg believes.
OURS = b"sesame.knock"


def read(path: str) -> bytes:
    """The content of a file, or nothing where there is none."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        return b""


def is_owners(path: str, content: bytes, conffiles: str) -> bool:
    """Is a conffile of the package no longer as it was shipped, and not ours either?"""
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()  # what dpkg keeps
    return bool(content) and OURS not in content and (path + " " + digest) not in conffiles


def find_interface(default: str, config: str) -> str:
    """The interface that C knockd listened on: -i beats the configuration."""
    option = re.search(r"(?m)^\s*KNOCKD_OPTS\s*=(?:.*[\s\"'])?(?:-i|--interface)[\s=]*([^\s\"']+)", default)
    key = re.search(r"(?im)^\s*interface\s*=\s*(\S+)", config)
    return option.group(1) if option else key.group(1) if key else ""


def main() -> None:
    """Run the module."""
    module = AnsibleModule({"adopted": {"type": "path", "default": "/etc/knockd.adopted"}}, supports_check_mode=True)
    adopted = {CONFIG: module.params["adopted"] + "/knockd.conf", DEFAULT: module.params["adopted"] + "/default"}

    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status}${Conffiles}\n", "knockd"]
    status, conffiles, ignored = module.run_command(query)
    package = status == 0 and not conffiles.startswith("not-installed")

    contents = {path: read(kept) for path, kept in adopted.items()}
    to_adopt = []
    for path in adopted if package else ():
        content = read(path)
        if not contents[path] and is_owners(path, content, conffiles):
            contents[path] = content
            to_adopt.append({"src": path, "dest": adopted[path]})
    texts = {path: content.decode("utf-8-sig", "replace") for path, content in contents.items()}
    module.exit_json(
        changed=False,
        package=package,
        to_adopt=to_adopt,
        config=base64.b64encode(contents[CONFIG]).decode(),
        interface=find_interface(texts[DEFAULT], texts[CONFIG]),
    )


if __name__ == "__main__":
    main()
