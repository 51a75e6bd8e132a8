# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's server as a host of its own: /etc, /run and /var/lib are private, so our modules run there as they are."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

from ...unit.firewall.rendering import CHECKOUT, evaluate, host_with, render
from ..lab import Lab, Namespace, eventually, run
from .administrator import ByIptables, ByNft

PREPARE = """
set -e
mount --make-rprivate /
mount -t tmpfs private "$1"
mkdir "$1/etc" "$1/run" "$1/lib" "$1/sbin"
cp -a /etc/. "$1/etc"
rm -rf "$1/etc/iptables" "$1/etc/knockd-guard.conf"
mkdir "$1/etc/iptables"
mount --bind "$1/etc" /etc
mount --bind "$1/lib" /var/lib
mount --bind "$1/sbin" /usr/local/sbin
mount --bind "$1/run" /run
backend=$2
eval "$3"
echo ready
exec sleep infinity
"""
"""Without /run/systemd the modules know that systemd does not run here."""

BACKENDS = ("nft", "legacy", "native")
"""Both of iptables, and nftables itself on a host that has no iptables. Fixture `host` can be given fewer of them."""
BOTH_IPTABLES = ("nft", "legacy")
TWO_BACKENDS = ("nft", "native")
"""For tests of what the rules say: iptables-legacy reads the same text, and test_firewall.py sees that it does."""


