"""Train many copies of a small model at once: seeds or settings side by side in one batched run.

A toy model leaves a processor idle: its operations are so small that starting them costs more than
doing them.  Stacking the copies' parameters and running all of them with ``torch.func.vmap`` does the
same arithmetic in fewer, larger operations.  Each copy ends where it would have ended alone, up to
rounding (``tests/test_lab_many.py``); ``benchmarks/many.py`` has the ratios.

It pays for models like the toy models of superposition, not for those whose matrix products already
fill the processor: eight grokking transformers of width 128 gained nothing on two CPU cores.  For
those, ``many_transformers`` leaves out what nobody reads.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from tqdm.auto import tqdm

from .schedules import learning_rate

# (one copy as a function, its batch) -> scalar loss; the batch is what ``batch_at`` gave, for one copy
Loss = Callable[[Any, Any], Tensor]
# step -> tensors with the copies as first axis
Batches = Callable[[int], Any]


class Many:
    """Copies of one architecture with their parameters stacked: [copy, ...] each."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        """The models must have the same shapes; they are read, and written back by ``unstack``."""
        self.models = list(models)
        # a copy to call: what vmap leaves in a module that shares parameters must not reach the originals
        self.template = copy.deepcopy(self.models[0])
        parameters, buffers = stack_module_state(self.models)
        self.parameters: dict[str, Tensor] = parameters
        self.buffers: dict[str, Tensor] = buffers

    def each(self, task: Loss, batch: Any) -> Tensor:
        """``task`` for every copy with its own batch: [copy, ...]."""

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], mine: Any) -> Tensor:
            def model(*arguments: Any, **options: Any) -> Any:
                return functional_call(self.template, (parameters, buffers), arguments, options)

            return task(model, mine)

        result: Tensor = vmap(one, randomness="different")(self.parameters, self.buffers, batch)
        return result

    def unstack(self) -> list[nn.Module]:
        """The models, with the parameters that they have now."""
        with torch.no_grad():
            for number, model in enumerate(self.models):
                for name, parameter in model.named_parameters():
                    parameter.copy_(self.parameters[name][number])
        return self.models


def train_many(
    models: Sequence[nn.Module],
    loss: Loss,
    batch_at: Batches,
    *,
    steps: int,
    lr: float | Tensor,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.98),
    warmup: int = 10,
    decay: bool = False,
    clip: float | None = None,
    every: int = 10,
    label: str = "training",
    stacked: bool = False,
) -> dict[str, Any]:
    """Train all ``models`` in place, as ``lab.train.train`` would train each.

    ``loss(model, batch)`` returns one copy's scalar loss; ``batch_at(step)`` gives tensors whose first
    axis is the copy (expand what they share).  With ``stacked``, ``loss(parameters, batch)`` gets all
    copies' parameters by name, [copy, ...], and returns the losses [copy] (see ``many_transformers``).
    ``lr`` may be a tensor with a rate per copy.  Returns
    ``step`` and ``loss`` [copy] at every ``every`` steps and at the end.  Raises FloatingPointError
    that names the copy if its loss stops being finite; the others' parameters are written back first.
    """
    many = Many(models)
    rates = torch.as_tensor(lr, dtype=torch.float32).expand(len(many.models))
    parameters = list(many.parameters.values())
    optimiser = AdamWEach(parameters, rates, betas=betas, weight_decay=weight_decay)
    history: dict[str, Any] = {"step": [], "loss": []}
    for step in tqdm(range(steps + 1), desc=label, unit="step", disable=None, leave=False):
        batch = batch_at(step)
        losses = loss(many.parameters, batch) if stacked else many.each(loss, batch)
        if step % every == 0 or step == steps:
            _record(history, step, losses.detach(), many)
        if step == steps:
            break
        gradients = torch.autograd.grad(losses.sum(), parameters)
        if clip is not None:
            gradients = clipped(gradients, clip)
        optimiser.step(gradients, learning_rate(step, steps, warmup, decay))
    many.unstack()
    return history


def _record(history: dict[str, Any], step: int, losses: Tensor, many: Many) -> None:
    broken = (~torch.isfinite(losses)).nonzero().flatten().tolist()
    if broken:
        many.unstack()
        raise FloatingPointError(f"the loss of copy {broken[0]} is not finite at step {step}: lower its rate")
    history["step"].append(step)
    history["loss"].append(losses.tolist())


def clipped(gradients: Sequence[Tensor], most: float) -> tuple[Tensor, ...]:
    """Gradients whose norm, over all parameters of a copy, is at most ``most``, as torch clips one model."""
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
    factor = (most / (norms + 1e-6)).clamp(max=1.0)
    return tuple(g * factor.view(-1, *[1] * (g.dim() - 1)) for g in gradients)


class AdamWEach:
    """AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101) on stacked parameters, with a rate per copy."""

    def __init__(
        self,
        parameters: Sequence[Tensor],
        rates: Tensor,
        *,
        betas: tuple[float, float],
        weight_decay: float,
        eps: float = 1e-8,
    ) -> None:
        self.parameters, self.betas, self.weight_decay, self.eps = list(parameters), betas, weight_decay, eps
        self.rates = [rates.to(p.device).view(-1, *[1] * (p.dim() - 1)) for p in self.parameters]
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], factor: float = 1.0) -> None:
        """One step; ``factor`` scales every rate."""
        self.steps += 1
        one, two = self.betas
        torch._foreach_lerp_(self.first, list(gradients), 1 - one)
        torch._foreach_mul_(self.second, two)
        torch._foreach_addcmul_(self.second, list(gradients), list(gradients), 1 - two)
        scale = math.sqrt(1 - two**self.steps)
        for p, rate, m, v in zip(self.parameters, self.rates, self.first, self.second, strict=True):
            lr = rate * factor
            p.mul_(1 - lr * self.weight_decay)
            p.addcdiv_(m * (-lr / (1 - one**self.steps)), v.sqrt().div_(scale).add_(self.eps))


def sparse_features(
    seeds: Int[Tensor, "copy"], step: int, batch: int, features: int, probability: float
) -> Float[Tensor, "copy batch features"]:
    """Features that are zero but with this probability, and then uniform on [0, 1].

    The data of the toy models of superposition (Elhage et al. 2022, arXiv:2209.10652).  A copy's batch
    depends on its seed and the step alone, so that it is the same drawn together or by itself.
    """
    size = batch * features
    place = torch.arange(size, dtype=torch.int64) + step * size
    x = place * -7046029254386353131 + (seeds.to(torch.int64)[:, None] + 1) * -4417276706812531889
    # splitmix64's mixing; a shift to the right is masked, since int64 carries its sign along
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    x = x ^ ((x >> 31) & 0x1FFFFFFFF)
    value = ((x >> 40) & 0xFFFFFF).to(torch.float32) / 2**24  # the upper bits, for the value
    present = (x & 0xFFFFFF) < int(probability * 2**24)  # others, for whether there is one
    return torch.where(present, value, 0.0).view(len(seeds), batch, features)
