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
# where the cost is averaged, and what counts as a head's role. Here all are made in the open. Minutes of
# training on real text alone grow no induction heads, so the "text" is a small made-up language with a
# two-token memory, in which passages are repeated. Olsson et al. 2022 (arXiv:2209.11895) say what to
# expect on repeats: induction heads matter, and so do the previous-token heads that feed them. Does any
# head matter for another reason?

# %%
import torch
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from lab import heads, plots
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # weights and data
LAYERS = 3  # attention layers
HEADS = 4  # heads in each layer
D_MODEL = 64  # width of the residual stream
VOCABULARY = 32  # tokens of the made-up language
SHARPNESS = 1.5  # spread of its logits: 0 would be uniform noise
SHORTEST = 8  # shortest passage before it repeats, in tokens
LONGEST = 15  # longest
CONTEXT = 32  # tokens in a row
ROWS = 256  # held-out rows
BATCH = 64  # rows in a step
STEPS = 450  # training steps
LR = 5e-3  # AdamW, cosine down to zero

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### The language, and the rows
#
# The next token follows the last two: p(c | a, b) is the softmax of AFTER[b, c] + SKIP[a, c]. An
# attention-only model can represent that exactly, with a head that looks one back. Each row starts a
# passage and then repeats it. `new` marks predictions inside the first copy, `again` those in the repeat.

# %%
language = torch.Generator().manual_seed(1000 + SEED)
AFTER, SKIP = SHARPNESS * torch.randn(2, VOCABULARY, VOCABULARY, generator=language)


