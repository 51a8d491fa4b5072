"""Training a sparse autoencoder or transcoder on a stream of activations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from .sae import SparseAutoencoder
from .train import History, train

# step -> activations [batch, d_in], or (activations, targets) for a transcoder; always the same for a step
Batches = Callable[[int], "Tensor | tuple[Tensor, Tensor]"]


def train_sae(
    sae: SparseAutoencoder,
    batch_at: Batches,
    *,
    steps: int,
    lr: float = 3e-3,
    revive_every: int | None = None,
    every: int = 100,
    label: str = "training a dictionary",
) -> History:
    """Train with ``lab.train``; centre and scale come from the first batch.

    ``revive_every``: steps between revivals of dead latents, in the first half of training.  Returns
    the columns ``step``, ``loss`` and ``dead`` (a share).
    """

    def batch(step: int) -> tuple[Tensor, Tensor | None]:
        drawn = batch_at(step)
        return drawn if isinstance(drawn, tuple) else (drawn, None)

    def loss_at(step: int) -> Tensor:
        x, target = batch(step)
        if revive_every and 0 < step <= steps // 2 and step % revive_every == 0:
            # Adam's moments need no reset: a silent relu latent gets no gradient, so they have decayed
            revive(sae, x, target)
        return sae.loss(x, target)

    def dead() -> dict[str, float]:
        return {"dead": sae.dead.float().mean().item()}

    sae.fit_scale(*batch(0))
    return train(sae, loss_at, steps=steps, lr=lr, decay=True, evaluate=dead, every=every, label=label)


@torch.no_grad()
def revive(sae: SparseAutoencoder, x: Float[Tensor, "batch d_in"], target: Tensor | None = None) -> int:
    """Point the dead latents at the examples that are explained worst; returns how many that were.

    After Bricken et al. 2023, except that a new decoder row is the example's error, not the example, and
    that the worst examples are taken, not drawn.
    """
    dead = sae.dead.nonzero().squeeze(1)[: len(x)]
    if not len(dead):
        return 0
    alive = sae.encoder[~sae.dead].norm(dim=1).mean() if not sae.dead.all() else 1.0
    error = ((x if target is None else target) - sae(x)) / sae.scale_out
    worst = error.square().sum(-1).topk(len(dead)).indices
    read = error if target is None else x - sae.centre_in
    sae.decoder_rows[dead] = functional.normalize(error[worst], dim=1)
    sae.encoder[dead] = functional.normalize(read[worst], dim=1) * 0.2 * alive
    sae.encoder_bias[dead] = 0.0
    sae.silent[dead] = 0
    return len(dead)
