"""Chance that is another one each time, and can be had again."""

from __future__ import annotations

import os
import random

_VARIABLE = "HOLDFAST_SEED"


def told_chance() -> random.Random:
    """Its seed is printed, so that a test that fails says how to repeat it: with the same in HOLDFAST_SEED."""
    seed = int(os.environ.get(_VARIABLE, random.SystemRandom().randrange(1 << 32)))
    print(f"{_VARIABLE}={seed}")
    return random.Random(seed)
