"""Units of a model to look at: their strongest places in a text, and their values on any text you type.

    scope = open_scope("gelu-1l")                       # reads the text once, then from disk
    site = scope.sites["neurons of layer 0"]
    scope.read("My fellow citizens", site)              # tokens, and values [position, unit]
    scope.places(site, 327)                             # the strongest places, with their context

``neuroscope`` is the page that shows this.  A unit is a neuron, a head (the length of what it writes), or
a latent of a sparse autoencoder of ``sae``.  The start token is no text and often extreme: it counts as 0.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .data import documents, token_rows
from .examples import Example, word
from .models import load_model
from .sae import SparseAutoencoder
from .scan import Reader, Scan, head_norms, scan

WIDTH = 128  # tokens in a row of the text that is read
SMALL = 10_000_000  # parameters up to which a forward pass takes next to no time
TOKENS = {True: 200_000, False: 10_000}  # read by default, of a small model and of a larger one
LEVELS = (0.95, 0.75, 0.5, 0.25, 0.0)  # of the uniform sample that stands beside the strongest places


@dataclass(frozen=True)
class Site:
    """Units that one hook holds: its name, how to read it, how many there are, what one is called."""

    hook: str
    read: Reader
    count: int
    kind: str


class _Read(Exception):
    """Raised when the site has been read: later layers need not run."""


class Scope:
    """A model, its units, and what a scan found of them.  Calls from several threads wait for one another."""

    def __init__(self, model: Any, rows: Any, sites: dict[str, Site], found: Scan) -> None:
        self.model, self.rows, self.sites, self.found = model, rows, sites, found
        self.small = parameters(model) <= SMALL
        self._one_at_a_time = threading.Lock()  # hooks belong to the model, not to a call

    def tokens(self, text: str) -> Int[Tensor, "1 position"]:
        """The start token and the text, cut at the length that the model has positions for.

        Special tokens that are spelled out in the text are text: nobody starts a new document by typing.
        """
        tokenizer = self.model.tokenizer
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return torch.tensor([[tokenizer.bos_token_id, *ids][: int(self.model.cfg.n_ctx)]])

    def values(self, tokens: Int[Tensor, "row position"], site: Site) -> Float[Tensor, "row position unit"]:
        """What every unit of a site does on these tokens; nothing above the site is run."""
        kept: list[Tensor] = []

        def keep(value: Tensor, hook: Any = None) -> None:
            kept.append(site.read(value).float().cpu())
            raise _Read

        device = next(self.model.parameters()).device
        hooks = [(site.hook, keep)]
        quiet = contextlib.suppress(_Read)
        with self._one_at_a_time, torch.no_grad(), quiet, self.model.hooks(fwd_hooks=hooks):
            self.model(tokens.to(device), return_type=None)
        return kept[0]

    def read(self, text: str, site: Site) -> tuple[list[str], Float[Tensor, "position unit"]]:
        """The tokens of a text, without the start token, and the values of the site's units there."""
        tokens = self.tokens(text)
        if tokens.shape[1] == 1:
            return [], torch.zeros(0, site.count)
        words = [word(self.model.tokenizer.decode, token) for token in tokens[0, 1:].tolist()]
        return words, self.values(tokens, site)[0, 1:]

    def largest(self, site: Site, unit: int) -> float:
        """The largest value of a unit in the text that was scanned."""
        return float(self.found.sites[site.hook].top[0, unit])

    def unusual(
        self, values: Float[Tensor, "position unit"], site: Site, count: int = 8
    ) -> list[tuple[int, float]]:
        """The units that a text drives furthest above their mean: (unit, in standard deviations)."""
        units, seen = self.found.sites[site.hook], self.found.tokens
        if not len(values):
            return []
        deviation = units.variance(seen).clamp_min(0).sqrt()
        far = (values.amax(0) - units.mean(seen)) / deviation.clamp_min(1e-6)
        far[deviation < 1e-6] = 0.0  # a unit that never moved in the text that was read says nothing
        best = far.topk(min(count, site.count))
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))

    def about(self, site: Site, unit: int) -> str:
        """How often a unit is above zero, its mean, its largest value."""
        units, tokens = self.found.sites[site.hook], self.found.tokens
        density, mean = units.density(tokens)[unit].item(), units.mean(tokens)[unit].item()
        largest = self.largest(site, unit)
        return f"above 0 at {density:.1%} of {tokens:,} tokens; mean {mean:.3g}, largest {largest:.3g}"

    def places(
        self, site: Site, unit: int, count: int = 8
    ) -> dict[str, list[tuple[Example, list[float | None]]]]:
        """Strongest places and a uniform sample, each with the unit's value at every token around it.

        In a larger model only the token in question has one: to run all rows again would take seconds.
        """
        units = self.found.sites[site.hook]
        best = [int(place) for place in units.place[:count, unit] if place >= 0]
        drawn = [place for _, place in units.quantiles(unit, LEVELS)]
        shown = list(self._around(site, unit, [*best, *drawn]))
        return {"strongest": shown[: len(best)], "a uniform sample": shown[len(best) :]}

    def _around(
        self, site: Site, unit: int, places: Sequence[int], before: int = 14, after: int = 6
    ) -> Iterator[tuple[Example, list[float | None]]]:
        units = self.found.sites[site.hook]
        known = dict(zip(units.place[:, unit].tolist(), units.top[:, unit].tolist(), strict=True))
        known |= dict(zip(units.sample_place.tolist(), units.sample[:, unit].tolist(), strict=True))
        where = [self.found.where(place) for place in places]
        batch = torch.stack([torch.as_tensor(self.rows[row]) for row, _ in where]).long()
        values = self.values(batch, site)[..., unit] if self.small else None
        for number, (place, (_, position)) in enumerate(zip(places, where, strict=True)):
            start, end = max(1, position - before), position + after + 1  # from the first token of text
            ids = batch[number, start:end].tolist()
            tokens = [word(self.model.tokenizer.decode, token) for token in ids]
            at = max(0, position - start)
            example = Example(known[place], tokens, at)
            shades: list[float | None] = [None] * len(tokens)
            if values is not None:
                shades = values[number, start:end].tolist()
            shades[at] = example.value
            yield example, shades


