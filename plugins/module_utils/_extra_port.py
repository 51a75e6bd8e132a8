# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The drop-in that gives sshd a second port: where it is, what it says, and what `sshd -T` makes of it."""

from __future__ import annotations

DROP_IN = "/etc/ssh/sshd_config.d/10-knock-escape.conf"
_HEAD = "# A second port of sshd as a way out. Written by sesame.knock.sshd_extra_port.\n# Extra port: "


def extra_port() -> int:
    """The port that the drop-in was made for; 0 without a drop-in."""
    try:
        with open(DROP_IN, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        return 0
    number = text[len(_HEAD) :].split("\n", 1)[0] if text.startswith(_HEAD) else ""
    return int(number) if number.isdigit() else 0


def drop_in(port: int, ports: list[int], addresses: list[str]) -> str:
    """The text of the drop-in: Port lines for all ports, ListenAddress lines for addresses that name their ports."""
    lines = ["Port %d" % number for number in ports] + ["ListenAddress " + address for address in addresses]
    return _HEAD + "".join(line + "\n" for line in [str(port), *lines])


def read_config(text: str) -> tuple[list[int], list[str]]:
    """Ports and `address:port` listeners, from what `sshd -T` prints."""
    words = [line.split() for line in text.splitlines()]
    ports = [int(word[1]) for word in words if word[0:1] == ["port"]]
    addresses = [word[1] for word in words if word[0:1] == ["listenaddress"]]
    return sorted(set(ports)), sorted(set(addresses))
