"""A training's weights at chosen steps, and its whole state so that it can go on after a kill.

Weights and state are safetensors, never pickle; what is not a tensor stands as JSON in the file's
header, so that one replacement of one file moves all of it: there is never half of a checkpoint.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def log_spaced(steps: int, count: int) -> list[int]:
    """``count`` steps from 0 to ``steps``, dense early, each further from the last by about one ratio.

    Early steps, where equal ratios would fall on the same number, are taken one by one; the ratio is
    then chosen anew for those that are left.  So there are exactly ``count``, all different (or all
    steps + 1, if there are no more than that), the first 0 and the last ``steps``.
    """
    if steps < 0 or count < 2:
        raise ValueError(f"{count} checkpoints over {steps} steps: at least 2, over at least 0 steps")
    if count > steps:
        return list(range(steps + 1))
    chosen = [0]
    for left in range(count - 1, 1, -1):
        last = chosen[-1]
        ideal = last * (steps / last) ** (1 / left) if last else 1
        chosen.append(max(last + 1, round(ideal)))
    return [*chosen, steps]


@dataclass(frozen=True)
class Checkpoint:
    """Weights on disk: those before the update of ``step``, and the loss that they had."""

    path: Path
    step: int
    loss: float


def save_checkpoint(model: nn.Module, folder: Path, step: int, loss: float) -> Checkpoint:
    """Write ``folder/step-<step>.safetensors``: parameters and buffers, step and loss."""
    path = folder / f"step-{step:08d}.safetensors"
    _write(path, dict(_weights(model)), {"step": step, "loss": loss})
    return Checkpoint(path, step, loss)


def checkpoints(folder: Path) -> list[Checkpoint]:
    """All checkpoints in a folder, by step."""
    return [_described(path) for path in sorted(folder.glob("step-*.safetensors"))]


def load_checkpoint(model: nn.Module, path: Path) -> Checkpoint:
    """Put the weights into ``model``, which has the same shape; returns their step and loss.

    Raises ValueError, and changes nothing, if names or shapes differ.
    """
    _fill(model, _read(path)[0], path)
    return _described(path)


@dataclass
class State:
    """All that a training needs to go on as if it had not been interrupted.

    ``settings`` tells one training from another.  ``generators`` are the caller's, next to torch's,
    numpy's and Python's own, which are always kept.
    """

    path: Path
    model: nn.Module
    optimiser: torch.optim.Optimizer
    settings: dict[str, Any]
    generators: Sequence[torch.Generator] = field(default_factory=tuple)

    def save(self, step: int, history: dict[str, list[float]]) -> None:
        """Everything as it is before ``step``."""
        tensors = {f"model|{name}": tensor for name, tensor in _weights(self.model)}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                tensors[f"optimiser|{name}|{key}"] = value
        tensors |= {f"generator|{i}": g.get_state() for i, g in enumerate(self.generators)}
        tensors |= {f"torch|{i}": state for i, state in enumerate(_torch_states())}
        about = {"step": step, "settings": self.settings, "history": history, "random": _plain_states()}
        _write(self.path, tensors, about)

    def restore(self) -> tuple[int, dict[str, list[float]]] | None:
        """Put everything back and return (next step, history); None if there is no state yet.

        Raises ValueError, and changes nothing, if the state is of another training.
        """
        if not self.path.exists():
            return None
        tensors, about = _read(self.path)
        self._refuse_another(tensors, about)
        _fill(self.model, _part(tensors, "model"), self.path)
        parameters = dict(self.model.named_parameters())
        for key, value in _part(tensors, "optimiser").items():
            name, _, kind = key.rpartition("|")
            # Adam counts its steps in a tensor that stays on the CPU
            home = "cpu" if kind == "step" else parameters[name].device
            self.optimiser.state[parameters[name]][kind] = value.to(home)
        for number, state in _part(tensors, "generator").items():
            self.generators[int(number)].set_state(state)
        _restore_random(list(_part(tensors, "torch").values()), about["random"])
        return int(about["step"]), about["history"]

    def _refuse_another(self, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        found = {**about["settings"], "generators": len(_part(tensors, "generator"))}
        here = {**json.loads(json.dumps(self.settings)), "generators": len(self.generators)}
        differing = [name for name in {**here, **found} if here.get(name) != found.get(name)]
        if differing:
            told = ", ".join(f"{name} {found.get(name)}, now {here.get(name)}" for name in differing)
            raise ValueError(f"{self.path} is of another training ({told}): delete it, or name another file")


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    # not state_dict: a TransformerBridge renames what that holds
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        yield name, tensor.detach()


@torch.no_grad()
def _fill(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    here = dict(_weights(model))
    wrong = [n for n in {**here, **tensors} if n not in here or n not in tensors
             or here[n].shape != tensors[n].shape]  # fmt: skip
    if wrong:
        raise ValueError(f"{path} is of another model: {wrong[0]} differs, of {len(wrong)} that do")
    for name, tensor in here.items():
        tensor.copy_(tensors[name])


def _torch_states() -> list[Tensor]:
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return [torch.get_rng_state(), *on_gpu]


def _plain_states() -> dict[str, Any]:
    kind, keys, *rest = numpy.random.get_state(legacy=True)
    return {"python": random.getstate(), "numpy": [kind, numpy.asarray(keys).tolist(), *rest]}


def _restore_random(states: Sequence[Tensor], plain: dict[str, Any]) -> None:
    torch.set_rng_state(states[0])
    for device, state in enumerate(states[1 : 1 + torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, device)
    version, numbers, gauss = plain["python"]
    random.setstate((version, tuple(numbers), gauss))
    numpy.random.set_state(tuple(plain["numpy"]))


def _part(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {key.partition("|")[2]: value for key, value in tensors.items() if key.startswith(part + "|")}


def _write(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".writing")
    whole = {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(whole, str(temporary), metadata={"about": json.dumps(about)})
    os.replace(temporary, path)  # noqa: PTH105


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(str(path), framework="pt") as file:
        about: dict[str, Any] = json.loads(file.metadata()["about"])
        return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118


def _described(path: Path) -> Checkpoint:
    with safe_open(str(path), framework="pt") as file:
        about = json.loads(file.metadata()["about"])
    return Checkpoint(path, int(about["step"]), float(about["loss"]))
