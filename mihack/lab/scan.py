"""Maximum-activating examples of every unit at once, over as many tokens as you like.

``scan`` runs rows of tokens through a model and keeps, for every unit (neuron, head, SAE feature) of
the sites that you name: its strongest positions, a uniform sample of positions, how often it is
active, its mean and variance.  Memory does not grow with the number of tokens.

The result does not depend on how the work was cut up: a scan that was killed and goes on, or one
split into shards and merged, equals the unbroken one bit for bit.  Therefore batches are fixed by
their number, ties go to the earlier batch, and the batches' sums are added as integers (fixed
point), whose order does not matter as that of floats does.

Top examples alone mislead (Bolukbasi et al. 2021, arXiv:2104.07143): look at the sample as well.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

# activation -> [row, position, unit]; a site's reader turns what its hook holds into units
Reader = Callable[[Tensor], Float[Tensor, "row position unit"]]
# fixed point: values are kept to 2^-20, squares to 2^-10; exact up to a million times 2^23 tokens
VALUE_BITS, SQUARE_BITS = 20, 10


@dataclass
class Units:
    """What a scan knows of the units of one site.

    ``top`` [k, unit]: the largest activations, falling; ``place`` [k, unit]: where, as row * width +
    position (-1: none).  ``sample`` [s, unit]: activations at positions drawn uniformly, the same
    positions for all units, in ``sample_place`` [s].
    """

    top: Float[Tensor, "k unit"]
    place: Int[Tensor, "k unit"]
    sample: Float[Tensor, "s unit"]
    sample_place: Int[Tensor, "s"]
    active: Int[Tensor, "unit"]
    total: Int[Tensor, "unit"]
    squares: Int[Tensor, "unit"]

    @classmethod
    def empty(cls, units: int, k: int) -> Units:
        """No token seen yet."""
        whole = torch.int64
        return cls(
            torch.full((k, units), -torch.inf),
            torch.full((k, units), -1, dtype=whole),
            torch.empty(0, units),
            torch.empty(0, dtype=whole),
            *(torch.zeros(units, dtype=whole) for _ in range(3)),
        )

    def mean(self, tokens: int) -> Float[Tensor, "unit"]:
        """Mean activation."""
        mean: Tensor = self.total.double() / 2**VALUE_BITS / tokens
        return mean

    def variance(self, tokens: int) -> Float[Tensor, "unit"]:
        """Variance of the activation."""
        variance: Tensor = self.squares.double() / 2**SQUARE_BITS / tokens - self.mean(tokens) ** 2
        return variance

    def density(self, tokens: int) -> Float[Tensor, "unit"]:
        """Share of positions at which the activation is above the scan's threshold."""
        return self.active.double() / tokens

    def quantiles(self, unit: int, levels: Sequence[float]) -> list[tuple[float, int]]:
        """(activation, place) of the sampled positions at these levels (0 lowest, 1 highest)."""
        order = self.sample[:, unit].argsort(stable=True)
        chosen = [order[round(level * (len(order) - 1))] for level in levels]
        return [(self.sample[i, unit].item(), int(self.sample_place[i])) for i in chosen]


