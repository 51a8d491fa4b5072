"""Exact path patching: what each head tells one later component directly.

Activation patching gives a head's whole effect, whatever way it takes.  Path patching (Wang et al.
2022, arXiv:2211.00593; Goldowsky-Dill et al. 2023, arXiv:2304.05969) lets the sender's CLEAN output
reach one receiver of the CORRUPTED run along the residual stream, with everything between frozen; only
what follows from the receiver's changed input is computed anew.  Receivers are ``Node``s:

    paths = PathPatcher(model, clean, corrupted, metric)
    paths.into(Node(9, "q", 9))                      # the query of head 9.9 alone; "k" and "v" likewise
    paths.into(Node(9, "q", 6), Node(9, "q", 9))     # of both, set in one run
    paths.into(Node(8, "mlp"))                       # an MLP; Node(8, "attn"): a whole attention layer
    paths.into(Node(12, "logits"))                   # the final norm and unembedding

Directions are those of ``patching``: exchange the two token arguments for Wang et al.'s (noising).
TransformerLens's ``get_act_patch_direct_path`` does one sender at a time, into q, k and v only, a whole
run per cell; it needs split inputs, which native models do not have, and refuses k and v where heads
share them.  Here senders share batches that start at the receiver's layer and at the first position
where the prompts differ.  ``tests/test_lab_paths.py`` holds this to both that tool and a literal one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .attribution import Node, precedes, reader_gets
from .patching import SITES, TOKENS_AT_ONCE, Metric, Rerun, Stream, Tokens

Sender = tuple[int, int]  # layer, head
HEAD_INPUTS = frozenset("qkv")


class PathPatcher:
    """Maps of what each head restores along its direct path to a receiver.

    ``clean``, ``corrupted`` [batch, position], ``metric``, ``at`` and ``tokens_at_once`` as for
    ``Patcher``.  ``through_mlps``: let the MLPs between react while attention stays frozen, so that
    ways through them count as direct, as in Wang et al.; by default a path is a single edge.
    """

    def __init__(
        self,
        model: Any,
        clean: Tokens,
        corrupted: Tokens,
        metric: Metric,
        *,
        at: int = -1,
        through_mlps: bool = False,
        tokens_at_once: int = TOKENS_AT_ONCE,
    ) -> None:
        """Run both, and keep every head's output.

        Raises ValueError if the prompts differ in shape, or if heads do not simply add up to what
        attention writes (a norm stands between, as in Gemma 2): then a head has no output of its own.
        """
        if clean.shape != corrupted.shape:
            raise ValueError(
                f"clean is {list(clean.shape)} and corrupted {list(corrupted.shape)}: align them"
            )
        self.model, self.metric, self.through_mlps = model, metric, through_mlps
        self.batch, self.positions = corrupted.shape
        self.at, self.tokens_at_once = at % self.positions, tokens_at_once
        with torch.no_grad():
            self.run = Rerun.of(model, corrupted)
            self.weights = [block.attn.W_O for block in model.blocks]
            clean_z, _ = _attention(model, clean)
            self.z, self.attention = _attention(model, corrupted)
            self._require_sum()
            self.change = [ours - theirs for ours, theirs in zip(clean_z, self.z, strict=True)]
        differ = (clean != corrupted).any(0).nonzero().flatten().tolist()
        # earlier positions are the same in both runs, and need not be run again
        self.first = min([*differ, self.at]) if self.run.can_skip_positions else 0

    def _require_sum(self) -> None:
        for layer, written in enumerate(self.attention):
            heads = torch.einsum("bphe,hed->bpd", self.z[layer], self.weights[layer])
            bias = getattr(self.model.blocks[layer].attn, "b_O", None)
            off = (heads + (0 if bias is None else bias) - written).abs().max().item()
            if off > 2e-2 * max(1.0, written.abs().max().item()):
                raise ValueError(f"the heads of layer {layer} miss its output by {off:.2g}: not supported")

    def baseline(self) -> float:
        """The metric on the corrupted prompts: what a path that carries nothing leaves."""
        return self.metric(self.run.logits[:, self.at][None]).item()

    @torch.no_grad()
    def into(self, *receivers: Node) -> Float[Tensor, "layer head"]:
        """The metric when each head's clean output reaches only the receivers.

        Several receivers must be all ``q``, all ``k`` or all ``v``; each gets what the direct paths
        to it carry, whatever the others then do.  A head that precedes none of them leaves the
        baseline.  Raises ValueError for receivers that the model does not have.
        """
        self._require_receivers(receivers)
        layers, heads = len(self.z), self.z[0].shape[2]
        found = self.run.logits.new_full((layers, heads), self.baseline())
        senders = [
            (layer, head)
            for layer in range(layers)
            for head in range(heads)
            if any(self._reaches(layer, receiver) for receiver in receivers)
        ]
        together = max(1, self.tokens_at_once // (self.batch * (self.positions - self.first)))
        for start in range(0, len(senders), together):
            chunk = senders[start : start + together]
            logits = self._logits(chunk, receivers).view(len(chunk), self.batch, -1)
            rows, columns = zip(*chunk, strict=True)
            found[list(rows), list(columns)] = self.metric(logits).to(found)
        return found

    def _require_receivers(self, receivers: Sequence[Node]) -> None:
        kinds = {receiver.kind for receiver in receivers}
        if len(kinds) != 1 or (len(receivers) > 1 and not kinds <= HEAD_INPUTS):
            raise ValueError("give one receiver, or several that are all q, all k or all v")
        layers, heads = len(self.z), self.z[0].shape[2]
        for node in receivers:
            at_end = node.kind == "logits" and node.layer == layers
            in_block = node.kind in {"attn", "mlp", *HEAD_INPUTS} and 0 <= node.layer < layers
            if not (at_end or in_block) or (node.kind in HEAD_INPUTS and not 0 <= node.head < heads):
                raise ValueError(f"no such receiver in a model of {layers} layers, {heads} heads: {node!r}")

    def _reaches(self, layer: int, receiver: Node) -> bool:
        parallel = bool(getattr(self.model.cfg, "parallel_attn_mlp", False))
        return precedes(Node(layer, "head"), receiver, parallel=parallel)

    def _logits(self, senders: Sequence[Sender], receivers: Sequence[Node]) -> Float[Tensor, "row d_vocab"]:
        """Logits at the metric's position; a row is a sender and a prompt."""
        added = self._added(senders, receivers)
        if receivers[0].kind not in HEAD_INPUTS:
            return reader_gets(self.run, receivers[0], added[receivers[0]], self.at, self.first)
        start = min(receivers).layer
        stream = self._stream(start, len(senders))
        for layer in range(start, len(self.z)):
            here = [receiver for receiver in receivers if receiver.layer == layer]
            hooks = self._head_hooks(here, added[here[0]]) if here else []
            with self.model.hooks(fwd_hooks=hooks):
                stream = self.run.block(layer, stream, self.first)
        return self.run.unembed(stream[:, self.at - self.first])

    def _stream(self, layer: int, senders: int) -> Stream:
        return self.run.stream(layer)[:, self.first :].repeat(senders, 1, 1)

    def _added(self, senders: Sequence[Sender], receivers: Sequence[Node]) -> dict[Node, Stream]:
        """What the senders' direct paths add to what each receiver reads, [row, position, d_model]."""
        parts = [
            self.change[layer][:, self.first :, head] @ self.weights[layer][head] for layer, head in senders
        ]
        writes = torch.stack(parts)  # [sender, batch, position, d_model]
        if self.through_mlps:
            return self._added_through_mlps(senders, writes, receivers)
        found = {}
        for receiver in receivers:
            reached = writes.new_tensor([self._reaches(layer, receiver) for layer, _ in senders])
            found[receiver] = (writes * reached[:, None, None, None]).flatten(0, 1)
        return found

    def _added_through_mlps(
        self, senders: Sequence[Sender], writes: Tensor, receivers: Sequence[Node]
    ) -> dict[Node, Stream]:
        """The same, running the blocks between with attention frozen."""
        found: dict[Node, Stream] = {}
        begin, end = senders[0][0], max(receivers).layer
        stream = self._stream(begin, len(senders))
        for layer in range(begin, end + 1):
            mine = writes.new_tensor([sender == layer for sender, _ in senders])
            written = (writes * mine[:, None, None, None]).flatten(0, 1)
            so_far = stream - self._stream(layer, len(senders))
            for receiver in receivers:
                if receiver.layer == layer:
                    found[receiver] = so_far + (written if self._reaches(layer, receiver) else 0)
            if layer < end:
                frozen = self.attention[layer][:, self.first :].repeat(len(senders), 1, 1) + written
                hook = (f"blocks.{layer}.{SITES['attn_out']}", lambda _value, hook=None, out=frozen: out)
                with self.model.hooks(fwd_hooks=[hook]):
                    stream = self.run.block(layer, stream, self.first)
        for receiver in receivers:  # before every sender
            found.setdefault(receiver, torch.zeros_like(stream))
        return found

    def _head_hooks(self, receivers: Sequence[Node], added: Stream) -> list[tuple[str, Any]]:
        """Hooks that give heads of one layer the query, key or value that they make of ``added``."""
        layer, kind = receivers[0].layer, receivers[0].kind
        wanted = self._projection(layer, kind, added)
        heads = [receiver.head for receiver in receivers]
        shared = self.z[layer].shape[2] // wanted.shape[2]  # query heads to one key and value
        targets = [head // shared for head in heads]

        def project(value: Tensor, hook: Any = None) -> Tensor:
            value = value.clone()
            value[:, :, targets] = wanted[:, :, targets]
            return value

        def only_these(value: Tensor, hook: Any = None) -> Tensor:
            kept = self.z[layer][:, self.first :].repeat(len(value) // self.batch, 1, 1, 1)
            kept[:, :, heads] = value[:, :, heads]
            return kept

        hooks: list[tuple[str, Any]] = [(f"blocks.{layer}.attn.hook_{kind}", project)]
        if shared > 1:  # the other heads that share this key or value must not see the change
            hooks.append((f"blocks.{layer}.{SITES['z']}", only_these))
        return hooks

    def _projection(self, layer: int, kind: str, added: Stream) -> Float[Tensor, "row position head d_head"]:
        """Queries, keys or values of a layer that reads ``added`` besides the stream.

        The block itself makes them, whatever norms it has, and is then left: no split input needed.
        """
        found: list[Tensor] = []

        def leave(value: Tensor, hook: Any = None) -> None:
            found.append(value)
            raise _Reached

        stream = self._stream(layer, len(added) // self.batch) + added
        with self.model.hooks(fwd_hooks=[(f"blocks.{layer}.attn.hook_{kind}", leave)]), suppress(_Reached):
            self.run.block(layer, stream, self.first)
        return found[0]


class _Reached(Exception):
    """The block has got as far as needed."""


def _attention(model: Any, tokens: Tokens) -> tuple[list[Tensor], list[Tensor]]:
    """Of each layer, the heads' outputs z [batch, position, head, d_head], and what attention writes."""
    layers = range(len(model.blocks))
    names = [[f"blocks.{layer}.{SITES[site]}" for layer in layers] for site in ("z", "attn_out")]
    _, cache = model.run_with_cache(tokens, names_filter=lambda name: name in {*names[0], *names[1]})
    return [cache[name] for name in names[0]], [cache[name] for name in names[1]]
