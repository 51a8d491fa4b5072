"""A training loop for toy models, short enough to read.

TransformerLens has a loop of its own (``transformer_lens.tools.training``), for next-token loss on
a DataLoader.  Algorithmic tasks want another loss (one answer position, a held-out set, full
batch), so here the experiment passes its loss as a function of the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

History = dict[str, list[float]]


def learning_rate(step: int, steps: int, warmup: int, decay: bool) -> float:
    """Factor on the learning rate: linear warm-up, then constant or a cosine down to zero."""
    if step < warmup:
        return (step + 1) / warmup
    if not decay:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train(
    model: nn.Module,
    loss_at: Callable[[int], Tensor],
    *,
    steps: int,
    lr: float,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.98),
    warmup: int = 10,
    decay: bool = False,
    clip: float | None = None,
    evaluate: Callable[[], dict[str, float]] | None = None,
    every: int = 10,
    label: str = "training",
) -> History:
    """Train ``model`` in place with AdamW for exactly ``steps`` steps.

    ``loss_at(step)`` draws its own batch and returns a scalar loss; ``evaluate()`` returns figures
    to follow and is called without gradients at step 0, every ``every`` steps, and at the end.
    Returns columns of equal length: ``step``, ``loss`` (at those steps) and what ``evaluate`` gave.
    Leaves the model in eval mode.  Raises FloatingPointError if the loss stops being finite.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, betas=betas)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: learning_rate(step, steps, warmup, decay)
    )
    history: History = {"step": [], "loss": []}
    model.train()
    # disable=None: no bar when stderr is a file or a pipe
    for step in tqdm(range(steps), desc=label, unit="step", disable=None, leave=False):
        loss = loss_at(step)
        if step % every == 0:
            _record(history, step, loss, model, evaluate)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        last = loss_at(steps)
    _record(history, steps, last, model, evaluate)
    model.eval()
    return history


def _record(
    history: History,
    step: int,
    loss: Tensor,
    model: nn.Module,
    evaluate: Callable[[], dict[str, float]] | None,
) -> None:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise FloatingPointError(f"the loss is {value} at step {step}: lower the learning rate")
    history["step"].append(step)
    history["loss"].append(value)
    if evaluate is None:
        return
    model.eval()
    with torch.no_grad():
        for name, figure in evaluate().items():
            history.setdefault(name, []).append(float(figure))
    model.train()
