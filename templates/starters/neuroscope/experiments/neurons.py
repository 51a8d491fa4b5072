"""Read a model's neurons by the text that fires them most, and test what such a reading is worth.

    python experiment.py                          the run that expected.json describes
    python experiment.py --seed 1                 other documents held out, other neurons
    python experiment.py --model smollm2-135m --layer 12 --neurons 8 --top 4 --steps 2

    python -m lab.neuroscope                      the page: type a text, see a neuron light up

Results, figures, features.html and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Top examples, and what they hide
#
# To see what a neuron does, look at the text on which it is strongest: so does Neuroscope (Nanda 2022), and
# so do its successors. It is a beginning. Bolukbasi et al. 2021 (arXiv:2104.07143) found that a neuron's top
# examples may suggest a concept that is not there, that another corpus may suggest another one, and that the
# same holds for linear combinations. So each claim here has a control: held-out documents, another neuron's
# label, a random direction, shuffled context.

# %%
from pathlib import Path

import torch
from torch.nn import functional as F

from lab import interactive, plots, text_plots
from lab.data import documents, token_rows
from lab.examples import sampled, strongest
from lab.models import load_model
from lab.results import start_run
from lab.scan import scan

# %% knobs
SEED = 0  # which documents are held out, which neurons and directions are studied
MODEL = "gelu-1l"  # an embedded model, smollm2-135m, a folder, or a name on the hub
TEXT = "speeches"  # a text in texts/, a file, a folder, or python-docs
LAYER = 0  # whose MLP
NEURONS = 64  # drawn at random, to be studied
TOP = 16  # strongest places that make a neuron's label
STEPS = 44  # batches of 32 rows of 128 tokens that are read; half are searched, half held out

# %%
run = start_run(globals())
model = load_model(MODEL, device=run.device)
SITE = f"blocks.{LAYER}.mlp.hook_post"
word = model.tokenizer.decode

# %% [markdown]
# ### Text in two halves, by document
#
# No row holds two documents, so a held-out row is of a document that was not searched.

# %%
folder = Path("data") / f"{Path(MODEL).name}-{Path(TEXT).stem}"
rows = token_rows(documents(TEXT), model.tokenizer, folder, width=128, apart=True)
draw = torch.Generator().manual_seed(SEED)
source = torch.tensor([rows.source(row, 0)[0] for row in range(len(rows))])
order = torch.randperm(int(source.max()) + 1, generator=draw)
half = torch.isin(source, order[: len(order) // 2])
if half.all() or not half.any():  # a single document: by its halves
    half = torch.arange(len(rows)) < len(rows) // 2
searched, held_out = (rows[kept.nonzero()[: 16 * STEPS, 0].tolist()] for kept in (half, ~half))
print(f"{searched.numel():,} tokens searched, {held_out.numel():,} held out")


# %% [markdown]
# ### The strongest places of all neurons
#
# `lab/scan.py` keeps them in one pass, whatever the length of the text. The start token is no text and often
# extreme: it counts as 0. The same pass reads random directions of the same space, as a control.


# %%
def read(acts: torch.Tensor) -> torch.Tensor:
    """Activations [row, position, unit] with the start token at 0."""
    return torch.cat([torch.zeros_like(acts[:, :1]), acts[:, 1:]], dim=1)


width = model.cfg.d_mlp
chosen = torch.randperm(width, generator=draw)[: min(NEURONS, width)]
turned = F.normalize(torch.randn(len(chosen), width, generator=draw), dim=1).to(run.device)
found = scan(model, searched, {SITE: read})
deep = found.sites[SITE]


@torch.no_grad()
def activations(tokens: torch.Tensor) -> torch.Tensor:
    """[neurons or directions, token, unit]: the chosen neurons, and as many random directions."""
    kept = []
    for batch in tokens.split(32):
        _, cache = model.run_with_cache(batch.to(run.device), names_filter=SITE, return_type=None)
        acts = read(cache[SITE])
        kept.append(torch.stack([acts[..., chosen.to(run.device)], acts @ turned.T]).flatten(1, 2).cpu())
    return torch.cat(kept, dim=1)


here, there = activations(searched), activations(held_out)
top = here.topk(TOP, dim=1)  # places [kind, TOP, unit] in the searched half
direct = here[0].topk(TOP, dim=0).values.T
scan_error = (deep.top[:TOP, chosen].T - direct).abs().max().item()

# %% [markdown]
# ### A label, and whether it holds on other documents
#
# The plainest label: the tokens on which the unit was strongest. On held-out documents, how active is it
# where one of these stands, in standard deviations above its mean? And how active where a token of another
# neuron's label stands? Are its strongest held-out places on the same tokens?


# %%
def spread(acts: torch.Tensor) -> torch.Tensor:
    """In standard deviations from the unit's mean, [kind, token, unit]."""
    return (acts - acts.mean(1, keepdim=True)) / acts.std(1, keepdim=True).clamp_min(1e-6)