@dataclass
class Scan:
    """A scan so far: its sites, how many tokens it has seen, and in which batches."""

    width: int
    k: int
    sites: dict[str, Units] = field(default_factory=dict)
    tokens: int = 0
    batches: tuple[int, int] = (0, 0)  # from, up to

    def where(self, place: int) -> tuple[int, int]:
        """(row, position) of a place."""
        return divmod(int(place), self.width)

    def context(self, rows: Any, place: int, before: int = 20, after: int = 5) -> tuple[Tensor, int]:
        """The tokens around a place, and the index of the place among them."""
        row, position = self.where(place)
        start = max(0, position - before)
        tokens = torch.as_tensor(rows[row][start : position + after + 1])
        return tokens, position - start

    def save(self, path: Path) -> None:
        """Write the scan as safetensors, through a temporary file: never half of one."""
        tensors = {
            f"{site}|{name}": getattr(units, name).contiguous()
            for site, units in self.sites.items()
            for name in Units.__dataclass_fields__
        }
        numbers = (self.width, self.k, self.tokens, *self.batches)
        tensors["scan"] = torch.tensor(numbers, dtype=torch.int64)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".writing")
        save_file(tensors, str(temporary))
        os.replace(temporary, path)  # noqa: PTH105

    @classmethod
    def load(cls, path: Path) -> Scan:
        """Read what ``save`` wrote."""
        tensors = load_file(str(path))
        width, k, tokens, first, end = (int(number) for number in tensors.pop("scan"))
        parts: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            site, _, name = key.rpartition("|")
            parts.setdefault(site, {})[name] = tensor
        sites = {site: Units(**part) for site, part in parts.items()}
        return cls(width, k, sites, tokens, (first, end))


def merge(shards: Sequence[Scan], sample: int = 1024) -> Scan:
    """One scan from shards that follow one another, in any order of the list.

    Raises ValueError if batches are missing or were scanned twice.
    """
    ordered = sorted(shards, key=lambda shard: shard.batches)
    whole = ordered[0]
    for shard in ordered[1:]:
        if shard.batches[0] != whole.batches[1]:
            raise ValueError(f"batches {whole.batches} are followed by {shard.batches}: a shard is missing")
        sites = {site: _joined(units, shard.sites[site], sample) for site, units in whole.sites.items()}
        tokens, end = whole.tokens + shard.tokens, shard.batches[1]
        whole = Scan(whole.width, whole.k, sites, tokens, (whole.batches[0], end))
    return whole


def neurons(model: Any, layers: Sequence[int] | None = None) -> list[str]:
    """The hook names of MLP activations, of all layers or of these."""
    return [f"blocks.{n}.mlp.hook_post" for n in (range(len(model.blocks)) if layers is None else layers)]


def head_norms(z: Tensor) -> Float[Tensor, "row position head"]:
    """A reader for ``attn.hook_z``: how much each head writes, as the length of its output."""
    norms: Tensor = z.norm(dim=-1)
    return norms


