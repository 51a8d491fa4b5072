"""Where is a fact recalled? Causal tracing with noise against patching from a matched prompt.

    python experiment.py               the run that expected.json describes
    python experiment.py --seed 1      another model, other facts
    python experiment.py --noise 1     weaker noise (standard deviations of the embeddings)

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Two procedures with one name
#
# Meng et al. 2022 (arXiv:2202.05262) add noise to a subject's embeddings and restore clean states one place
# at a time, MLPs in windows of ten layers. The other way replaces the subject by another one and patches from
# there. Zhang & Nanda 2023 (arXiv:2309.16042) found that the two may disagree, that noise drives a model
# outside its usual range, and that windows show more than their layers. Here a small network learns facts by
# heart on the spot: `<start> filler First Last filler relation <end>`, and an attribute that only both
# parts of the subject together with the relation determine.

# %%
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from lab import plots
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # facts, weights, noise
LAYERS = 6  # attention and MLP each
D_MODEL = 48  # width of the residual stream; MLPs are twice as wide
NOISE = 3.0  # standard deviations of the token embeddings
WINDOW = 3  # neighbouring layers that are restored together
STEPS = 500  # training steps
LR = 3e-3  # AdamW, cosine down to zero

# %%
run = start_run(globals())
device = run.device
firsts, lasts, relations, fillers, attributes = 8, 8, 2, 4, 16
first_at, last_at, relation_at, end_at = 2, 3, 5, 6
words = ["<start>", "filler", "First", "Last", "filler", "relation", "<end>"]

# %% [markdown]
# ### Facts, and a network that knows them

# %%
draw = torch.Generator().manual_seed(SEED)
facts = torch.randint(attributes, (firsts, lasts, relations), generator=draw)


def prompts(first: Tensor, last: Tensor, relation: Tensor) -> Tensor:
    """Tokens [row, position] with random filler."""
    rows, at = len(first), 1 + firsts + lasts
    filler = torch.randint(fillers, (rows, 2), generator=draw) + at + relations
    end = torch.full((rows,), at + relations + fillers)
    subject = [1 + first, 1 + firsts + last]
    parts = [torch.zeros_like(end), filler[:, 0], *subject, filler[:, 1], at + relation, end]
    return torch.stack(parts, 1).to(device)


model = TransformerBridge.boot_native(
    TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL // 4, n_heads=4, d_mlp=2 * D_MODEL, n_layers=LAYERS, n_ctx=len(words),
        d_vocab=2 + firsts + lasts + relations + fillers, d_vocab_out=attributes, act_fn="gelu",
        normalization_type="LN", seed=SEED,
    ),
    device=device,
)  # fmt: skip


def loss_at(step: int) -> Tensor:
    which = [torch.randint(size, (128,), generator=draw) for size in facts.shape]
    return F.cross_entropy(model(prompts(*which))[:, -1], facts[tuple(which)].to(device))


history = train(model, loss_at, steps=STEPS, lr=LR, weight_decay=0.1, decay=True, every=max(1, STEPS // 20))
model.eval()

# %% [markdown]
# ### Clean runs, and the two corruptions
#
# Every fact once, beside one with another subject, the same relation and another answer. Both corruptions
# are judged by both metrics: the probability of the answer, and its logit less that of the other answer.
# A share of 0 is the corrupted run, 1 the clean one. Each corruption has its own zero.

# %%
first, last, relation = torch.cartesian_prod(*map(torch.arange, facts.shape)).unbind(1)
answers = facts[first, last, relation]
other_first, other_last, others = first.clone(), last.clone(), answers.clone()
while (same := others == answers).any():
    other_first[same] = torch.randint(firsts, (int(same.sum()),), generator=draw)
    other_last[same] = torch.randint(lasts, (int(same.sum()),), generator=draw)
    others = facts[other_first, other_last, relation]
clean = prompts(first, last, relation)
matched = clean.clone()
matched[:, first_at], matched[:, last_at] = (1 + other_first).to(device), (1 + firsts + other_last).to(device)
answers, others = answers.to(device), others.to(device)
spread = model.W_E.std().item()
shocks = NOISE * spread * torch.randn(len(clean), 2, D_MODEL, generator=draw).to(device)
METRICS = ["logit difference", "probability"]


def judge(logits: Tensor) -> dict[str, Tensor]:
    """Both metrics, each [row]."""
    at_end = logits[:, -1]
    right, wrong = (at_end.gather(1, ids[:, None])[:, 0] for ids in (answers, others))
    return {METRICS[0]: right - wrong, METRICS[1]: at_end.softmax(-1).gather(1, answers[:, None])[:, 0]}


def shake(embedding: Tensor, hook: HookPoint) -> Tensor:
    embedding = embedding.clone()
    embedding[:, first_at : last_at + 1] += shocks
    return embedding


CORRUPTIONS = {"noise": (clean, [("hook_embed", shake)]), "matched": (matched, [])}
with torch.no_grad():
    whole, cache = model.run_with_cache(clean)
known = whole[:, -1].argmax(-1) == answers
top = judge(whole)


@torch.no_grad()
def restored(corruption: str, sites: list[tuple[str, int]], source: dict[str, Tensor] | None = None,
             units: Tensor | None = None) -> dict[str, Tensor]:  # fmt: skip
    """Both metrics, [row], with clean values at these (hook, position); ``units``: some neurons only."""

    def put(value: Tensor, hook: HookPoint, name: str, at: int) -> Tensor:
        value = value.clone()
        chosen = slice(None) if units is None else units
        value[:, at, chosen] = (cache if source is None else source)[name][:, at, chosen]
        return value

    tokens, hooks = CORRUPTIONS[corruption]
    put_back = [(name, partial(put, name=name, at=at)) for name, at in sites]
    return judge(model.run_with_hooks(tokens, fwd_hooks=hooks + put_back))


bottom = {name: restored(name, []) for name in CORRUPTIONS}
destroyed = {name: known & (bottom[name][METRICS[0]] < 0.5 * top[METRICS[0]]) for name in CORRUPTIONS}


def share(corruption: str, sites: list[tuple[str, int]], metric: str = METRICS[0], **how: Tensor) -> float:
    """What is restored, over facts that were known and destroyed, as a share of what there was to restore."""
    keep = destroyed[corruption]
    low, high = bottom[corruption][metric][keep].mean(), top[metric][keep].mean()
    return ((restored(corruption, sites, **how)[metric][keep].mean() - low) / (high - low)).item()


# %% [markdown]
# ### Maps
#
# Residual stream, attention output and MLP output: every layer and position, both corruptions.

# %%
SITES = {"stream": "hook_resid_pre", "attention": "hook_attn_out", "MLP": "hook_mlp_out"}


def map_of(corruption: str, site: str, metric: str = METRICS[0]) -> Tensor:
    """[layer, position]"""
    cells = [
        [share(corruption, [(f"blocks.{layer}.{SITES[site]}", at)], metric) for at in range(len(words))]
        for layer in range(LAYERS)
    ]
    return torch.tensor(cells)


maps = {(c, site): map_of(c, site) for c in CORRUPTIONS for site in SITES}
by_probability = map_of("noise", "MLP", METRICS[1])
pairs = {site: torch.stack([maps[c, site].flatten() for c in CORRUPTIONS]) for site in SITES}
norms = {}
with torch.no_grad():
    for name, (tokens, hooks) in CORRUPTIONS.items():
        with model.hooks(fwd_hooks=hooks):
            _, disturbed = model.run_with_cache(tokens)
        streams = [run_of["blocks.1.hook_resid_pre"][:, last_at] for run_of in (disturbed, cache)]
        norms[name] = (streams[0].norm(dim=-1).mean() / streams[1].norm(dim=-1).mean()).item()


@torch.no_grad()
def without(at: int) -> float:
    """Accuracy on the clean prompts, every MLP output at this position taken from the matched run."""

    def put(value: Tensor, hook: HookPoint, name: str) -> Tensor:
        value = value.clone()
        value[:, at] = theirs[name][:, at]
        return value

    names = [f"blocks.{layer}.hook_mlp_out" for layer in range(LAYERS)]
    logits = model.run_with_hooks(clean, fwd_hooks=[(name, partial(put, name=name)) for name in names])
    return (logits[:, -1].argmax(-1) == answers).float().mean().item()


with torch.no_grad():
    _, theirs = model.run_with_cache(matched)
by_metric = torch.stack([by_probability.flatten(), maps["noise", "MLP"].flatten()])
metrics = {
    "accuracy": known.float().mean().item(),
    "noop_change": (restored("matched", [("blocks.2.hook_mlp_out", last_at)], source=theirs)[METRICS[0]]
                    - bottom["matched"][METRICS[0]]).abs().max().item(),
    "removed_end": without(end_at),
    "removed_filler": without(last_at + 1),
    "metrics_agree": torch.corrcoef(by_metric)[0, 1].item(),
    "destroyed_noise": destroyed["noise"].float().mean().item(),
    "destroyed_matched": destroyed["matched"].float().mean().item(),
    "whole_subject": share("noise", [("blocks.0.hook_resid_pre", at) for at in (first_at, last_at)]),
    "wrong_place": max(maps[c, "MLP"][:, 1].abs().max().item() for c in CORRUPTIONS),
    "norm_noise": norms["noise"],
    "norm_matched": norms["matched"],
    **{f"maps_{site.lower()}": torch.corrcoef(pair)[0, 1].item() for site, pair in pairs.items()},
}  # fmt: skip

# %% [markdown]
# ### Windows
#
# MLP outputs at the subject's last token: one layer, neighbours together, as many layers picked at random. If
# layers acted alone, a window would restore the sum of its layers.

# %%
def mlps(chosen: tuple[int, ...] | list[int] | range) -> list[tuple[str, int]]:
    return [(f"blocks.{layer}.hook_mlp_out", last_at) for layer in chosen]


widths = [width for width in (1, 2, 3, 5) if width <= LAYERS]
windows = {
    (c, w): [share(c, mlps(range(start, start + w))) for start in range(LAYERS - w + 1)]
    for c in CORRUPTIONS for w in sorted({*widths, WINDOW})
}  # fmt: skip
some = [sorted(torch.randperm(LAYERS, generator=draw)[:WINDOW].tolist()) for _ in range(8)]
for c in CORRUPTIONS:
    single, window = windows[c, 1], windows[c, WINDOW]
    sums = [sum(single[start : start + WINDOW]) for start in range(len(window))]
    best = max(range(len(window)), key=window.__getitem__)
    metrics |= {
        f"single_{c}": max(single), f"window_{c}": window[best], f"window_sum_{c}": sums[best],
        f"window_gain_{c}": window[best] - max(single), f"window_excess_{c}": window[best] - sums[best],
        f"window_random_{c}": sum(share(c, mlps(chosen)) for chosen in some) / len(some),
    }  # fmt: skip

# %% [markdown]
# ### Neurons, one at a time and in groups
#
# The layer whose MLP restores most at the last token of the subject, its neurons one by one, and then groups
# from the top of five rankings. Ranked on one half of the facts, measured on the other. The first two rules
# have seen the metric, the others have not.

# %%
layer = max(range(LAYERS), key=windows["matched", 1].__getitem__)
inside = f"blocks.{layer}.mlp.out.hook_in"
neurons = 2 * D_MODEL
half = torch.randperm(len(clean), generator=draw).to(device) < len(clean) // 2
held_out = destroyed["matched"] & ~half


def group(units: Tensor, rows: Tensor) -> float:
    """Nats that these neurons restore, averaged over the rows."""
    found = restored("matched", [(inside, last_at)], units=units)[METRICS[0]] - bottom["matched"][METRICS[0]]
    return found[rows].mean().item()


alone = torch.tensor([group(torch.tensor([unit], device=device), half) for unit in range(neurons)])
seen: dict[str, Tensor] = {}


def watch(value: Tensor, hook: HookPoint) -> Tensor:
    seen["value"] = value.requires_grad_()
    return value


with torch.enable_grad():
    total = judge(model.run_with_hooks(matched, fwd_hooks=[(inside, watch)]))[METRICS[0]].sum()
    gradient = torch.autograd.grad(total, seen["value"])[0][:, last_at]
change = cache[inside][:, last_at] - seen["value"].detach()[:, last_at]
apart = model.W_U[:, answers] - model.W_U[:, others]  # [d_model, row]
to_answer = (model.blocks[layer].mlp.W_out @ apart).T  # [row, neuron]
rules = {
    "one by one": alone,
    "gradient x change": (gradient * change)[half].mean(0),
    "most changed": change[half].abs().mean(0),
    "most active": cache[inside][half, last_at].abs().mean(0),
    "points to answer": (to_answer * change)[half].mean(0),
}
rules = {name: value.detach().cpu() for name, value in rules.items()}
sizes = [size for size in (1, 4, 12, 24, 48, neurons) if size <= neurons]
curves = {
    name: [group(rule.argsort(descending=True)[:size].to(device), held_out) for size in sizes]
    for name, rule in rules.items()
}
by_luck = [[group(torch.randperm(neurons, generator=draw)[:size].to(device), held_out) for size in sizes]
           for _ in range(8)]  # fmt: skip
curves["random"] = torch.tensor(by_luck).mean(0).tolist()
everything, quarter = curves["random"][-1], sizes.index(24) if 24 in sizes else len(sizes) - 1
metrics |= {
    "neuron_most": curves["one by one"][0] / everything,
    "quarter_best": curves["one by one"][quarter] / everything,
    "quarter_changed": curves["most changed"][quarter] / everything,
    "quarter_random": curves["random"][quarter] / everything,
    "neuron_gradient": torch.corrcoef(torch.stack([alone, rules["gradient x change"]]))[0, 1].item(),
}

# %%
fig, axes = plots.figure(2, 3, "Where is a fact recalled?", size=(15, 9))
for ax, c in zip(axes[:2], CORRUPTIONS, strict=True):
    plots.heatmap(
        ax, maps[c, "MLP"], f"MLP restored, {c}: share of logit difference", y="layer", x_ticks=words,
        signed=True, limits=(-0.4, 0.4), numbers=True, bar=False,
    )  # fmt: skip
    ax.tick_params(axis="x", labelrotation=30)
plots.heatmap(
    axes[2], maps["matched", "stream"], "Stream restored, matched", y="layer", x_ticks=words, signed=True,
    numbers=True, bar=False,
)  # fmt: skip
axes[2].tick_params(axis="x", labelrotation=30)
for site, marker in zip(SITES, "osD", strict=True):
    axes[3].scatter(*pairs[site], s=16, marker=marker, alpha=0.7, label=site)
axes[3].axline((0, 0), slope=1, color="0.45", linewidth=0.9, linestyle=":")
axes[3].legend(fontsize=8)
plots.label(axes[3], "Every place, both corruptions", "share restored after noise", "share restored, matched")
for c, style in zip(CORRUPTIONS, ("-", "--"), strict=True):
    for index, w in enumerate(widths):
        centres = [start + (w - 1) / 2 for start in range(LAYERS - w + 1)]
        name = f"{w} layer{'s' if w > 1 else ''}, {c}"
        axes[4].plot(
            centres, windows[c, w], style, marker="o", markersize=4, color=plots.COLOURS[index], label=name
        )
axes[4].legend(fontsize=7)
plots.label(axes[4], "MLPs at the last subject token", "centre of the window (layer)", "share restored")
for index, (name, values) in enumerate(curves.items()):
    axes[5].plot(sizes, values, "--" if name == "random" else "-", marker="o", markersize=4, label=name,
                 color="0.4" if name == "random" else plots.COLOURS[index])  # fmt: skip
axes[5].set_xscale("log", base=2)
axes[5].set_xticks(sizes, list(map(str, sizes)))
axes[5].legend(fontsize=7)
plots.label(axes[5], f"Groups of neurons of MLP {layer}, held-out facts", "neurons restored", "nats")
run.save(fig, "tracing")

# %%
report = run.finish(metrics)