def at_label(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean over units of the score where a token of the unit's label stands; labels [TOP, unit]."""
    means = [scores[torch.isin(held_tokens, labels[:, unit]), unit] for unit in range(scores.shape[1])]
    return torch.stack([value.mean() for value in means if len(value)]).mean().item()


def again(labels: torch.Tensor, others: torch.Tensor) -> float:
    """Share of the strongest held-out places whose token is in the label."""
    shares = [torch.isin(others[:, u], labels[:, u]).float().mean() for u in range(labels.shape[1])]
    return torch.stack(shares).mean().item()


tokens, held_tokens = searched.flatten(), held_out.flatten()
labels = tokens[top.indices]  # [kind, TOP, unit]
strong = held_tokens[there.topk(TOP, dim=1).indices]
scores = spread(there)
shifted = labels.roll(1, dims=2)  # another unit's
holds = {
    "its own label": at_label(scores[0], labels[0]),
    "another neuron's": at_label(scores[0], shifted[0]),
    "a direction, its own": at_label(scores[1], labels[1]),
}
recurs = {
    "neurons": again(labels[0], strong[0]),
    "another's": again(shifted[0], strong[0]),
    "directions": again(labels[1], strong[1]),
}
peak = spread(here).amax(1)  # [kind, unit]: how far the strongest place stands out

# %% [markdown]
# ### How much of it is the current token
#
# A table of one number a token, fitted on the searched half, predicts the held-out activations. What it
# cannot explain takes context. Control: the same table for text whose tokens were dealt out anew.


# %%
def by_token(given: torch.Tensor) -> torch.Tensor:
    """R2 on held-out text of a table of mean activations by token, shrunk towards the mean; [unit]."""
    middle, size = here[0].mean(0), model.cfg.d_vocab
    count = torch.bincount(given, minlength=size) + 3.0
    table = torch.zeros(size, len(chosen)).index_add_(0, given, here[0] - middle) / count[:, None]
    return 1 - (there[0] - middle - table[held_tokens]).square().mean(0) / there[0].var(0).clamp_min(1e-9)


mixed = torch.randperm(len(tokens), generator=draw)
r2, r2_mixed = by_token(tokens), by_token(tokens[mixed])

# %% [markdown]
# ### The same places, edited
#
# Each strongest place is run again: as it is (the no-op), with the words before it shuffled, and with its own
# token exchanged for a random one of the text. How much of the activation is left?

# %%
places = top.indices[0, : TOP // 2].T  # [unit, place]; the first half is enough
at_row, at = (part.flatten() for part in (places // 128, places % 128))
unit = chosen.repeat_interleave(TOP // 2)
context = searched[at_row]


def shuffled(row: torch.Tensor, end: int) -> torch.Tensor:
    """The row with the tokens between the start token and ``end`` in another order."""
    order = 1 + torch.randperm(end - 1, generator=draw)
    return torch.cat([row[:1], row[order], row[end:]])


each = torch.arange(len(at))
moved = torch.stack([shuffled(row, end) for row, end in zip(context, at.tolist(), strict=True)])
swapped = context.clone()
swapped[each, at] = tokens[torch.randint(len(tokens), (len(at),), generator=draw)]


@torch.no_grad()
def activation(batch: torch.Tensor) -> torch.Tensor:
    """The activation of each row's own neuron at its own place."""
    parts = []
    for some in each.split(32):
        _, cache = model.run_with_cache(batch[some].to(run.device), names_filter=SITE, return_type=None)
        parts.append(cache[SITE].cpu()[torch.arange(len(some)), at[some], unit[some]])
    return torch.cat(parts)


original = here[0].gather(0, places.T).T.flatten()
kept = {
    "as it was": (activation(context) / original).mean().item(),
    "words before it shuffled": (activation(moved) / original).mean().item(),
    "its token exchanged": (activation(swapped) / original).mean().item(),
}

# %% [markdown]
# ### Does the model use it there?
#
# Set the neuron to its mean at one place: by how much does the loss of the next token change, up or down? At
# its strongest places, at random ones, and for another neuron at the same places.

# %%
mean = deep.mean(found.tokens).float()
last = at < 127  # the next token must be in the row


def writer(line: torch.Tensor, place: torch.Tensor, number: torch.Tensor, value: torch.Tensor):
    """A hook that writes one value into each row; NaN leaves what was there."""

    def write(acts, hook):
        acts[line, place, number] = torch.where(value.isnan(), acts[line, place, number], value.to(acts))
        return acts

    return write


@torch.no_grad()
def losses(batch: torch.Tensor, where: torch.Tensor, which: torch.Tensor, values: torch.Tensor):
    """Loss of the token after ``where`` with one neuron replaced there; [row]."""
    parts = []
    for some in torch.arange(len(batch)).split(32):
        line, place, seen = torch.arange(len(some)), where[some], []
        hooks = [
            (SITE, writer(line, place, which[some], values[some].to(run.device))),
            ("ln_final.hook_in", lambda value, hook, seen=seen: seen.append(value)),
        ]
        model.run_with_hooks(batch[some].to(run.device), fwd_hooks=hooks, return_type=None)
        logits = model.unembed(model.ln_final(seen[0][line, place][:, None]))[:, 0].cpu()
        parts.append(F.cross_entropy(logits, batch[some, place + 1], reduction="none"))
    return torch.cat(parts)


anywhere = torch.randint(1, 127, (len(at),), generator=draw)
some_row = searched[torch.randint(len(searched), (len(at),), generator=draw)]
other = chosen.roll(1).repeat_interleave(TOP // 2)
settings = {
    "strongest places": (context[last], at[last], unit[last], mean[unit[last]]),
    "random places": (some_row, anywhere, unit, mean[unit]),
    "another neuron there": (context[last], at[last], other[last], mean[other[last]]),
    "its own value (no-op)": (context[last], at[last], unit[last], original[last]),
}
changes = {}
for name, (batch, where, which, values) in settings.items():
    clean = losses(batch, where, which, torch.full_like(values, torch.nan))
    changes[name] = (losses(batch, where, which, values) - clean).abs()
effect = {name: change.mean().item() for name, change in changes.items()}

# %%
metrics = {
    "scan_error": scan_error,
    "peak_neurons": peak[0].median().item(),
    "peak_directions": peak[1].median().item(),
    "label_holds": holds["its own label"],
    "label_of_another": holds["another neuron's"],
    "same_tokens": recurs["neurons"],
    "same_tokens_another": recurs["another's"],
    "same_tokens_directions": recurs["directions"],
    "r2_token": r2.median().item(),
    "r2_token_mixed": r2_mixed.median().item(),
    "kept_noop": kept["as it was"],
    "kept_shuffled": kept["words before it shuffled"],
    "kept_exchanged": kept["its token exchanged"],
    "effect_top": effect["strongest places"],
    "effect_random_places": effect["random places"],
    "effect_other_neuron": effect["another neuron there"],
    "noop_change": changes["its own value (no-op)"].max().item(),
}

# %% [markdown]
# ### Look
#
# `features.html` beside the figures leafs through the neurons. Then type a text of your own, with
# `python -m lab.neuroscope` (it wants the package gradio).

# %%
fig, axes = plots.figure(2, 3, f"{len(chosen)} neurons of {MODEL}, layer {LAYER}, and their top examples")
reach = {"neurons": peak[0].tolist(), "random directions": peak[1].tolist()}
explained = {"text": r2.tolist(), "tokens dealt out anew": r2_mixed.tolist()}
for ax, groups, top_bin in ((axes[0], reach, peak.max().item()), (axes[3], explained, 1.0)):
    bins = torch.linspace(0 if ax is axes[0] else -0.2, top_bin, 28).tolist()
    for (name, values), kind, colour in zip(
        groups.items(), ("stepfilled", "step"), plots.COLOURS, strict=False
    ):
        clipped = [max(value, bins[0]) for value in values]
        ax.hist(clipped, bins=bins, histtype=kind, color=colour, alpha=0.8, label=name, linewidth=1.8)
    ax.legend(fontsize=8, frameon=False)
deviations = "standard deviations above the mean"
plots.label(axes[0], "How far the strongest place stands out", deviations, "units")
plots.bars(axes[1], holds, "Held out, on the label's tokens", y=deviations, highlight=["its own label"])
plots.bars(axes[2], recurs, "Strongest held-out places", y="share on a label's token", highlight=["neurons"])
plots.label(axes[3], "Explained by the current token alone", "held-out R²", "neurons")
plots.bars(axes[4], kept, "Activation left at the strongest places", y="share", highlight=["as it was"])
plots.bars(axes[5], effect, "Loss moved by setting it to its mean", y="nats", highlight=["strongest places"])
run.save(fig, "neurons")

best = int(chosen[(r2 * (peak[0] > peak[0].median())).argmin()])  # stands out, and not by its token alone
groups = {
    "strongest": strongest(found, searched, SITE, best, word),
    "a uniform sample, from highest to lowest": sampled(found, searched, SITE, best, word),
}
run.save(text_plots.examples(groups, f"{SITE}, neuron {best}"), "examples")
units = [(SITE, int(number)) for number in chosen]
view = interactive.examples(found, searched, units, word, title=f"Neurons of {MODEL}")
view.save(run.folder / "features.html")
view  # noqa: B018 - a notebook shows it

# %%
report = run.finish(metrics)
