"""Edge attribution patching with integrated gradients: what every edge of a model carries, in a few passes.

An edge joins what one component writes (embedding, head, MLP) to what a later one reads (attention
layer, MLP, logits).  Its score estimates by how much the metric would rise if the reader got the clean
instead of the corrupted output of the writer: the difference of the output, times the gradient at the
reader's input, averaged over ``steps`` points between the corrupted and the clean embeddings (Hanna,
Pezzelle & Belinkov 2024, arXiv:2403.17806).  One step at the corrupted end is plain edge attribution
(Syed, Rager & Conmy 2023, arXiv:2310.10348).

It is an estimate: ``edge_patching`` gives the exact effect of the edges that you are going to name
(path patching along a direct path, Goldowsky-Dill et al. 2023, arXiv:2304.05969), ``paths`` has maps of
them, also into a head's query, key or value alone, and ``agreement`` says how far the two go together.
TransformerLens's ``attribution_patch`` scores edges with one step, but not with several (it raises
NotImplementedError), nor on native models or with grouped queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .patching import TOKENS_AT_ONCE, Metric, Rerun, Tokens


@dataclass(frozen=True, order=True)
class Node:
    """``embed``, ``head`` (with its number), ``attn`` (a whole layer's input), ``mlp`` or ``logits``.

    For ``paths`` also ``q``, ``k`` and ``v``: one input of one head (with its number).
    """

    layer: int
    kind: str
    head: int = -1

    def __str__(self) -> str:
        if self.kind in {"embed", "logits"}:
            return self.kind
        if self.kind == "head":
            return f"{self.layer}.{self.head}"
        return f"{self.kind} {self.layer}" + (f".{self.head}" if self.kind in {"q", "k", "v"} else "")


Edges = dict[tuple[Node, Node], float]


def writers(model: Any) -> Iterator[Node]:
    """Every component that writes to the residual stream, in order."""
    yield Node(-1, "embed")
    for layer in range(len(model.blocks)):
        yield from (Node(layer, "head", head) for head in range(model.cfg.n_heads))
        if not model.cfg.attn_only:
            yield Node(layer, "mlp")


def readers(model: Any) -> Iterator[Node]:
    """Every component that reads it, in order."""
    for layer in range(len(model.blocks)):
        yield Node(layer, "attn")
        if not model.cfg.attn_only:
            yield Node(layer, "mlp")
    yield Node(len(model.blocks), "logits")


def precedes(writer: Node, reader: Node, *, parallel: bool = False) -> bool:
    """Whether ``reader`` sees what ``writer`` wrote; ``parallel``: MLPs stand beside attention."""
    if writer.layer != reader.layer:
        return writer.layer < reader.layer
    return writer.kind == "head" and reader.kind == "mlp" and not parallel


def edge_attribution(
    model: Any, clean: Tokens, corrupted: Tokens, metric: Metric, *, at: int = -1, steps: int = 5
) -> Edges:
    """The score of every edge, in units of the metric, averaged over the prompts.

    ``clean`` and ``corrupted``: [batch, position], aligned.  ``metric`` and ``at`` as for ``Patcher``.
    Raises ValueError for prompts of unequal shape, or if ``steps`` is less than one.
    """
    if clean.shape != corrupted.shape or steps < 1:
        raise ValueError("clean and corrupted must have one shape, and steps be at least 1")
    outputs = [_outputs(model, tokens) for tokens in (clean, corrupted)]
    change = {node: outputs[0][node] - outputs[1][node] for node in outputs[0]}
    embeddings = [_embeddings(model, tokens) for tokens in (clean, corrupted)]
    gradients: dict[Node, Tensor] = {}
    for step in range(steps):
        # from the corrupted end (step 0) up to just before the clean one
        share = step / steps
        mixed = share * embeddings[0] + (1 - share) * embeddings[1]
        for node, gradient in _gradients(model, corrupted, mixed, metric, at).items():
            gradients[node] = gradients.get(node, 0) + gradient / steps
    parallel = bool(getattr(model.cfg, "parallel_attn_mlp", False))
    return {
        (writer, reader): torch.einsum("bpd,bpd->", change[writer], gradients[reader]).item()
        for writer in writers(model)
        for reader in readers(model)
        if precedes(writer, reader, parallel=parallel)
    }


@torch.no_grad()
def edge_patching(
    model: Any,
    clean: Tokens,
    corrupted: Tokens,
    metric: Metric,
    edges: Iterable[tuple[Node, Node]] | None = None,
    *,
    at: int = -1,
    tokens_at_once: int = TOKENS_AT_ONCE,
) -> Edges:
    """By how much the metric rises when a reader gets the clean output of a writer: exact, per edge.

    Only what the reader reads is changed; what follows from it is computed anew, everything else is
    as in the corrupted run.  ``edges``: those to patch, by default all.  Edges of one reader share a
    batch that starts at the reader's block.
    """
    outputs = [_outputs(model, tokens) for tokens in (clean, corrupted)]
    change = {node: outputs[0][node] - outputs[1][node] for node in outputs[0]}
    run = Rerun.of(model, corrupted)
    at = at % corrupted.shape[1]
    baseline = metric(run.logits[:, at][None]).item()
    parallel = bool(getattr(model.cfg, "parallel_attn_mlp", False))
    pairs = [(w, r) for w in writers(model) for r in readers(model) if precedes(w, r, parallel=parallel)]
    wanted = pairs if edges is None else list(edges)
    found: Edges = {}
    together = max(1, tokens_at_once // corrupted.numel())
    for reader in dict.fromkeys(reader for _, reader in wanted):
        senders = [writer for writer, read_by in wanted if read_by == reader]
        for start in range(0, len(senders), together):
            chunk = senders[start : start + together]
            added = torch.cat([change[writer] for writer in chunk])
            values = metric(reader_gets(run, reader, added, at).view(len(chunk), len(corrupted), -1))
            found |= {(w, reader): v - baseline for w, v in zip(chunk, values.tolist(), strict=True)}
    return found


def reader_gets(
    run: Rerun, reader: Node, added: Float[Tensor, "row position d_model"], at: int, first: int = 0
) -> Float[Tensor, "row d_vocab"]:
    """Logits at position ``at`` when ``added``, from position ``first`` on, joins what the reader reads."""
    repeat = len(added) // len(run.logits)
    if reader.kind == "logits":
        last = run.stream(len(run.inputs))[:, at].repeat(repeat, 1)
        return run.unembed(last + added[:, at - first])
    name = _input_name(run.model, reader)
    with run.model.hooks(fwd_hooks=[(name, lambda value, hook=None: value + added)]):
        stream = run.block(reader.layer, run.stream(reader.layer)[:, first:].repeat(repeat, 1, 1), first)
    return run.unembed(run.onward(reader.layer + 1, stream, first)[:, at - first])


def strongest(edges: Edges, count: int) -> list[tuple[Node, Node]]:
    """The edges with the largest scores by absolute value."""
    return sorted(edges, key=lambda edge: -abs(edges[edge]))[:count]


@torch.no_grad()
def _outputs(model: Any, tokens: Tokens) -> dict[Node, Float[Tensor, "batch position d_model"]]:
    layers = range(len(model.blocks))
    wanted = {f"blocks.{n}.{site}" for n in layers for site in ("attn.hook_z", "hook_mlp_out")}
    wanted.add("blocks.0.hook_resid_pre")
    _, cache = model.run_with_cache(tokens, names_filter=lambda name: name in wanted)
    found = {Node(-1, "embed"): cache["blocks.0.hook_resid_pre"]}
    for node in writers(model):
        if node.kind == "head":
            z = cache[f"blocks.{node.layer}.attn.hook_z"][:, :, node.head]
            found[node] = z @ model.blocks[node.layer].attn.W_O[node.head]
        elif node.kind == "mlp":
            found[node] = cache[f"blocks.{node.layer}.hook_mlp_out"]
    return found


@torch.no_grad()
def _embeddings(model: Any, tokens: Tokens) -> Tensor:
    _, cache = model.run_with_cache(tokens, names_filter=lambda name: name == "hook_embed")
    embeddings: Tensor = cache["hook_embed"]
    return embeddings


def _gradients(
    model: Any, tokens: Tokens, embeddings: Tensor, metric: Metric, at: int
) -> dict[Node, Float[Tensor, "batch position d_model"]]:
    """The metric's gradient at each reader's input, along that reader's path alone."""
    inputs: dict[Node, Tensor] = {}

    def keep(node: Node) -> Callable[..., Tensor]:
        def hook(value: Tensor, hook: Any = None) -> Tensor:
            mine = value + 0  # a branch of its own: the stream's other readers do not count here
            inputs[node] = mine
            return mine

        return hook

    hooks: list[tuple[str, Any]] = [("hook_embed", lambda value, hook=None: embeddings.requires_grad_())]
    hooks += [(_input_name(model, node), keep(node)) for node in readers(model)]
    with torch.enable_grad(), model.hooks(fwd_hooks=hooks):
        logits = model(tokens)
        value = metric(logits[:, at][None]).sum()
    gradients = torch.autograd.grad(value, list(inputs.values()))
    return dict(zip(inputs, gradients, strict=True))


def _input_name(model: Any, node: Node) -> str:
    """The hook at a reader's input, before its norm where there is one."""
    if node.kind == "logits":
        choices = ["ln_final.hook_in", "unembed.hook_in"]
    else:
        norm = "ln1" if node.kind == "attn" else "ln2"
        choices = [f"blocks.{node.layer}.{part}.hook_in" for part in (norm, node.kind)]
    return next(name for name in choices if name in model.hook_dict)
