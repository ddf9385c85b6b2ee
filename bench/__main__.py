# SPDX-License-Identifier: Apache-2.0
"""`python -m bench`."""

import sys

from bench.run import main

sys.exit(main())