def sample(rows: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens [row, position], and masks new and again [row, position - 1]."""
    passage = torch.randint(VOCABULARY, (rows, LONGEST), generator=generator)
    for place in range(2, LONGEST):
        logits = AFTER[passage[:, place - 1]] + SKIP[passage[:, place - 2]]
        passage[:, place] = logits.softmax(-1).multinomial(1, generator=generator)[:, 0]
    period = torch.randint(SHORTEST, LONGEST + 1, (rows, 1), generator=generator)
    position = torch.arange(CONTEXT)
    tokens = passage.gather(1, position % period)
    new, again = (position[2:] < period), (position[2:] > period)
    pad = torch.zeros(rows, 1, dtype=torch.bool)
    return tokens.to(device), torch.cat([pad, new], 1).to(device), torch.cat([pad, again], 1).to(device)


tokens, new, again = sample(ROWS, torch.Generator().manual_seed(10_000 + SEED))
ids, first_copy = tokens.cpu(), new[:, 1:].cpu()
exact = (AFTER[ids[:, 1:-1]] + SKIP[ids[:, :-2]]).log_softmax(-1).gather(-1, ids[:, 2:, None])[..., 0]
floor_new = -exact[first_copy].mean().item()  # loss of knowing the language exactly
# and of knowing which token follows which, but no more (the token before averaged out, as if uniform)
pairs = (AFTER[:, None] + SKIP[None]).softmax(-1).mean(1).log()  # [b, c]
bigram = -pairs[ids[:, 1:-1], ids[:, 2:]][first_copy].mean().item()

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
    rows, is_new, is_again = sample(BATCH, generator)
    loss = token_loss(model(rows), rows)
    return loss[is_new].mean() + loss[is_again].mean()


def evaluate() -> dict[str, float]:
    loss = token_loss(model(tokens), tokens)
    return {"new": loss[new].mean().item(), "again": loss[again].mean().item()}


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
# ### Roles first, from attention

# %%
with torch.no_grad():
    _, cache = model.run_with_cache(tokens)


def current_token_score(pattern: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Mean attention to the query's own position, per head."""
    return pattern.diagonal(dim1=-2, dim2=-1).mean(dim=(0, 2))


kinds = {
    "current": current_token_score,
    "previous": heads.previous_token_score,
    "duplicate": heads.duplicate_token_score,
    "induction": heads.induction_score,
}
scores = {
    kind: torch.stack([score(cache["pattern", l], tokens) for l in range(LAYERS)]).flatten()
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
    """Loss per row over the predictions of a kind: [row]."""
    loss = token_loss(model.run_with_hooks(tokens, fwd_hooks=hooks or []), tokens)
    mask = {"new": new, "again": again}[kind]
    return (loss * mask).sum(1) / mask.sum(1).clamp_min(1)


base = {kind: losses(kind) for kind in ("new", "again")}
ways = ("zero", "mean", "other row")
cost = {
    kind: {
        how: torch.stack([losses(kind, [removal(*cell, how)]) - base[kind] for cell in cells]) for how in ways
    }
    for kind in base
}  # each [head, row]
average = {kind: {how: rows.mean(1) for how, rows in by_way.items()} for kind, by_way in cost.items()}
spread = {kind: cost[kind]["mean"].std(1) / ROWS**0.5 for kind in cost}
noop = (losses("again", [removal(0, 0, "itself")]) - base["again"]).abs().max().item()
all_gone = [removal(*cell, "mean") for cell in cells]
everything = {kind: (losses(kind, all_gone) - base[kind]).mean().item() for kind in base}

# %% [markdown]
# ### Total cost, direct cost, and the cost once the induction heads are gone
#
# Direct: take the head's write (less its mean) out of the final residual stream only, with LayerNorm's
# scale kept. A head whose total cost is far above its direct cost works through later heads. If those are
# the induction heads, it should cost little once they have been removed.


# %%
@torch.no_grad()
def direct_cost(layer: int, head: int) -> dict[str, float]:
    """Loss added when only the path from this head straight to the logits is cut."""
    write = cache["z", layer][:, :, head] @ model.W_O[layer, head]
    write = write - write.mean(0, keepdim=True)
    scaled = (write - write.mean(-1, keepdim=True)) / cache["ln_final.hook_scale"] * model.ln_final.weight
    logits = model(tokens)
    added = token_loss(logits - scaled @ model.W_U, tokens) - token_loss(logits, tokens)
    return {"new": added[new].mean().item(), "again": added[again].mean().item()}


by_head = [direct_cost(*cell) for cell in cells]
direct = {kind: torch.tensor([costs[kind] for costs in by_head]) for kind in base}
total = {kind: average[kind]["mean"] for kind in base}
without = [removal(*cell, "mean") for cell in induction]
base_without = losses("again", without)
later = torch.tensor(
    [(losses("again", [*without, removal(*cell, "mean")]) - base_without).mean() for cell in cells]
)
others = [index for index, cell in enumerate(cells) if cell not in induction] or list(range(len(cells)))
best = max(others, key=lambda index: total["again"][index].item())  # matters most, induction heads apart
best_induction = max(
    (cells.index(cell) for cell in induction), key=lambda i: total["again"][i].item(), default=0
)
best_new = int(total["new"].argmax())
swap = (losses("again", [removal(*cells[best], "other head")]) - base["again"]).mean().item()


def rank_correlation(x: torch.Tensor, y: torch.Tensor) -> float:
    """Spearman's: Pearson's correlation of the ranks."""
    ranks = torch.stack([x.argsort().argsort(), y.argsort().argsort()]).float()
    return torch.corrcoef(ranks)[0, 1].item()


for text, index in (("repeats, induction heads apart", best), ("new tokens", best_new)):
    roles = ", ".join(f"{kind} {scores[kind][index]:.2f}" for kind in scores)
    print(f"most costly for {text}: {names[index]} ({roles})")
metrics = {
    "loss_new": history["new"][-1],
    "gap_new": history["new"][-1] - floor_new,
    "bigram_gap": bigram - floor_new,
    "loss_again": history["again"][-1],
    "induction_score": scores["induction"].max().item(),
    "best_induction_cost": total["again"][best_induction].item(),
    "other_cost": total["again"][best].item(),
    "previous_score": scores["previous"].max().item(),
    "previous_cost": total["again"][int(scores["previous"].argmax())].item(),
    "other_direct_share": (direct["again"][best] / total["again"][best].clamp_min(1e-9)).item(),
    "other_later_share": (later[best] / total["again"][best].clamp_min(1e-9)).item(),
    "median_cost": total["again"].median().item(),
    "new_cost": total["new"].max().item(),
    "new_previous_score": scores["previous"][best_new].item(),
    "new_direct_share": (direct["new"][best_new] / total["new"][best_new].clamp_min(1e-9)).item(),
    "error_bar": max(bars.max().item() for bars in spread.values()),
    "agreement_mean_resample": rank_correlation(average["again"]["mean"], average["again"]["other row"]),
    "agreement_mean_zero": rank_correlation(average["again"]["mean"], average["again"]["zero"]),
    "agreement_new_again": rank_correlation(total["again"], total["new"]),
    "other_head_cost": swap,
    "all_cost_new": everything["new"],
    "all_cost_again": everything["again"],
    "noop_change": noop,
}

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 3, f"Every head of {LAYERS} layers removed in turn")
plots.loss_curves(
    axes[0], history, ["new", "again"], title="Held-out loss",
    marks={"new: language known": floor_new, "new: one token back": bigram},
)  # fmt: skip
spots = torch.arange(len(cells))
for ax, kind, title in ((axes[1], "again", "Repeated tokens"), (axes[2], "new", "New tokens")):
    for index, how in enumerate(ways):
        ax.bar(spots + 0.27 * (index - 1), average[kind][how], 0.27, color=plots.COLOURS[index], label=how,
               yerr=spread[kind] if how == "mean" else None, error_kw={"linewidth": 0.8})  # fmt: skip
    plots.label(ax, f"{title}: one head replaced", "layer.head", "loss added (nats)")
plots.heatmap(
    axes[3], torch.stack(list(scores.values())), "Attention of the heads", x="layer.head", x_ticks=names,
    y_ticks=list(scores), limits=(0, 1), numbers=len(names) <= 12,
)  # fmt: skip
for ax, kind in ((axes[4], "again"), (axes[5], "new")):
    shown = {"total": total[kind], "direct only": direct[kind]}
    if kind == "again":
        shown["with induction heads gone"] = later
    for index, (text, values) in enumerate(shown.items()):
        ax.bar(spots + 0.27 * (index - 1), values, 0.27, color=plots.COLOURS[(1, 0, 2)[index]], label=text)
    title = {"again": "Repeated tokens", "new": "New tokens"}[kind]
    plots.label(ax, f"{title}: total and direct cost", "layer.head", "loss added (nats)")
for ax in (axes[1], axes[2], axes[4], axes[5]):
    ax.set_xticks(spots, names, rotation=90)
    ax.legend(fontsize=8, framealpha=0.8)
    ax.axhline(0, color="0.2", linewidth=0.6)
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