@torch.no_grad()
def scan(
    model: Any,
    rows: Any,
    sites: Sequence[str] | dict[str, Reader],
    *,
    k: int = 16,
    sample: int = 1024,
    threshold: float = 0.0,
    rows_at_once: int = 16,
    shard: tuple[int, int] = (0, 1),
    state: Path | None = None,
    save_every: int = 50,
) -> Scan:
    """Scan token ``rows`` [row, position]: a tensor, an array, or a numpy memmap of any length.

    ``sites``: hook names whose last axis are the units, or names with a reader each.  ``shard``: (i,
    n) takes the i-th of n parts.  With ``state`` the scan is saved there every ``save_every`` batches
    and goes on from there when called again.  Unembedding is left out: nothing here reads logits.
    """
    readers: dict[str, Reader] = sites if isinstance(sites, dict) else dict.fromkeys(sites, lambda v: v)
    count = -(-len(rows) // rows_at_once)
    first, end = (count * part // shard[1] for part in (shard[0], shard[0] + 1))
    found = Scan(len(rows[0]), k, batches=(first, first))
    if state is not None and state.exists():
        found = Scan.load(state)
        if found.batches[0] != first or found.width != len(rows[0]) or found.k != k:
            raise ValueError(f"{state} is of another scan: delete it, or name another file")
    device = next(model.parameters()).device
    for number in range(found.batches[1], end):
        batch = torch.as_tensor(rows[number * rows_at_once : (number + 1) * rows_at_once]).long().to(device)
        offset = number * rows_at_once * found.width
        hooks = [
            (site, _keeper(found, site, reader, offset, sample, threshold))
            for site, reader in readers.items()
        ]
        seen: set[str] = set()
        with contextlib.suppress(_Enough), model.hooks(fwd_hooks=[_until(hooks, seen, h) for h in hooks]):
            model(batch, return_type=None)
        found.tokens += batch.numel()
        found.batches = (first, number + 1)
        if state is not None and ((number + 1 - first) % save_every == 0 or number + 1 == end):
            found.save(state)
    return found


class _Enough(Exception):
    """Raised when the last site has been read: the rest of the forward pass is not needed."""


def _until(
    hooks: list[tuple[str, Callable[..., None]]], seen: set[str], one: tuple[str, Callable[..., None]]
) -> tuple[str, Callable[..., None]]:
    """``one``, ending the pass once every site has been read."""
    site, read = one

    def hook(value: Tensor, hook: Any = None) -> None:
        read(value)
        seen.add(site)
        if len(seen) == len(hooks):
            raise _Enough

    return site, hook


def _keeper(
    found: Scan, site: str, reader: Reader, offset: int, sample: int, threshold: float
) -> Callable[..., None]:
    def hook(value: Tensor, hook: Any = None) -> None:
        flat = reader(value).flatten(0, 1).float().cpu()
        units = found.sites.get(site) or Units.empty(flat.shape[1], found.k)
        found.sites[site] = _seen(units, flat, offset, sample, threshold)

    return hook


def _seen(units: Units, flat: Tensor, offset: int, sample: int, threshold: float) -> Units:
    """``units`` after a batch of activations [token, unit] whose first place is ``offset``."""
    # A batch's sums are floats, the same however the scan is cut, and become integers before they
    # are added up.
    units.active += (flat > threshold).sum(0)
    units.total += (flat.sum(0).double() * 2**VALUE_BITS).round().long()
    units.squares += (flat.square().sum(0).double() * 2**SQUARE_BITS).round().long()
    # only units that exceed their k-th best need sorting; after a while these are few
    rising = (flat.amax(0) > units.top[-1]).nonzero().squeeze(1)
    if len(rising):
        columns = flat.T[rising].contiguous()  # [unit, token]: along rows it is several times quicker
        values, index = columns.topk(min(len(units.top), len(flat)), dim=1)
        units.top[:, rising], units.place[:, rising] = _best(
            (units.top[:, rising], values.T), (units.place[:, rising], index.T + offset), len(units.top)
        )
    kept = _drawn(torch.arange(offset, offset + len(flat)), sample)
    return _resampled(units, flat[kept], torch.arange(offset, offset + len(flat))[kept], sample)


def _best(values: tuple[Tensor, Tensor], places: tuple[Tensor, Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The k largest of two lists, the first of which holds earlier places: it wins ties."""
    both, where = torch.cat(values), torch.cat(places)
    order = both.argsort(dim=0, descending=True, stable=True)[:k]
    return both.gather(0, order), where.gather(0, order)


def _draw(places: Int[Tensor, "n"]) -> Int[Tensor, "n"]:
    """A number for each place that looks random and depends on nothing else (splitmix64's mixing)."""
    x = places * -7046029254386353131
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def _drawn(places: Int[Tensor, "n"], sample: int) -> Int[Tensor, "kept"]:
    """Indices of the ``sample`` places with the lowest draw: a uniform sample, merged without error."""
    order: Tensor = _draw(places).argsort(stable=True)[:sample]
    return order


def _resampled(units: Units, values: Tensor, places: Tensor, sample: int) -> Units:
    everywhere = torch.cat([units.sample_place, places])
    kept = _drawn(everywhere, sample)
    if len(kept) < len(everywhere) or len(places):
        units.sample = torch.cat([units.sample, values])[kept]
        units.sample_place = everywhere[kept]
    return units


def _joined(one: Units, two: Units, sample: int) -> Units:
    top, place = _best((one.top, two.top), (one.place, two.place), len(one.top))
    sums = (one.active + two.active, one.total + two.total, one.squares + two.squares)
    both = Units(top, place, one.sample, one.sample_place, *sums)
    return _resampled(both, two.sample, two.sample_place, sample)
