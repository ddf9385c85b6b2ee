# SPDX-License-Identifier: Apache-2.0
"""The protocol, sans I/O: bytes in, events out; no system call, no clock, no print."""

__all__ = ()
