"""How much the tests of this folder do: some seconds' worth, or with SPECKV_LONG in the environment all of it."""

from __future__ import annotations

import os

LONG = "SPECKV_LONG" in os.environ
DECISIONS = 1_000_000 if LONG else 30_000
TOKENS = 100_000 if LONG else 1_500
KILLS = 100 if LONG else 4
SUITE, COMMAND = ("load-long", "make test-long") if LONG else ("load", "make test")