def parameters(model: Any) -> int:
    """How many numbers the model consists of."""
    return sum(parameter.numel() for parameter in model.parameters())


def text_only(read: Reader) -> Reader:
    """``read``, with the start token at 0."""

    def without_start(value: Tensor) -> Tensor:
        units = read(value)
        return torch.cat([torch.zeros_like(units[:, :1]), units[:, 1:]], dim=1)

    return without_start


def sites_of(
    model: Any,
    layers: Sequence[int] | None = None,
    dictionary: SparseAutoencoder | None = None,
    hook: str | None = None,
) -> dict[str, Site]:
    """The units of a model by their names for readers: neurons and heads of layers, a dictionary's latents.

    Raises ValueError for a layer that is not there, and for a dictionary without the hook that it reads.
    """
    config, count = model.cfg, len(model.blocks)
    chosen = range(count) if layers is None else layers
    if any(layer not in range(count) for layer in chosen):
        raise ValueError(f"layers {list(chosen)}: the model has layers 0 to {count - 1}")
    found: dict[str, Site] = {}
    if dictionary is not None:
        if not hook:
            raise ValueError("say which hook the dictionary reads, such as blocks.0.hook_resid_post")
        latents = dictionary.options.latents
        found[f"features of {hook}"] = Site(hook, text_only(dictionary.encode), latents, "feature")
    if not getattr(config, "attn_only", False):
        for n in chosen:
            site = f"blocks.{n}.mlp.hook_post"
            if site != hook:  # a scan reads a hook in one way: features in place of the neurons under them
                found[f"neurons of layer {n}"] = Site(site, text_only(_itself), int(config.d_mlp), "neuron")
    for n in chosen:
        site = f"blocks.{n}.attn.hook_z"
        found[f"heads of layer {n}"] = Site(site, text_only(head_norms), int(config.n_heads), "head")
    return found


def _itself(value: Tensor) -> Tensor:
    return value


def open_scope(
    name: str,
    text: str = "speeches",
    *,
    tokens: int | None = None,
    layers: Sequence[int] | None = None,
    dictionary: Path | None = None,
    hook: str | None = None,
    folder: Path = Path("data"),
    device: str = "auto",
) -> Scope:
    """Load a model, read ``text`` with it, and keep the scan in ``folder``: the next time takes no time.

    ``tokens``: how many to read (by default 200,000, or 10,000 for more than 10 million parameters).
    ``dictionary``: a file of ``sae`` that reads ``hook``.  Raises ModelError, DataError or ValueError.
    """
    model = load_model(name, device=device)
    autoencoder = None if dictionary is None else SparseAutoencoder.load(dictionary).to(device_of(model))
    sites = sites_of(model, layers, autoencoder, hook)
    stem = f"{Path(name).name}-{Path(text).stem}"
    written = token_rows(documents(text), model.tokenizer, folder / stem, width=WIDTH, apart=True)
    wanted = max(1, (tokens or TOKENS[parameters(model) <= SMALL]) // WIDTH)
    spread = torch.linspace(0, len(written) - 1, min(wanted, len(written))).long()  # over all documents
    rows = written[spread.tolist()]
    state = folder / f"{stem}-{_fingerprint(model, sites, dictionary, rows)}.scan"
    readers = {site.hook: site.read for site in sites.values()}
    found = scan(model, rows, readers, sample=256, state=state)
    return Scope(model, rows, sites, found)


def device_of(model: Any) -> torch.device:
    """Where the model's weights are."""
    device: torch.device = next(model.parameters()).device
    return device


def _fingerprint(model: Any, sites: dict[str, Site], dictionary: Path | None, rows: Tensor) -> str:
    """So that a scan of other weights, sites or text is never taken for this one."""
    sums = [f"{name} {value.double().sum().item():.9g}" for name, value in model.state_dict().items()]
    latents = b"" if dictionary is None else dictionary.read_bytes()
    found = hashlib.sha256("\n".join([*sums, *sites]).encode())
    for part in (rows.numpy().tobytes(), latents):
        found.update(hashlib.sha256(part).digest())
    return found.hexdigest()[:12]
