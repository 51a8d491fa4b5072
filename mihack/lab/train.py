"""A training loop for toy models, short enough to read.

TransformerLens has a loop of its own (``transformer_lens.tools.training``), for next-token loss on
a DataLoader.  Algorithmic tasks want another loss (one answer position, a held-out set, full
batch), so here the experiment passes its loss as a function of the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from .checkpoints import State, log_spaced, save_checkpoint
from .schedules import Schedule, constant, cosine

History = dict[str, list[float]]
Evaluate = Callable[[], dict[str, float]]


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
    schedule: Schedule | None = None,
    clip: float | None = None,
    evaluate: Evaluate | None = None,
    every: int = 10,
    label: str = "training",
    checkpoints: Path | None = None,
    checkpoint_at: Sequence[int] | None = None,
    state: Path | None = None,
    save_every: int = 100,
    generators: Sequence[torch.Generator] = (),
) -> History:
    """Train ``model`` in place with AdamW for exactly ``steps`` steps.

    ``loss_at(step)`` draws its own batch and returns a scalar loss; ``evaluate()`` returns figures
    to follow and is called without gradients at step 0, every ``every`` steps, and at the end.
    Returns columns of equal length: ``step``, ``loss`` (at those steps) and what ``evaluate`` gave.
    Leaves the model in eval mode.  Raises FloatingPointError if the loss stops being finite.

    The rate follows ``schedule`` (``lab.schedules``), or else ``warmup`` steps up and then constant,
    or with ``decay`` a cosine down to zero.

    ``checkpoints``: a folder for the weights at the steps ``checkpoint_at`` (20, log-spaced, unless you
    say), to be read with ``lab.checkpoints``.  With ``state``, a file, the training is saved there
    every ``save_every`` steps and goes on from there when called again, bit for bit as if it had not
    stopped: draw batches from the step alone, from torch's, numpy's or Python's own generator, or from
    torch.Generators that you name in ``generators``.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, betas=betas)
    schedule = schedule or (cosine(steps, warmup) if decay else constant(warmup))
    kept = set(checkpoint_at if checkpoint_at is not None else log_spaced(steps, 20)) if checkpoints else ()
    history: History = {"step": [], "loss": []}
    first, saved = 0, None
    if state is not None:
        settings = {"steps": steps, "lr": lr, "weight decay": weight_decay, "betas": betas, "clip": clip,
                    "every": every, "schedule": [schedule(steps * n // 8) for n in range(9)]}  # fmt: skip
        saved = State(state, model, optimiser, settings, generators)
        first, history = saved.restore() or (first, history)

    def seen(step: int, loss: Tensor) -> None:
        if step % every == 0 or step == steps:
            _record(history, step, loss, model, evaluate)
            bar.set_postfix_str(f"loss {history['loss'][-1]:.4g}", refresh=False)
        if checkpoints is not None and step in kept:
            save_checkpoint(model, checkpoints, step, float(loss.detach()))

    if first > steps:
        model.eval()
        return history
    model.train()
    # disable=None: no bar when stderr is a file or a pipe
    bar = tqdm(range(first, steps), initial=first, total=steps, desc=label, unit="step", disable=None,
               leave=False)  # fmt: skip
    for step in bar:
        loss = loss_at(step)
        seen(step, loss)
        for group in optimiser.param_groups:
            group["lr"] = lr * schedule(step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimiser.step()
        if saved and (step + 1) % save_every == 0:
            saved.save(step + 1, history)
    with torch.no_grad():
        last = loss_at(steps)
    seen(steps, last)
    if saved:
        saved.save(steps + 1, history)
    model.eval()
    return history


def _record(history: History, step: int, loss: Tensor, model: nn.Module, evaluate: Evaluate | None) -> None:
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