class FirewallHost:
    """What an administrator does on the server, and what our modules do there."""

    def __init__(self, lab: Lab, directory: Path, backend: str) -> None:
        self.lab = lab
        self.collections = directory / "collections"
        (self.collections / "ansible_collections" / "sesame").mkdir(parents=True)
        (self.collections / "ansible_collections" / "sesame" / "knock").symlink_to(CHECKOUT)
        self.admin = ByNft(self.sh) if backend == "native" else ByIptables(self.sh)
        mounts = directory / "host"
        mounts.mkdir()
        self._holder = subprocess.Popen(
            lab.server.command(
                *("unshare", "--mount", "sh", "-c", PREPARE, "sh"), *(str(mounts), backend, self.admin.prepare)
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._holder.stdout
        answer = self._holder.stdout.readline()
        assert answer == "ready\n", answer

    def remove(self) -> None:
        self._holder.kill()
        self._holder.wait()

    def command(self, *command: str) -> tuple[str, ...]:
        return ("nsenter", "--target", str(self._holder.pid), "--mount", "--net", *command)

    def run(self, *command: str, text: str = "") -> str:
        return run(*self.command(*command), text=text)

    def sh(self, script: str) -> str:
        return self.run("sh", "-ec", script)

    def module(self, name: str, check: bool = False, **arguments: Any) -> dict[str, Any]:
        """What a module answers; a failure is an answer too."""
        arguments = {"_ansible_check_mode": check, "_ansible_diff": True, **arguments}
        done = subprocess.run(
            self.command(sys.executable, str(CHECKOUT / "plugins" / "modules" / (name + ".py"))),
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(self.collections), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert done.stdout, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def python(self, script: str, *through: str) -> tuple[str, ...]:
        """The command that runs a script which imports our module_utils; `through` is one that ends by becoming it."""
        path = "PYTHONPATH=%s" % self.collections
        return self.command(*through, "env", path, "PYTHONDONTWRITEBYTECODE=1", sys.executable, "-c", script)

    def apply(
        self,
        check: bool = False,
        revert_after: int = 600,
        guard: bool = False,
        rehearse: bool = False,
        without: str = "",
        **variables: Any,
    ) -> dict[str, Any]:
        """The role's candidate for these variables, or one that forgets a line, judged and made live."""
        info = {**host_with(), **self.module("firewall_info", ports=variables.get("knock_firewall_ports", []))}
        rules = {option: render(template, info, **variables) for option, template in self.admin.texts.items()}
        if without:
            whole = dict(rules)
            rules = {name: "".join(w for w in t.splitlines(True) if w.strip() != without) for name, t in whole.items()}
            assert rules != whole, whole
        text = render("guard.conf.j2", info, **variables) if guard else None
        return self.module(
            "firewall",
            check,
            state="applied",
            guard=text,
            revert_after=revert_after,
            rehearse=rehearse,
            gates=evaluate("__knock_firewall_gates", info, **variables),
            **rules,
        )

    def play(self, *steps: str, controller: Namespace | None = None, name: str = "localhost", **variables: Any) -> str:
        """What ansible-playbook says when it runs these tasks files of the role on the host itself.

        With a `controller` it runs there, and the variables say how it reaches the host, which has this name.
        """
        include = {"name": "sesame.knock.knock_firewall", "tasks_from": "{{ step }}"}
        task = {"ansible.builtin.include_role": include, "loop": list(steps), "loop_control": {"loop_var": "step"}}
        playbook = [{"hosts": name, "connection": "local", "gather_facts": False, "tasks": [task]}]
        file = self.collections / "play.yml"
        file.write_text(json.dumps(playbook))
        variables = {"ansible_become": False, "ansible_python_interpreter": sys.executable, **variables}
        done = subprocess.run(
            (controller or self).command(
                *("ansible-playbook", "-i", name + ",", "-e", json.dumps(variables), str(file))
            ),
            capture_output=True,
            text=True,
            env={
                **os.environ,
                "PATH": "/etc/bin:%s:%s" % (Path(sys.executable).parent, os.environ["PATH"]),
                "ANSIBLE_COLLECTIONS_PATH": str(self.collections),
                "ANSIBLE_LOCAL_TEMP": str(self.collections / "tmp"),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
        )
        return done.stdout + done.stderr

    def confirm(self) -> dict[str, Any]:
        return self.module("firewall", state="confirmed")

    def revert(self) -> dict[str, Any]:
        return self.module("firewall", state="reverted")

    def reboot(self) -> None:
        """What a boot does: no rule is left, nothing in /run is left; our units run around the one that loads rules."""
        self.admin.lose_all()
        self.sh("rm -rf /run/knock_firewall; knock-firewall boot")
        self.admin.load_saved()
        self.sh("knock-firewall check")

    def rules(self) -> str:
        """The live rules of both families, as text that says nothing else."""
        return self.admin.rules()

    def is_protected(self) -> bool:
        """Whether any rule of ours is live."""
        return self.admin.ours in self.rules()

    def saved(self) -> list[str]:
        """Which files of rules are there."""
        return self.sh("ls %s 2>/dev/null || true" % " ".join(self.admin.files)).split()

    def contents(self) -> list[str | None]:
        """What is in the files of rules; None for one that is not there."""
        there = self.saved()
        return [self.sh("cat " + path) if path in there else None for path in self.admin.files]

    def reverts(self) -> None:
        eventually(lambda: not self.is_protected(), "the revert fires")

    def forget_marks(self) -> None:
        """What the kernel does when admissions end."""
        self.sh("nft list tables | grep admitted_ | xargs -L1 nft delete")

    def mark(self, address: str, mark: str = "0x1000") -> None:
        """What the daemon does for an admitted source: its table, its chain, at its priority."""
        family = "ip6" if ":" in address else "ip"
        self.run(
            "nft",
            "-f",
            "-",
            text="""
            table inet admitted_%s { chain marks { type filter hook input priority -5;
                %s saddr %s meta mark set meta mark | %s; }; }
        """
            % (secrets.token_hex(2), family, address, mark),
        )


class SshdHost(FirewallHost):
    """The server, with a sshd of its own."""

    def start_sshd(self, config: str) -> None:
        self.run("tee", "/etc/ssh/sshd_config", text=config)
        self.sh(
            "rm -f /etc/ssh/sshd_config.d/*; mkdir -p /run/sshd /etc/ssh/sshd_config.d; ssh-keygen -A; /usr/sbin/sshd"
        )
        eventually(lambda: self.ports(), "sshd listens")

    def ports(self) -> set[int]:
        """What a person sees: `ss -ltn`."""
        return {int(line.split()[3].rpartition(":")[2]) for line in self.run("ss", "-Hltn").splitlines()}

    def drop_ins(self) -> str:
        return self.sh("cat /etc/ssh/sshd_config.d/* 2>/dev/null || true")

    def remove(self) -> None:
        self.sh("if [ -e /run/sshd.pid ]; then kill $(cat /run/sshd.pid); fi")
        super().remove()
