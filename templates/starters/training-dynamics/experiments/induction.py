"""When do induction heads form, and does in-context learning come with them?

    python experiment.py                  the run that expected.json describes
    python experiment.py --seed 1         other weights, other data: other dates
    python experiment.py --vocabulary 64  more tokens: when does the change come now?

Results, figures, checkpoints and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## One bump, and three models that have it early, late, or never
#
# While a language model of two layers or more trains, its loss on *late* tokens drops all at once against
# that on *early* ones, and in the same window its induction heads form (Olsson et al. 2022,
# arXiv:2209.11895). That two things happen together proves little. Their stronger argument changes the
# architecture: if a head may mix the key before it into its own (a *smeared key*), no previous-token head is
# needed, and both things should happen sooner, and even in one layer. Here all of it on repeated random
# tokens, where the change takes seconds:
#
# - **2 layers**: both, at the same time;
# - **1 layer**: neither;
# - **1 layer, smeared keys**: both, sooner.

# %%
import sys

import torch
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from lab import heads, plots
from lab.checkpoints import checkpoints, load_checkpoint
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # weights and data
VOCABULARY = 32  # random tokens to draw blocks from
SHORTEST = 6  # shortest period, in tokens
LONGEST = 15  # longest period, in tokens
LENGTH = 40  # tokens in a row
HEADS = 4  # heads in each layer
D_MODEL = 64  # width of the residual stream
BATCH = 48  # rows in a step
STEPS = 400  # training steps of each model
EVERY = 5  # steps between two measurements
LR = 3e-3  # AdamW, warm-up of ten steps, then constant: a falling rate would date the change by itself

# %%
run = start_run(globals())
device = run.device
if D_MODEL % (2 * HEADS):
    sys.exit(f"D_MODEL is {D_MODEL}, HEADS {HEADS}: heads must be equally wide, and of even width")
if not SHORTEST <= LONGEST <= LENGTH - 5:
    sys.exit(f"SHORTEST {SHORTEST} must not exceed LONGEST {LONGEST}, nor that LENGTH less 5, {LENGTH - 5}")

# %% [markdown]
# ### The data: one block of random tokens per row, repeated to the end
#
# Periods differ from row to row, so that counting places does not help. *Early* is the first copy's start,
# where nothing repeats yet; *late* is where every row has seen its block.


# %%
def sample(rows: int, generator: torch.Generator) -> torch.Tensor:
    """Tokens [row, position]."""
    periods = torch.randint(SHORTEST, LONGEST + 1, (rows, 1), generator=generator)
    block = torch.randint(VOCABULARY, (rows, LONGEST), generator=generator)
    return block.gather(1, torch.arange(LENGTH) % periods).to(device)


held_out = sample(128, torch.Generator().manual_seed(10_000 + SEED))
EARLY, LATE = slice(0, SHORTEST - 1), slice(LONGEST, None)  # places of losses[row, position - 1]


def token_losses(model: TransformerBridge) -> torch.Tensor:
    """Next-token loss in nats, [position - 1], mean over held-out rows."""
    logits = model(held_out)[:, :-1]
    return F.cross_entropy(logits.transpose(1, 2), held_out[:, 1:], reduction="none").mean(0)


def in_context_score(model: TransformerBridge) -> float:
    """How much better late tokens are foretold than early ones, in nats (Olsson et al. give minus this)."""
    losses = token_losses(model)
    return (losses[EARLY].mean() - losses[LATE].mean()).item()


# %% [markdown]
# ### Three models
#
# A smeared key is `(1 - s) * key + s * (the key before)`, with one `s` for each head, learned from a half.


# %%
def build(layers: int, smeared: bool = False) -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL // HEADS, n_heads=HEADS, n_layers=layers, n_ctx=LENGTH,
        d_vocab=VOCABULARY, attn_only=True, normalization_type="LN", positional_embedding_type="rotary",
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=SEED,
    )  # fmt: skip
    model = TransformerBridge.boot_native(config, device=device)
    if smeared:
        smearing = torch.nn.Parameter(torch.zeros(HEADS, device=device))
        model.original_model.register_parameter("smear", smearing)  # so that it is trained and kept

        def smear(key: torch.Tensor, hook) -> torch.Tensor:
            """key: [row, position, head, d_head]; the first position has none before it."""
            before = torch.cat([key[:, :1], key[:, :-1]], 1)
            share = smearing.sigmoid()[:, None]
            return (1 - share) * key + share * before

        model.blocks[0].attn.hook_k.add_hook(smear, is_permanent=True)
    return model


@torch.no_grad()
def head_scores(model: TransformerBridge) -> dict[str, torch.Tensor]:
    return heads.head_scores(model, held_out[:64])  # name -> [layer, head]


def fit(name: str, layers: int, smeared: bool = False) -> tuple[TransformerBridge, dict[str, list[float]]]:
    model = build(layers, smeared)
    generator = torch.Generator().manual_seed(SEED)

    def loss_at(step: int) -> torch.Tensor:
        tokens = sample(BATCH, generator)
        return F.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())

    def measure() -> dict[str, float]:
        scores = head_scores(model)
        return {
            "in-context score": in_context_score(model),
            "induction score": scores["induction"].max().item(),
            "previous-token score": scores["previous token"].max().item(),
        }

    return model, train(
        model, loss_at, steps=STEPS, lr=LR, weight_decay=0.01, evaluate=measure, every=EVERY, label=name,
        checkpoints=run.folder / "checkpoints" / name.replace(" ", "-"),
    )  # fmt: skip


TWO, ONE, SMEARED = "2 layers", "1 layer", "1 layer smeared"
models, curves = {}, {}
models[TWO], curves[TWO] = fit(TWO, 2)
models[ONE], curves[ONE] = fit(ONE, 1)
models[SMEARED], curves[SMEARED] = fit(SMEARED, 1, smeared=True)

# %% [markdown]
# ### Date the change
#
# A date needs a definition that somebody else would arrive at: the middle of that tenth of the training in
# which a curve rises most. Beside the dates of one model stand those of two different models: if any two
# curves had dates this close, closeness would say nothing.

# %%
WINDOW = max(1, STEPS // 10 // EVERY)  # measurements in a tenth of the training


def rises(name: str, measure: str) -> list[float]:
    """How much a curve rises in each tenth of the training, by the measurement that it starts at."""
    values = curves[name][measure]
    return [after - before for before, after in zip(values, values[WINDOW:], strict=False)]


def date(name: str, measure: str) -> float:
    """The middle of the tenth in which it rises most, in steps."""
    rise = rises(name, measure)
    first = rise.index(max(rise))
    return (curves[name]["step"][first] + curves[name]["step"][first + WINDOW]) / 2


dates = {
    name: {measure: date(name, measure) for measure in ("in-context score", "induction score")}
    for name in (TWO, SMEARED)
}
for name, found in dates.items():
    print(f"  {name:>16}: " + ", ".join(f"{measure} at step {step:g}" for measure, step in found.items()))


def apart(one: str, other: str) -> float:
    """How many times later (or sooner) the induction heads of one model are than the score of the other."""
    ratio = dates[one]["induction score"] / dates[other]["in-context score"]
    return max(ratio, 1 / ratio)


def steepest(name: str) -> float:
    """The largest rise of the in-context score in a tenth of the training, in nats.

    After the first tenth: there every model learns to copy whatever has occurred.
    """
    found = rises(name, "in-context score")
    return max(found[WINDOW:] or found)


# %% [markdown]
# ### Is it the induction heads that do it? Take them out, at every checkpoint
#
# The heads that are induction heads in the *finished* two-layer model are mean-ablated in each checkpoint
# on the way: `hook_z` becomes its mean over rows and places. The control takes out the heads that are
# neither these nor previous-token heads: one to three here, against four.

# %%
model = models[TWO]
final_scores = head_scores(model)
induction_heads = [tuple(pair) for pair in (final_scores["induction"] > 0.3).nonzero().tolist()]
neither = (final_scores["induction"] <= 0.3) & (final_scores["previous token"] <= 0.3)
other_heads = [tuple(pair) for pair in neither.nonzero().tolist()]
print("induction heads:", induction_heads, " neither these nor previous-token heads:", other_heads)


@torch.no_grad()
def score_without(group: list[tuple[int, int]]) -> float:
    def ablate(z: torch.Tensor, hook) -> torch.Tensor:
        z = z.clone()  # [row, position, head, d_head]
        for head in (head for layer, head in group if f"blocks.{layer}." in hook.name):
            z[:, :, head] = z[:, :, head].mean((0, 1))
        return z

    with model.hooks(fwd_hooks=[(f"blocks.{layer}.attn.hook_z", ablate) for layer in range(2)]):
        return in_context_score(model)


through = {"step": [], "all heads": [], "without induction heads": [], "without other heads": []}
for kept in checkpoints(run.folder / "checkpoints" / TWO.replace(" ", "-")):
    load_checkpoint(model, kept.path)
    through["step"].append(kept.step)
    through["all heads"].append(score_without([]))
    through["without induction heads"].append(score_without(induction_heads))
    through["without other heads"].append(score_without(other_heads))
with torch.no_grad():
    own = in_context_score(model)
end = {name: values[-1] for name, values in through.items()}
scores = {name: curves[name]["in-context score"] for name in curves}
metrics = {
    "score_two": scores[TWO][-1],
    "score_one": scores[ONE][-1],
    "score_smeared": scores[SMEARED][-1],
    "score_untrained": scores[TWO][0],
    "induction_two": curves[TWO]["induction score"][-1],
    "induction_one": max(curves[ONE]["induction score"]),
    "induction_smeared": curves[SMEARED]["induction score"][-1],
    "date_score": dates[TWO]["in-context score"],
    "date_induction": dates[TWO]["induction score"],
    "together_two": apart(TWO, TWO),
    "together_smeared": apart(SMEARED, SMEARED),
    "apart_models": min(apart(TWO, SMEARED), apart(SMEARED, TWO)),
    "sooner": dates[TWO]["induction score"] / dates[SMEARED]["induction score"],
    "steepest_two": steepest(TWO),
    "steepest_one": steepest(ONE),
    "left_induction": end["without induction heads"] / end["all heads"],
    "left_other": end["without other heads"] / end["all heads"],
    "noop_change": abs(own - end["all heads"]),
}

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 2, "In-context learning and induction heads through training")
colours = {TWO: "C0", ONE: "C1", SMEARED: "C2"}
for ax, measure, unit in (
    (axes[0], "in-context score", "early less late loss (nats)"),
    (axes[1], "induction score", "attention of the best head"),
):
    for name, curve in curves.items():
        ax.plot(curve["step"], curve[measure], color=colours[name], label=name)
        if name in dates:
            ax.axvline(dates[name][measure], color=colours[name], linestyle=":", linewidth=1)
    plots.label(ax, f"{measure.capitalize()} (dotted: steepest)", "training step", unit)
    ax.legend()
plots.loss_curves(
    axes[2], curves[TWO], ["induction score", "previous-token score"],
    title="2 layers: which head comes first?", y="attention of the best head", log=False,
)  # fmt: skip
for name, colour in (("all heads", "C0"), ("without induction heads", "C3"), ("without other heads", "C7")):
    axes[3].plot(through["step"], through[name], "o-", color=colour, label=name, markersize=4)
axes[3].set_xscale("symlog", linthresh=1)
axes[3].axhline(0, color="black", linewidth=0.5)
plots.label(axes[3], "2 layers, heads ablated", "training step", "in-context score (nats)")
axes[3].legend()
run.save(fig, "phase-change")

# %%
report = run.finish(metrics)
