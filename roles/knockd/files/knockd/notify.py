# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""sd_notify(3): tells systemd how the daemon is, and feeds its watchdog."""

from __future__ import annotations

import os
import socket
import time
from typing import Optional


class Notifier:
    """Speaks to the socket that the environment names; without one it says nothing.

    The variables leave the environment, so that commands of doors do not speak in the daemon's name.
    """

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        usec = os.environ.pop("WATCHDOG_USEC", "")
        pid = os.environ.pop("WATCHDOG_PID", "")
        self.interval: Optional[float] = None
        """Seconds between two calls of `alive`; None where nobody waits for them."""
        if self._address and usec.isdigit() and int(usec) and pid in ("", str(os.getpid())):
            self.interval = int(usec) / 2e6  # sd_watchdog_enabled(3) asks for half of the time

    def ready(self, status: str) -> None:
        self._send("READY=1\nSTATUS=%s" % status)

    def status(self, status: str) -> None:
        self._send("STATUS=%s" % status)

    def reloading(self) -> None:
        self._send("RELOADING=1\nMONOTONIC_USEC=%d" % (time.monotonic() * 1e6))

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(text.encode(errors="replace"), self._address)
        except OSError:
            pass  # systemd's own timeouts judge a daemon that it does not hear
