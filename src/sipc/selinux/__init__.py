# SPDX-License-Identifier: Apache-2.0
"""SELinux: policy made from definitions, and the proof that a policy keeps a channel one-way.

Pure: definitions and policies in, text and verdicts out.  Nothing here asks the running system; `compose.py` runs
the policy compiler on files it is given.
"""

__all__ = ()
