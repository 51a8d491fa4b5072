"""Every head of a small attention-only model removed in turn: which ones, besides induction heads, matter?

    python experiment.py                 the run that expected.json describes
    python experiment.py --seed 1        another seed: other heads, same roles
    python experiment.py --layers 2      two layers: is the work shared out differently?

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Ablate every head, three ways
#
# Ablation hides three choices: what stands in for the head (zero, its mean, its output on another row),
# where the cost is averaged, and what counts as a head's role. Here all are made in the open. The model
# reads two kinds of rows: Python's documentation, and random tokens repeated, because minutes of training
# on text alone grow no induction heads. Olsson et al. 2022 (arXiv:2209.11895) say what to expect on
# repeats: induction heads matter, and so do the previous-token heads that feed them.

# %%
import torch
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from lab import heads, plots
from lab.results import start_run
from lab.text import bigram_log_probs, documentation, load_corpus
from lab.train import train

# %% knobs
SEED = 0  # weights and data
LAYERS = 3  # attention layers
HEADS = 4  # heads in each layer
D_MODEL = 64  # width of the residual stream
VOCABULARY = 400  # tokens: the commonest words, and characters for the rest
REPEATED = 64  # repeated rows draw from this many of them
CONTEXT = 40  # tokens in a row
ROWS = 160  # held-out rows of each kind
BATCH = 24  # rows of each kind in a step
STEPS = 400  # training steps
LR = 5e-3  # AdamW, cosine down to zero

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### Two kinds of rows
#
# Text windows, and blocks of distinct random tokens repeated with a period that differs from row to row.

# %%
corpus = load_corpus(documentation(), VOCABULARY)
repeat_tokens = torch.randperm(VOCABULARY - 1, generator=torch.Generator().manual_seed(SEED))[:REPEATED] + 1


def repeats(rows: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [row, position] and where the next token is determined [row, position - 1]."""
    periods = torch.randint(8, 17, (rows, 1), generator=generator)
    block = repeat_tokens[torch.rand(rows, REPEATED, generator=generator).argsort(-1)]
    position = torch.arange(CONTEXT)
    return block.gather(1, position % periods).to(device), (position[1:] >= periods).to(device)


text = corpus.held_out(ROWS, CONTEXT).to(device)
repeated, determined = repeats(ROWS, torch.Generator().manual_seed(10_000 + SEED))
seen = heads.duplicate_token_keys(text)[:, 1:].any(-1)  # the next token stood in the window before
bigram = -bigram_log_probs(corpus.train, VOCABULARY)[text[:, :-1].cpu(), text[:, 1:].cpu()].mean().item()

# %% [markdown]
# ### Train


# %%
def build() -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL // HEADS, n_heads=HEADS, n_layers=LAYERS, n_ctx=CONTEXT,
        d_vocab=VOCABULARY, attn_only=True, normalization_type="LN", positional_embedding_type="rotary",
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=SEED,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


