# SPDX-License-Identifier: Apache-2.0
"""`python -m sipc.cli` is the `sipc` command."""

import sys

from sipc.cli import main

sys.exit(main())
