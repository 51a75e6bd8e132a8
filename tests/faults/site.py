# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A prepared host: its images of before a change, and what its rules are before and after one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import traps
from .checks import Rules, rules_of
from .controller import ALLOWLIST, CACHE, MORE, OTHER, know, succeed
from .hosts import IPV4, IPV6, Client, Host, Wire, docker, remove
from .kinds import Kind

TOOLS = "apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends nftables conntrack"


@dataclass(frozen=True)
class Change:
    """What a controller wants."""

    variables: dict[str, Any]
    rules: Rules


@dataclass
class Site:
    """What the faults of one kind of host share."""

    kind: Kind
    key: str
    wire: Wire
    allowed: Client
    stranger: Client
    images: dict[str, str] = field(default_factory=dict)
    before: dict[str, Rules] = field(default_factory=dict)
    changes: dict[str, Change] = field(default_factory=dict)
    others: dict[str, Change] = field(default_factory=dict)

    def image(self, start: str) -> str:
        """The image of a host as it is before: `open`, `closed` or `kept` (the same, and nothing is to change)."""
        return self.images["open" if start == "open" else "closed"]

    def prepare(self, number: int, library: Path) -> None:
        """Run the role on a host, and keep the host of before and after as images."""
        host = Host("sesame-fault-" + self.kind.name, IPV4 % number, IPV6 % number)
        log = CACHE / "logs" / ("prepare-%s.log" % self.kind.name)
        basic = {"knock_firewall_backend": self.kind.backend.name}
        try:
            host.boot("sesame-knock:" + self.kind.suite, self.key)
            know(host)
            traps.install(host, library)
            host.shell("set -e\n%s\n%s" % (self.kind.set_up, TOOLS), timeout=120)
            succeed(host, "play_deploy.yml", log, **basic)
            self._keep("open", host)
            succeed(host, "play_close.yml", log, **basic)
            self._keep("closed", host)
            more = {**basic, "knock_firewall_allowlist": [*ALLOWLIST, *MORE]}
            succeed(host, "play_close.yml", log, **more)
            last = rules_of(host, self.kind.backend)
        finally:
            host.remove()
        closed = Change(basic, self.before["closed"])
        added = Change(more, last)
        another = {**basic, "knock_firewall_allowlist": [*ALLOWLIST, *OTHER]}
        self.before["kept"] = closed.rules
        self.changes = {"open": closed, "closed": added, "kept": closed}
        self.others = {"open": added, "kept": added}
        self.others["closed"] = Change(another, last.replaced(MORE[0], OTHER[0]).replaced(MORE[1], OTHER[1]))

    def _keep(self, start: str, host: Host) -> None:
        self.before[start] = rules_of(host, self.kind.backend)
        name = "sesame-knock-fault:%s-%s" % (self.kind.name, start)
        host.shell("sync; rm -rf /root/.ansible /home/admin/.ansible")
        docker("commit", "--change", "LABEL sesame.knock=image", host.name, name)
        self.images[start] = name

    def remove(self) -> None:
        remove("image", *self.images.values())