def token_loss(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Next-token loss in nats: [row, position - 1]."""
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")


model = build()
generator = torch.Generator().manual_seed(SEED)


def loss_at(step: int) -> torch.Tensor:
    words = corpus.batch(BATCH, CONTEXT, generator).to(device)
    tokens, mask = repeats(BATCH, generator)
    logits = model(torch.cat([words, tokens]))
    return token_loss(logits[:BATCH], words).mean() + token_loss(logits[BATCH:], tokens)[mask].mean()


def evaluate() -> dict[str, float]:
    return {
        "text": token_loss(model(text), text).mean().item(),
        "repeats": token_loss(model(repeated), repeated)[determined].mean().item(),
    }


history = train(
    model,
    loss_at,
    steps=STEPS,
    lr=LR,
    weight_decay=0.01,
    decay=True,
    evaluate=evaluate,
    every=max(1, STEPS // 20),
)

# %% [markdown]
# ### Roles first, from attention on the repeated rows

# %%
with torch.no_grad():
    _, cache = model.run_with_cache(repeated)
    _, text_cache = model.run_with_cache(text)
kinds = {
    "previous": heads.previous_token_score,
    "duplicate": heads.duplicate_token_score,
    "induction": heads.induction_score,
}
scores = {
    kind: torch.stack([score(cache["pattern", l], repeated) for l in range(LAYERS)]).flatten()
    for kind, score in kinds.items()
}
cells = [(l, h) for l in range(LAYERS) for h in range(HEADS)]
names = [f"{l}.{h}" for l, h in cells]
induction = [cell for cell, score in zip(cells, scores["induction"], strict=True) if score > 0.25]
print("induction heads:", induction)

# %% [markdown]
# ### Remove one head at a time, with three things in its place
#
# `hook_z` is [row, position, head, d_head]. Costs are measured per row, so that resampling rows gives
# error bars.


# %%
def removal(layer: int, head: int, how: str) -> tuple:
    def replace(z: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        z = z.clone()
        own = z[:, :, head]
        z[:, :, head] = {
            "zero": torch.zeros_like(own),
            "mean": own.mean(0, keepdim=True).expand_as(own),
            "other row": own.roll(1, 0),
            "other head": z[:, :, (head + 1) % HEADS],
            "itself": own,
        }[how]
        return z

    return (f"blocks.{layer}.attn.hook_z", replace)


@torch.no_grad()
def losses(kind: str, hooks: list | None = None) -> torch.Tensor:
    """Loss per row, over all tokens of text, text tokens seen before or new, or determined repeats."""
    tokens = repeated if kind == "repeats" else text
    loss = token_loss(model.run_with_hooks(tokens, fwd_hooks=hooks or []), tokens)
    mask = {"repeats": determined, "text": torch.ones_like(seen), "seen": seen, "new": ~seen}[kind]
    return (loss * mask).sum(1) / mask.sum(1).clamp_min(1)


base = {kind: losses(kind) for kind in ("repeats", "text", "seen", "new")}
ways = ("zero", "mean", "other row")
cost = {
    kind: {
        how: torch.stack([losses(kind, [removal(*cell, how)]) - base[kind] for cell in cells]) for how in ways
    }
    for kind in ("repeats", "text")
}  # each [head, row]
average = {kind: {how: rows.mean(1) for how, rows in by_way.items()} for kind, by_way in cost.items()}
spread = {kind: cost[kind]["mean"].std(1) / ROWS**0.5 for kind in cost}
split = {
    kind: torch.tensor([(losses(kind, [removal(*cell, "mean")]) - base[kind]).mean() for cell in cells])
    for kind in ("seen", "new")
}
noop = (losses("text", [removal(0, 0, "itself")]) - base["text"]).abs().max().item()
all_gone = [removal(*cell, "mean") for cell in cells]
everything = {kind: (losses(kind, all_gone) - base[kind]).mean().item() for kind in ("repeats", "text")}

# %% [markdown]
# ### Total cost, direct cost, and the cost once the induction heads are gone
#
# Direct: take the head's write (less its mean) out of the final residual stream only, with LayerNorm's
# scale kept. A head whose total cost is far above its direct cost works through later heads. If those are
# the induction heads, it should cost little once they have been removed.


# %%
@torch.no_grad()
def direct_cost(layer: int, head: int) -> float:
    """Loss added on repeats when only the path from this head straight to the logits is cut."""
    write = cache["z", layer][:, :, head] @ model.W_O[layer, head]
    write = write - write.mean(0, keepdim=True)
    scaled = (write - write.mean(-1, keepdim=True)) / cache["ln_final.hook_scale"] * model.ln_final.weight
    logits = model(repeated) - scaled @ model.W_U
    return (token_loss(logits, repeated)[determined].mean() - base_repeats).item()


base_repeats = token_loss(model(repeated), repeated)[determined].mean().detach()
direct = torch.tensor([direct_cost(*cell) for cell in cells])
total = average["repeats"]["mean"]
without = [removal(*cell, "mean") for cell in induction]
base_without = losses("repeats", without)
later = torch.tensor(
    [(losses("repeats", [*without, removal(*cell, "mean")]) - base_without).mean() for cell in cells]
)
others = [index for index, cell in enumerate(cells) if cell not in induction]
others = others or list(range(len(cells)))
best = max(others, key=lambda index: total[index].item())  # the head that matters most, induction apart
best_induction = max((cells.index(cell) for cell in induction), key=lambda i: total[i].item(), default=0)
swap = (losses("repeats", [removal(*cells[best], "other head")]) - base["repeats"]).mean().item()
text_best = int(average["text"]["mean"].argmax())


def rank_correlation(x: torch.Tensor, y: torch.Tensor) -> float:
    """Spearman's: Pearson's correlation of the ranks."""
    ranks = torch.stack([x.argsort().argsort(), y.argsort().argsort()]).float()
    return torch.corrcoef(ranks)[0, 1].item()


print(f"best other head {names[best]}: " + ", ".join(f"{k} score {scores[k][best]:.2f}" for k in scores))
print(
    f"most costly on text: {names[text_best]}: "
    + ", ".join(f"{k} {scores[k][text_best]:.2f}" for k in scores)
)
metrics = {
    "loss_text": history["text"][-1],
    "bigram_text": bigram,
    "loss_repeats": history["repeats"][-1],
    "induction_score": scores["induction"].max().item(),
    "best_induction_cost": total[best_induction].item(),
    "other_cost": total[best].item(),
    "other_previous_score": scores["previous"][best].item(),
    "other_direct_share": (direct[best] / total[best].clamp_min(1e-9)).item(),
    "other_later_share": (later[best] / total[best].clamp_min(1e-9)).item(),
    "median_cost": total.median().item(),
    "text_top_cost": average["text"]["mean"].max().item(),
    "text_error_bar": spread["text"].max().item(),
    "text_seen_over_new": (split["seen"][text_best] / split["new"][text_best].clamp_min(1e-9)).item(),
    "agreement_mean_resample": rank_correlation(average["repeats"]["mean"], average["repeats"]["other row"]),
    "agreement_mean_zero": rank_correlation(average["repeats"]["mean"], average["repeats"]["zero"]),
    "agreement_repeats_text": rank_correlation(total, average["text"]["mean"]),
    "other_head_cost": swap,
    "all_cost_text": everything["text"],
    "all_cost_repeats": everything["repeats"],
    "noop_change": noop,
}

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 3, f"Every head of {LAYERS} layers removed in turn")
plots.loss_curves(
    axes[0], history, ["text", "repeats"], title="Held-out loss", marks={"bigram, text": bigram}
)
spots = torch.arange(len(cells))
for ax, kind, title in (
    (axes[1], "repeats", "Repeated rows"),
    (axes[2], "text", "Text (bars: standard error)"),
):
    for index, how in enumerate(ways):
        ax.bar(
            spots + 0.27 * (index - 1),
            average[kind][how],
            0.27,
            color=plots.COLOURS[index],
            label=how,
            yerr=spread[kind] if how == "mean" else None,
            error_kw={"linewidth": 0.8},
        )
    ax.set_xticks(spots, names, rotation=90)
    ax.legend(fontsize=8, frameon=False)
    plots.label(ax, f"{title}: one head replaced", "layer.head", "loss added (nats)")
plots.heatmap(
    axes[3], torch.stack(list(scores.values())), "Roles on repeated rows", x="layer.head", x_ticks=names,
    y_ticks=list(scores), limits=(0, 1), numbers=len(names) <= 12,
)  # fmt: skip
for offset, values, text_label in (
    (-0.27, total, "total"), (0, direct, "direct only"), (0.27, later, "with induction heads gone"),
):  # fmt: skip
    colour = plots.COLOURS[{-0.27: 1, 0: 0, 0.27: 2}[offset]]
    axes[4].bar(spots + offset, values, 0.27, label=text_label, color=colour)
axes[4].set_xticks(spots, names, rotation=90)
axes[4].legend(fontsize=8, frameon=False)
plots.label(axes[4], "Repeated rows: how the cost comes about", "layer.head", "loss added (nats)")
axes[5].bar(spots - 0.2, split["seen"], 0.4, color=plots.COLOURS[1], label="token seen before")
axes[5].bar(spots + 0.2, split["new"], 0.4, color=plots.COLOURS[0], label="new token")
axes[5].set_xticks(spots, names, rotation=90)
axes[5].legend(fontsize=8, frameon=False)
plots.label(axes[5], "Text: cost by kind of next token", "layer.head", "loss added (nats)")
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
