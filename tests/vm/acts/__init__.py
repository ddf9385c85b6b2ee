# SPDX-License-Identifier: Apache-2.0
"""What the tests do inside the guest, each act in a fork of its own and in the domain the test says."""
