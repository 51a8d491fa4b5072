"""A survey of attention heads: which ones look back one token, at copies, behind copies, and what they write.

    python experiment.py                                        the run that expected.json describes
    python experiment.py --seed 1                               other random tokens
    python experiment.py --models smollm2-135m
    python experiment.py --models "attn-only-2l openai-community/gpt2 EleutherAI/pythia-70m"

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## What kinds of heads are there, and are the names true?
#
# Show a model random tokens that repeat. A head that attends to the token before the current one is a
# *previous-token head*; to an earlier copy of it, a *duplicate-token head*; to what came after that copy, an
# *induction head* (Olsson et al. 2022, arXiv:2209.11895). A *copying* head raises the token that it attends
# to, whatever it is: that can be read from its weights (Elhage et al. 2021).
#
# A name is a claim. So each is tested: on keys that cannot be meant (those of another row), in a model that
# cannot have such heads (one layer), and by taking the heads out.

# %%
import sys

import torch
from torch.nn import functional as F

from lab import heads, interactive, ov_circuits, plots
from lab.documents import documents
from lab.models import ModelError, load_model
from lab.results import start_run

# %% knobs
SEED = 0  # of the random tokens, and of the random heads
MODELS = "attn-only-1l attn-only-2l attn-only-3l"  # names or folders, with spaces between them
ROWS = 16  # of random tokens
LENGTH = 96  # tokens in a row
TAKEN = 2  # induction heads that are taken out
DRAWS = 12  # sets of random heads to compare with
STEPS = 0  # nothing is trained here

# %%
run = start_run(globals())
torch.set_grad_enabled(False)
try:
    models = {name: load_model(name, device=run.device) for name in MODELS.split()}
except ModelError as error:
    sys.exit(str(error))

# %% [markdown]
# ### Scores
#
# Attention to each kind of key, averaged over all queries that have one: 0 to 1. The period of the repeats
# differs from row to row, so that a head which counts places does not pass for one that matches tokens.
# `lab/heads.py` has the definitions; TransformerLens's `detect_head` wants a tokenizer, these want token ids.

# %%
tokens = {name: heads.repeated_tokens(model, ROWS, LENGTH, seed=SEED) for name, model in models.items()}
found = {}
for name, model in models.items():
    found[name] = heads.head_scores(model, tokens[name])
    if model.W_E.shape[0] == model.W_U.shape[1]:
        found[name]["copying (OV)"] = ov_circuits.copying_eigenvalues(model)
    print(f"\n{name}: {len(model.blocks)} layers of {model.cfg.n_heads} heads")
    print(heads.table(found[name]))

# %% [markdown]
# ### Can the score be fooled?
#
# The same attention, held against the induction keys of another row, whose period is another one: what is
# left is what a head gives to such distances anyway.


# %%
def of_another_row(rows: torch.Tensor) -> torch.Tensor:
    """The induction keys [row, query, key] of the next row."""
    return heads.induction_keys(rows).roll(1, 0)


fooled = {
    name: heads.head_scores(model, tokens[name], {"fooled": of_another_row}, rows_at_once=ROWS)["fooled"]
    for name, model in models.items()
}

# %% [markdown]
# ### Do they do it?
#
# Take heads out (their output becomes its mean over rows and positions) and see what that adds to the loss on
# tokens that repeat. If the name is true, it adds much there, little on ordinary text, and more than heads
# without a name do. (Previous-token heads are no fair comparison: induction heads live off them.)


# %%
def losses(model, rows: torch.Tensor, out=(), noop: bool = False) -> torch.Tensor:
    """Loss of every prediction [row, position], without the heads ``out``."""

    def hook(layer: int, mine: list[int]):
        def replace(z, hook):
            z = z.clone()
            if not noop:
                z[:, :, mine] = z[:, :, mine].mean((0, 1), keepdim=True)
            return z

        return f"blocks.{layer}.attn.hook_z", replace

    by_layer = {layer: [h for l, h in out if l == layer] for layer, _ in out}
    logits = model.run_with_hooks(rows, fwd_hooks=[hook(*item) for item in by_layer.items()])
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), rows[:, 1:], reduction="none")


def strongest(score: torch.Tensor, count: int) -> list[tuple[int, int]]:
    return [divmod(place, score.shape[1]) for place in score.flatten().topk(count).indices.tolist()]


def ordinary(model) -> torch.Tensor:
    """Rows [row, position] of speeches that the embedded models were not trained on."""
    text = next(iter(documents("speeches"))).text
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    count = min(8, len(ids) // (LENGTH - 1))
    rows = torch.tensor(ids[: count * (LENGTH - 1)]).view(count, LENGTH - 1)
    start = model.tokenizer.bos_token_id
    return torch.cat([torch.full((count, 1), start), rows], 1).to(run.device) if start is not None else rows


def effect(name: str) -> dict[str, float]:
    """What taking out heads adds to the loss, in nats."""
    model, rows, text = models[name], tokens[name], ordinary(models[name])
    # the first token of a second copy cannot be foreseen; those after it can
    again = heads.induction_keys(rows).any(-1)[:, :-1]
    scores, chosen = found[name], strongest(found[name]["induction"], TAKEN)
    nameless = (scores["induction"] < 0.5) & (scores["previous token"] < 0.5)
    others = [place for place in map(tuple, nameless.nonzero().tolist()) if place not in chosen]
    generator = torch.Generator().manual_seed(SEED)
    draws = [
        [others[i] for i in torch.randperm(len(others), generator=generator)[:TAKEN].tolist()]
        for _ in range(DRAWS)
    ]
    plain, plain_text = losses(model, rows), losses(model, text).mean()
    random = [(losses(model, rows, draw) - plain)[again].mean().item() for draw in draws if draw]
    return {
        "gain": (plain[~again].mean() - plain[again].mean()).item(),
        "induction heads": (losses(model, rows, chosen) - plain)[again].mean().item(),
        "nameless heads": sum(random) / max(1, len(random)),
        "ordinary text": (losses(model, text, chosen).mean() - plain_text).item(),
        "own values": (losses(model, rows, chosen, noop=True) - plain)[again].mean().item(),
    }


effects = {name: effect(name) for name in models}
for name, values in effects.items():
    print(name, {key: round(value, 3) for key, value in values.items()})

# %%
metrics = {}
for number, name in enumerate(models, 1):
    score, values = found[name], effects[name]
    best = strongest(score["induction"], 1)[0]
    metrics |= {
        f"induction_{number}": score["induction"].max().item(),
        f"previous_{number}": score["previous token"].max().item(),
        f"fooled_{number}": fooled[name][best].item(),
        f"repeated_gain_{number}": values["gain"],
        f"without_induction_{number}": values["induction heads"],
        f"without_nameless_{number}": values["nameless heads"],
        f"on_text_{number}": values["ordinary text"],
        f"noop_change_{number}": abs(values["own values"]),
    }
    if "copying (OV)" in score:
        named = [score["copying (OV)"][place].item() for place in strongest(score["induction"], TAKEN)]
        metrics[f"copying_of_induction_{number}"] = sum(named) / len(named)
        metrics[f"copying_median_{number}"] = score["copying (OV)"].median().item()

# %% [markdown]
# ### Look
#
# `heads.html` in the run's folder has the same scores to click through.

# %%
kinds = ["previous token", "duplicate token", "induction", "copying (OV)"]
fig, axes = plots.figure(
    len(models), len(kinds), "Heads by what they look at, and by what they copy",
    size=(3.4 * len(kinds), 1.1 + sum(0.9 + 0.32 * min(20, len(m.blocks)) for m in models.values())),
)  # fmt: skip
for row, (name, scores) in enumerate(found.items()):
    for column, kind in enumerate(kinds):
        ax = axes[row * len(kinds) + column]
        if kind not in scores:
            ax.set_axis_off()
            continue
        few = scores[kind].numel() <= 24
        title = f"{name}: {kind}" if column == 0 else kind
        signed = kind == "copying (OV)"
        plots.heatmap(
            ax, scores[kind], title, x="head", y="layer" if column == 0 else "", numbers=few, signed=signed,
            limits=(-1, 1) if signed else (0, 1), bar=column in (2, 3), x_ticks=None if few else [],
        )  # fmt: skip
run.save(fig, "heads")
for name, scores in found.items():
    interactive.head_grid(scores, title=f"Heads of {name}").save(
        run.folder / f"heads-{name.replace('/', '-').strip('.')}.html"
    )

# %%
title = "What taking heads out adds to the loss"
fig, axes = plots.figure(1, len(models), title, size=(4.2 * len(models), 3.6))
for ax, (name, values) in zip(axes, effects.items(), strict=True):
    shown = {
        f"without {TAKEN}\ninduction heads": values["induction heads"],
        f"without {TAKEN}\nnameless heads": values["nameless heads"],
        "without induction\nheads, plain text": values["ordinary text"],
    }
    room = f"repeats are {values['gain']:.1f} nats easier"
    plots.bars(ax, shown, f"{name}: {room}", y="loss added (nats)", highlight=list(shown)[:1])
run.save(fig, "taken-out")

# %%
report = run.finish(metrics)
