# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""knockd, the port-knock daemon of sesame.knock: `python3 -m knockd -c knockd.conf`."""

__version__ = "0.1.0"
