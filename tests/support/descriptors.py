# SPDX-License-Identifier: Apache-2.0
"""Which file descriptors this process has open, for tests that show that none is left."""

from __future__ import annotations

import gc
import os


def descriptors() -> set[int]:
    """Those open now.

    What earlier tests left in reference cycles is closed first: the collector could close it between two calls.  The
    listing's own descriptor is not one of them.
    """
    gc.collect()
    listed = os.listdir("/proc/self/fd")
    return {int(fd) for fd in listed if os.path.lexists(f"/proc/self/fd/{fd}")}
