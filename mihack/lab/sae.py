"""Sparse autoencoders and transcoders, small enough to train on a laptop.

Three ways to be sparse: ReLU with an L1 penalty (Bricken et al. 2023,
transformer-circuits.pub/2023/monosemantic-features), TopK (Gao et al. 2024, arXiv:2406.04093) and
BatchTopK (Bussmann et al. 2024, arXiv:2412.06410).  With a target of its own the same class is a
transcoder (Dunefsky et al. 2024, arXiv:2406.11944): it reads one activation and predicts another.

Inside, activations are centred and scaled to a mean squared norm of 1; both numbers are stored with the
weights, so callers only ever see activations in the model's own units.  ``sae_training`` trains,
``dictionary_metrics`` measures, ``planted`` has data with known features.  SAELens and
dictionary_learning have many more kinds; SAELens wants an older TransformerLens.

``sae.encode`` is a reader for ``scan``: ``scan(model, rows, {"blocks.1.hook_mlp_out": sae.encode})``.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

KINDS = ("relu", "topk", "batchtopk")


@dataclass(frozen=True)
class Options:
    """What a sparse autoencoder is.  ``d_out`` makes it a transcoder.

    ``k``: latents kept per example (topk), or per example on average (batchtopk).  ``l1``: weight of the
    summed latents against the unexplained share of variance; relu only.  ``auxiliary``: weight of the
    loss that lets dead latents explain what the others leave (topk and batchtopk).  A latent is dead
    once it has been silent for ``dead_after`` examples.  Raises ValueError if these do not fit together.
    """

    d_in: int
    latents: int
    kind: Literal["relu", "topk", "batchtopk"] = "topk"
    k: int = 8
    l1: float = 0.0
    d_out: int | None = None
    auxiliary: float = 1 / 32
    dead_after: int = 20_000

    def __post_init__(self) -> None:
        sizes = (self.d_in, self.latents, self.d_in if self.d_out is None else self.d_out, self.dead_after)
        if min(sizes) < 1:
            raise ValueError(f"d_in, latents, d_out and dead_after must be at least 1: {sizes}")
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}: choose from {', '.join(KINDS)}")
        if self.kind == "relu" and self.l1 <= 0:
            raise ValueError("a relu autoencoder needs l1 > 0: nothing else makes it sparse")
        if self.kind != "relu" and not 1 <= self.k <= self.latents:
            raise ValueError(f"k is {self.k}: it must be 1 to {self.latents}, the number of latents")


class SparseAutoencoder(nn.Module):
    """x -> a few active latents of many -> x again, or another activation.

    Decoder rows have unit norm by construction: what is trained are unnormalised rows, so that the
    gradient has no part along them.  An autoencoder's encoder starts as its decoder (tied).
    """

    def __init__(self, options: Options, seed: int = 0) -> None:
        super().__init__()
        self.options = options
        d_in, latents, d_out = options.d_in, options.latents, options.d_out or options.d_in
        generator = torch.Generator().manual_seed(seed)
        rows = functional.normalize(torch.randn(latents, d_out, generator=generator), dim=1)
        read = rows if options.d_out is None else torch.randn(latents, d_in, generator=generator)
        self.encoder = nn.Parameter(functional.normalize(read, dim=1).clone())
        self.encoder_bias = nn.Parameter(torch.zeros(latents))
        self.decoder_rows = nn.Parameter(rows.clone())
        self.decoder_bias = nn.Parameter(torch.zeros(d_out))
        for name, value in (
            ("centre_in", torch.zeros(d_in)),
            ("scale_in", torch.ones(())),
            ("centre_out", torch.zeros(d_out)),
            ("scale_out", torch.ones(())),
            ("threshold", torch.zeros(())),  # batchtopk, outside training
            ("silent", torch.zeros(latents, dtype=torch.int64)),  # examples since a latent was active
        ):
            self.register_buffer(name, value)
        self.centre_in: Tensor
        self.scale_in: Tensor
        self.centre_out: Tensor
        self.scale_out: Tensor
        self.threshold: Tensor
        self.silent: Tensor

    @property
    def decoder(self) -> Float[Tensor, "latent d_out"]:
        """What a latent writes, as unit vectors."""
        return functional.normalize(self.decoder_rows, dim=1)

    @property
    def directions(self) -> Float[Tensor, "latent d_out"]:
        """What a latent of activation 1 adds, in the units of the activations: for steering."""
        return (self.decoder * self.scale_out).detach()

    @property
    def dead(self) -> Bool[Tensor, "latent"]:
        """Latents that were silent for ``dead_after`` training examples."""
        return self.silent >= self.options.dead_after

    @torch.no_grad()
    def fit_scale(self, x: Tensor, target: Tensor | None = None) -> None:
        """Centre and scale by this batch [batch, d].  ``train_sae`` does so with the first one."""
        for side, values in (("in", x), ("out", x if target is None else target)):
            centre = values.mean(0)
            getattr(self, f"centre_{side}").copy_(centre)
            getattr(self, f"scale_{side}").copy_((values - centre).square().sum(1).mean().sqrt() + 1e-8)

    def before_activation(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch latent"]:
        """The encoder's linear part."""
        x = (x - self.centre_in) / self.scale_in
        if self.options.d_out is None:
            x = x - self.decoder_bias
        return functional.linear(x, self.encoder, self.encoder_bias)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch latent"]:
        """The latents: never negative, mostly zero.

        In training mode batchtopk chooses over the batch; otherwise by the threshold that it learnt, so
        that an example's latents do not depend on its batch.
        """
        pre = self.before_activation(x)
        if self.options.kind == "topk":
            values, index = self._top(pre)
            return torch.zeros_like(pre).scatter(-1, index, values)
        return self._dense(pre)

    def decode(self, latents: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch d_out"]:
        """From latents to activations."""
        return (latents @ self.decoder + self.decoder_bias) * self.scale_out + self.centre_out

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """The reconstruction, or a transcoder's prediction."""
        rebuilt, _, _ = self._rebuilt(self.before_activation(x))
        return rebuilt * self.scale_out + self.centre_out

    def loss(self, x: Float[Tensor, "batch d_in"], target: Tensor | None = None) -> Float[Tensor, ""]:
        """Unexplained share of variance and the penalty; in training mode it counts silent latents too."""
        goal = ((x if target is None else target) - self.centre_out) / self.scale_out
        pre = self.before_activation(x)
        rebuilt, size, active = self._rebuilt(pre)
        error = goal - rebuilt
        loss = error.square().sum(-1).mean()
        if self.options.kind == "relu":
            loss = loss + self.options.l1 * size
        elif self.options.auxiliary and self.dead.any():
            loss = loss + self.options.auxiliary * self._auxiliary(pre, error.detach())
        if self.training:
            self.silent = torch.where(active, 0, self.silent + len(x))
        return loss

    def _rebuilt(self, pre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The scaled reconstruction, the mean summed activation, and which latents were active at all."""
        if self.options.kind != "topk":
            latents = self._dense(pre)
            rebuilt = latents @ self.decoder + self.decoder_bias
            return rebuilt, latents.sum(-1).mean(), (latents > 0).reshape(-1, pre.shape[-1]).any(0)
        values, index = self._top(pre)
        active = torch.zeros(pre.shape[-1], dtype=torch.bool, device=pre.device)
        active[index[values > 0]] = True
        return self._gathered(values, index) + self.decoder_bias, values.sum(-1).mean(), active

    def _top(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        values, index = pre.topk(self.options.k, dim=-1, sorted=False)
        return values.relu(), index

    def _dense(self, pre: Tensor) -> Tensor:
        latents = pre.relu()
        if self.options.kind == "relu":
            return latents
        if not self.training:
            return latents * (latents > self.threshold)
        count = self.options.k * (latents.numel() // latents.shape[-1])
        least = latents.detach().flatten().topk(count, sorted=False).values.min()
        # a running mean of the smallest value kept, as the threshold for single examples
        self.threshold.lerp_(least, 1.0 if self.threshold == 0 else 0.01)
        return latents * (latents >= least)

    def _gathered(self, values: Tensor, index: Tensor) -> Tensor:
        """Decode from the kept latents alone: a sum of k rows for each example, not of all of them.

        ``benchmarks/dictionaries.py`` has what that gains.
        """
        rows, shape = self.decoder, values.shape[:-1]
        kept = values.shape[-1]
        flat = functional.embedding_bag(
            index.reshape(-1, kept), rows, per_sample_weights=values.reshape(-1, kept), mode="sum"
        )
        return flat.view(*shape, rows.shape[1])

    def _auxiliary(self, pre: Tensor, error: Tensor) -> Tensor:
        """How badly the dead latents explain what is left (Gao et al. 2024, appendix A.2)."""
        dead = self.dead
        count = min(int(dead.sum()), max(1, error.shape[-1] // 2))
        values, index = pre.masked_fill(~dead, -torch.inf).topk(count, dim=-1, sorted=False)
        left = error - self._gathered(values.relu(), index)
        return left.square().sum(-1).mean() / error.square().sum(-1).mean().clamp_min(1e-12)

    def save(self, path: Path) -> None:
        """Write weights, scales and options as safetensors, through a temporary file."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".writing")
        save_file(tensors, str(temporary), metadata={"sae": json.dumps(asdict(self.options))})
        os.replace(temporary, path)  # noqa: PTH105

    @classmethod
    def load(cls, path: Path) -> SparseAutoencoder:
        """Read what ``save`` wrote, in eval mode.  Raises ValueError if it is not that."""
        try:
            with safe_open(str(path), framework="pt") as file:
                options = Options(**json.loads((file.metadata() or {})["sae"]))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if tensors["encoder"].shape != (options.latents, options.d_in):  # before so much is allocated
                raise ValueError(f"the encoder is {list(tensors['encoder'].shape)}, against {options}")
            sae = cls(options)
            sae.load_state_dict(tensors)
        except FileNotFoundError:
            raise
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path} is not a sparse autoencoder that this class saved: {error}") from error
        return sae.eval()
