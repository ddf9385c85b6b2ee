# SPDX-License-Identifier: Apache-2.0
"""A guest that somebody else started, reached by a command whose standard input and output are the agent's.

Owns that command and nothing of the machine behind it.  `make vagrant-test` gives one in SIPC_GUEST_COMMAND.
"""

from __future__ import annotations

import shlex
import socket
import subprocess

__all__ = ("COMMAND", "Remote")

COMMAND = "SIPC_GUEST_COMMAND"
_END = 20.0  # seconds that the command may take to end once its input has


class Remote:
    """A machine that stays when it is closed."""

    def __init__(self, command: str) -> None:
        """Start `command`, as a shell would split it."""
        self._command = command
        self._ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(shlex.split(command), stdin=theirs.fileno(), stdout=theirs.fileno())

    def connect(self) -> socket.socket:
        """The way to the agent."""
        return self._ours

    def console(self) -> str:
        """Its console is elsewhere; what the command said went to standard error."""
        return f"reached by: {self._command}\nended: {self._process.poll()}"

    def close(self) -> None:
        """End the command, not the machine."""
        self._ours.close()
        try:
            self._process.wait(_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
