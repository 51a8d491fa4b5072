"""Learning rates over a training: what to multiply the rate by at each step.

A schedule is a function of the step, so a new one is a line of your own::

    train(model, loss_at, steps=1000, lr=1e-3, schedule=cosine(1000, warmup=50))
"""

from __future__ import annotations

import math
from collections.abc import Callable

# step (0 the first) -> factor on the learning rate, 0 to 1
Schedule = Callable[[int], float]


def warmed(warmup: int, rest: Schedule) -> Schedule:
    """Rise linearly to 1 over the first ``warmup`` steps, then ``rest``."""
    return lambda step: (step + 1) / warmup if step < warmup else rest(step)


def constant(warmup: int = 0) -> Schedule:
    """The full rate, after a linear warm-up."""
    return warmed(warmup, lambda step: 1.0)


def cosine(steps: int, warmup: int = 0) -> Schedule:
    """Half a cosine, 1 to 0 at ``steps`` (Loshchilov & Hutter 2016, arXiv:1608.03983: no restarts)."""
    return warmed(
        warmup, lambda step: 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
    )


def linear(steps: int, warmup: int = 0) -> Schedule:
    """A straight line from 1 down to 0 at ``steps``."""
    return warmed(warmup, lambda step: 1 - (step - warmup) / max(1, steps - warmup))


def warmup_stable_decay(steps: int, warmup: int, cooldown: int) -> Schedule:
    """The full rate until ``cooldown`` steps before the end, then a straight line to 0.

    Unlike a cosine's, the runs of different lengths share all but their ends: one may go on from before
    its cool-down (Hägele et al. 2024, arXiv:2405.18392).  Raises ValueError if warm-up and cool-down do
    not fit into ``steps``.
    """
    if warmup + cooldown > steps:
        raise ValueError(f"{warmup} steps of warm-up and {cooldown} of cool-down are more than {steps}")
    return warmed(warmup, lambda step: min(1.0, (steps - step) / max(1, cooldown)))


def learning_rate(step: int, steps: int, warmup: int, decay: bool) -> float:
    """Factor on the learning rate: linear warm-up, then constant or a cosine down to zero."""
    return (cosine(steps, warmup) if decay else constant(warmup))(step)
