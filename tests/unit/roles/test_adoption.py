# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was adopted from a C knockd reaches our knockd.conf byte by byte, by the real ansible-playbook."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.sesame.knock.plugins.modules.c_knockd_info import CONFIG, is_owners
from knockd import config

ROLE = Path(__file__).parents[3] / "roles" / "knockd"
LATIN = b"caf\xe9"
"""No UTF-8."""
ADOPTED = b"""\
[options]
    logfile = /var/log/knockd.log # journal du %s
[ouvrir]
    sequence = 7000,8000,9000 # l'\xe9t\xe9
    tcpflags = syn
    command = /usr/bin/logger %s caf\xc3\xa9 %%IP%%
""" % (LATIN, LATIN)
DOOR = ADOPTED[ADOPTED.index(b"[ouvrir]") :]


def adopt(directory: Path, adopted: bytes) -> bytes:
    """The knockd.conf that the role's template writes on a host that has this one of before."""
    (directory / "knockd.conf").write_bytes(adopted)
    (directory / "default").write_bytes(b'KNOCKD_OPTS="-i ens3" # ' + LATIN)
    template = {"src": str(ROLE / "templates" / "knockd.conf.j2"), "dest": str(directory / "out")}
    check = "{{ (__knockd_adopted_text | sesame.knock.knockd_conf_check('adopted')).errors | join(' ') }}"
    tasks = [
        {"sesame.knock.c_knockd_info": {"adopted": str(directory)}, "register": "__knockd_c_knockd"},
        {"ansible.builtin.assert": {"that": "wrong == ''", "fail_msg": "{{ wrong }}"}, "vars": {"wrong": check}},
        {"ansible.builtin.assert": {"that": "__knockd_c_knockd.interface == 'ens3'"}},
        {"ansible.builtin.template": template},
    ]
    files = [str(ROLE / "defaults" / "main.yml"), str(ROLE / "vars" / "main.yml")]
    variables = {"knock_sequence": "20113:tcp,11873:udp,28391:tcp", "ansible_python_interpreter": sys.executable}
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars_files": files, "tasks": tasks}
    playbook = directory / "play.yml"
    playbook.write_text(json.dumps([play]))
    command = ["ansible-playbook", "-i", "localhost,", "-e", json.dumps(variables), str(playbook)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return (directory / "out").read_bytes()


BEGINS = {"options": ADOPTED[: -len(DOOR)], "byte order mark": b"\xef\xbb\xbf", "no text": b"# \xff\xfe\r\n"}


@pytest.mark.parametrize("begin", BEGINS.values(), ids=BEGINS)
def test_no_byte_of_an_adopted_door_is_lost(tmp_path: Path, begin: bytes) -> None:
    assert DOOR.strip() in adopt(tmp_path, begin + DOOR)
    (door,) = [door for door in config.read(str(tmp_path / "out")).doors if door.name == "ouvrir"]
    assert door.start_command is not None
    assert LATIN + b" caf\xc3\xa9" in door.start_command.encode("utf-8", "surrogateescape")


def test_a_file_is_the_packages_by_its_bytes() -> None:
    shipped = b"[options]\r\n    UseSyslog # caf\xe9\r\n"
    listed = " %s %s\n" % (CONFIG, hashlib.md5(shipped).hexdigest())
    assert not is_owners(CONFIG, shipped, listed)
    assert is_owners(CONFIG, shipped.replace(b"\r", b""), listed)
