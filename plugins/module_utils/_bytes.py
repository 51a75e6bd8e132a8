# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bytes that are not UTF-8, in text that passes JSON: a comment in Latin-1 among rules of others is no reason to fail.

Python decodes such a byte to a lone surrogate (PEP 383), which ansible-core refuses between host and controller. Here
it is a character of a private area at the end of Unicode, which nobody uses, and the same byte again when written.
"""

from __future__ import annotations

_SURROGATES, _PRIVATE = 0xDC00, 0x10F700
_THERE = {_SURROGATES + byte: _PRIVATE + byte for byte in range(0x80, 0x100)}
_BACK = {private: surrogate for surrogate, private in _THERE.items()}


def carried(text: str) -> str:
    """Text that was decoded with `surrogateescape`, as JSON takes it."""
    return text if text.isascii() else text.translate(_THERE)


def decode(content: bytes) -> str:
    return carried(content.decode("utf-8", "surrogateescape"))


def encode(text: str) -> bytes:
    return text.translate(_BACK).encode("utf-8", "surrogateescape")
