"""Exact activation patching that runs only what a patch can change.

``transformer_lens.patching`` runs the whole model once for each cell of its map.  Here a cell starts
from the corrupted run's residual stream at its own layer, many cells share a batch, and only the
positions that the metric reads are unembedded; where a whole row of heads is patched at one position,
earlier positions are not run again either (their keys and values are kept).  The results are the same
to rounding: ``tests/test_lab_patching.py`` holds them to 1e-4, ``benchmarks/patching.py`` has the ratios.

A cell takes the CLEAN value into the CORRUPTED run (denoising).  Exchange the two token arguments for
the other direction (noising).  See Heimersheim & Nanda 2024, arXiv:2404.15255, for what each can show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

Tokens = Int[Tensor, "batch position"]
Stream = Float[Tensor, "batch position d_model"]
# logits where the metric looks -> one number per cell
Metric = Callable[[Float[Tensor, "cell batch d_vocab"]], Float[Tensor, "cell"]]

# Rows times positions that one batch may hold; 2048 suits a model like GPT-2 Small on two CPU cores.
TOKENS_AT_ONCE = 2048


def logit_difference(answers: Int[Tensor, "batch"], others: Int[Tensor, "batch"]) -> Metric:
    """The metric: logit of the answer minus that of the other token, averaged over the prompts."""

    def metric(logits: Float[Tensor, "cell batch d_vocab"]) -> Float[Tensor, "cell"]:
        index = torch.stack([answers, others], -1).to(logits.device).expand(len(logits), -1, -1)
        chosen = logits.gather(-1, index)
        difference: Tensor = (chosen[..., 0] - chosen[..., 1]).mean(-1)
        return difference

    return metric


@dataclass
class Rerun:
    """A run that can be taken up again at any block: what each block was given, and the keys and values.

    Make one with ``Rerun.of(model, tokens)``.
    """

    model: Any
    inputs: list[tuple[tuple[Any, ...], dict[str, Any]]]
    logits: Float[Tensor, "batch position d_vocab"]
    final: Stream | None = None

    @classmethod
    @torch.no_grad()
    def of(cls, model: Any, tokens: Tokens) -> Rerun:
        """Run ``tokens`` through a TransformerBridge and keep what its blocks were given.

        Raises ValueError if continuing from the first block does not give the model's own logits:
        then the model does something between its blocks that this class does not know about.
        """
        inputs: list[Any] = [None] * len(model.blocks)

        def keep(number: int) -> Callable[..., None]:
            def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                inputs[number] = (args, kwargs)

            return hook

        handles = [
            block.register_forward_pre_hook(keep(number), with_kwargs=True)
            for number, block in enumerate(model.blocks)
        ]
        try:
            logits = model(tokens)
        finally:
            for handle in handles:
                handle.remove()
        run = cls(model, inputs, logits)
        run.final = run.onward(0, run.stream(0))
        again = run.unembed(run.final)
        if not torch.allclose(again, logits, atol=1e-3, rtol=1e-4):
            off = (again - logits).abs().max().item()
            raise ValueError(f"the blocks run one by one give other logits (by {off:.2g}): not supported")
        return run

    def stream(self, layer: int) -> Stream:
        """The residual stream before block ``layer``; after the last for the number of layers."""
        if layer == len(self.inputs) and self.final is not None:
            return self.final
        args, kwargs = self.inputs[layer]
        stream: Tensor = args[0] if args else kwargs["hidden_states"]
        return stream

    @property
    def can_skip_positions(self) -> bool:
        """Whether keys and values of earlier positions were kept, so that they need not be run again."""
        return any(_is_cache(value) for value in _values(self.inputs[0]))

    def onward(self, layer: int, stream: Stream, first: int = 0) -> Stream:
        """Run blocks ``layer`` to the last on ``stream``, whose positions start at ``first``.

        Shape [rows, position - first, d_model]; rows is a multiple of the prompts in the batch, cell
        by cell.  With ``first`` > 0 earlier positions are those of this run.
        """
        for number in range(layer, len(self.inputs)):
            stream = self.block(number, stream, first)
        return stream

    def block(self, number: int, stream: Stream, first: int = 0) -> Stream:
        """Run one block on ``stream``."""
        args, kwargs = self.inputs[number]
        repeat = len(stream) // len(self.stream(number))
        size = self.stream(number).shape[1]

        def fit(value: Any) -> Any:
            if _is_cache(value):
                return None if first == 0 else _Prefix(value, number, first, repeat)
            if isinstance(value, tuple):
                return tuple(map(fit, value))
            return _rows_from(value, size, first, repeat) if isinstance(value, Tensor) else value

        rest = {key: fit(value) for key, value in kwargs.items() if key != "hidden_states"}
        if args:
            out = self.model.blocks[number](stream, *map(fit, args[1:]), **rest)
        else:
            out = self.model.blocks[number](hidden_states=stream, **rest)
        result: Tensor = out[0] if isinstance(out, tuple) else out
        return result

    def unembed(self, stream: Stream) -> Float[Tensor, "batch position d_vocab"]:
        """Final norm and unembedding."""
        logits: Tensor = self.model.unembed(self.model.ln_final(stream))
        return logits


def _values(given: tuple[tuple[Any, ...], dict[str, Any]]) -> Iterator[Any]:
    yield from given[0]
    yield from given[1].values()


def _is_cache(value: Any) -> bool:
    """A key-value cache of transformers, without importing transformers."""
    return hasattr(value, "update") and hasattr(value, "get_seq_length")


def _rows_from(value: Tensor, size: int, first: int, repeat: int) -> Tensor:
    """An attention mask, position ids or rotary angles for the rows and positions that are run."""
    if value.dim() == 4 and value.shape[-2] == size:  # [batch, 1, query, key]
        value = value[:, :, first:]
    elif value.dim() >= 2 and value.shape[1] == size:  # [batch, position, ...]
        value = value[:, first:]
    if repeat > 1 and value.dim() >= 2 and value.shape[0] > 1:
        value = value.repeat(repeat, *[1] * (value.dim() - 1))
    return value


class _Prefix:
    """Stands in for a key-value cache: the kept run's keys and values before position ``first``."""

    is_compileable = False

    def __init__(self, kept: Any, layer: int, first: int, repeat: int) -> None:
        self.first, self.repeat = first, repeat
        self.kept, self.layer = kept, layer

    def get_seq_length(self, *_: Any, **__: Any) -> int:
        return self.first

    def get_mask_sizes(self, queries: int, *_: Any, **__: Any) -> tuple[int, int]:
        return self.first + queries, 0

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        kept = self.kept.layers[self.layer]
        both = [kept.keys[:, :, : self.first], kept.values[:, :, : self.first]]
        before = [part.repeat(self.repeat, 1, 1, 1) for part in both]
        return torch.cat([before[0], keys], -2), torch.cat([before[1], values], -2)


