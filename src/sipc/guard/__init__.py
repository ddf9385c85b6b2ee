# SPDX-License-Identifier: Apache-2.0
"""Guards: stages joined by channels from one TOML file, and what each stage does with a message.

See docs/guards.md.
"""

__all__: tuple[str, ...] = ()