class Patcher:
    """Maps of what each part of a clean run restores in a corrupted one.

    ``metric`` gets the logits at position ``at`` (for each prompt) as [cell, batch, d_vocab] and
    returns a number per cell; ``logit_difference`` makes one.  Both token arguments: [batch,
    position], of equal shape and aligned position by position.
    """

    def __init__(
        self,
        model: Any,
        clean: Tokens,
        corrupted: Tokens,
        metric: Metric,
        *,
        at: int = -1,
        tokens_at_once: int = TOKENS_AT_ONCE,
    ) -> None:
        """Run both, and keep the clean activations.

        Raises ValueError if the two prompts differ in shape.
        """
        if clean.shape != corrupted.shape:
            raise ValueError(
                f"clean is {list(clean.shape)} and corrupted {list(corrupted.shape)}: align them"
            )
        self.model, self.metric, self.tokens_at_once = model, metric, tokens_at_once
        self.batch, self.positions = corrupted.shape
        self.at = at % self.positions
        self.layers = len(model.blocks)
        with torch.no_grad():
            names = {f"blocks.{n}.{site}" for n in range(self.layers) for site in SITES.values()}
            _, self.clean = model.run_with_cache(clean, names_filter=lambda name: name in names)
            self.run = Rerun.of(model, corrupted)

    def baseline(self) -> tuple[float, float]:
        """The metric on the clean and on the corrupted prompts."""
        with torch.no_grad():
            clean = self.run.unembed(self._clean_stream_at())
        corrupted = self.run.logits[:, self.at]
        return self.metric(clean[None]).item(), self.metric(corrupted[None]).item()

    def _clean_stream_at(self) -> Tensor:
        stream: Tensor = self.clean[f"blocks.{self.layers - 1}.hook_resid_post"][:, self.at]
        return stream

    @torch.no_grad()
    def resid_pre(self) -> Float[Tensor, "layer position"]:
        """The residual stream before each block, one position at a time."""
        return self._by_position("resid_pre")

    @torch.no_grad()
    def attn_out(self) -> Float[Tensor, "layer position"]:
        """Each attention layer's output, one position at a time."""
        return self._by_position("attn_out")

    @torch.no_grad()
    def mlp_out(self) -> Float[Tensor, "layer position"]:
        """Each MLP's output, one position at a time."""
        return self._by_position("mlp_out")

    @torch.no_grad()
    def heads(self) -> Float[Tensor, "layer head"]:
        """Each head's output (z) at all positions."""
        heads = self.clean[f"blocks.0.{SITES['z']}"].shape[2]
        cells = [(slice(None), head) for head in range(heads)]
        return torch.stack([self._cells("z", layer, cells) for layer in range(self.layers)])

    @torch.no_grad()
    def heads_by_position(self) -> Float[Tensor, "layer position head"]:
        """Each head's output (z), one position at a time."""
        heads = self.clean[f"blocks.0.{SITES['z']}"].shape[2]
        rows = []
        for layer in range(self.layers):
            if self.run.can_skip_positions:
                parts = [
                    self._cells("z", layer, [(position, head) for head in range(heads)], first=position)
                    for position in range(self.positions)
                ]
                rows.append(torch.stack(parts))
            else:
                cells = [(p, h) for p in range(self.positions) for h in range(heads)]
                rows.append(self._cells("z", layer, cells).view(self.positions, heads))
        return torch.stack(rows)

    def _by_position(self, site: str) -> Float[Tensor, "layer position"]:
        cells = [(position, None) for position in range(self.positions)]
        return torch.stack([self._cells(site, layer, cells) for layer in range(self.layers)])

    def _cells(
        self, site: str, layer: int, cells: Sequence[tuple[int | slice, int | None]], first: int = 0
    ) -> Float[Tensor, "cell"]:
        """The metric for each cell (position, head) at one site of one layer."""
        if first > self.at:  # a later position cannot change what an earlier one says
            return self.metric(self.run.logits[:, self.at].expand(len(cells), -1, -1))
        together = max(1, self.tokens_at_once // (self.batch * (self.positions - first)))
        parts = [
            self._together(site, layer, cells[start : start + together], first)
            for start in range(0, len(cells), together)
        ]
        return torch.cat(parts)

    def _together(self, site: str, layer: int, cells: Sequence[Any], first: int) -> Float[Tensor, "cell"]:
        stream = self.run.stream(layer)[:, first:].repeat(len(cells), 1, 1)
        clean = self.clean[f"blocks.{layer}.{SITES[site]}"]

        def patch(value: Tensor, hook: Any = None) -> Tensor:
            value = value.clone()
            for number, (position, head) in enumerate(cells):
                rows = slice(number * self.batch, (number + 1) * self.batch)
                here = position if isinstance(position, slice) else position - first
                if head is None:
                    value[rows, here] = clean[:, position]
                else:
                    value[rows, here, head] = clean[:, position, head]
            return value

        if site == "resid_pre":
            stream = self.run.onward(layer, patch(stream), first)
        else:
            with self.model.hooks(fwd_hooks=[(f"blocks.{layer}.{SITES[site]}", patch)]):
                stream = self.run.block(layer, stream, first)
            stream = self.run.onward(layer + 1, stream, first)
        logits = self.run.unembed(stream[:, self.at - first])
        return self.metric(logits.view(len(cells), self.batch, -1))


SITES = {
    "resid_pre": "hook_resid_pre",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "z": "attn.hook_z",
    "resid_post": "hook_resid_post",
}
