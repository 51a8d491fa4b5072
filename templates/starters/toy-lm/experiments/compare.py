"""Two small language models that differ in one thing: what does the difference change?

    python experiment.py                          the run that expected.json describes
    python experiment.py --seed 1                 another seed
    python experiment.py --pair gelu-solu         another pair: mlp-or-not, depth, gelu-solu, size

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Comparing two language models fairly
#
# One average loss says that model B beats model A; it does not say on what, or which part does it. So:
# sort the tokens into classes by a rule fixed beforehand, split the gain over them, take each component
# away, and read what each writes towards the right token. A third model guards against the wrong
# conclusion: it has B's size without B's new part, or is A again from another seed. What it gains too is
# not due to the part.

# %%
import torch
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis import logit_lens

from lab import heads, plots
from lab.results import start_run
from lab.text import bigram_log_probs, documentation, load_corpus
from lab.train import train

# %% knobs
SEED = 0  # weights and order of the data
PAIR = "mlp-or-not"  # mlp-or-not, depth, gelu-solu or size
VOCABULARY = 600  # tokens: the commonest words, and characters for the rest
CONTEXT = 48  # tokens in a window
D_MODEL = 64  # width of the residual stream
ROWS = 128  # held-out windows to measure on
BATCH = 32  # windows in a step
STEPS = 260  # training steps for each model
LR = 5e-3  # AdamW, cosine down to zero

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### The pair, and the model that guards the comparison
#
# Parameters of a block: a head has 4 * d_model * d_head weights (d_head is 16 throughout), an MLP has 2 *
# d_model * d_mlp. So 256 neurons weigh as much as eight heads.

# %%
MODELS = {
    # name: layers, heads, neurons (0: attention only), activation, width, seed
    "mlp-or-not": {
        "attention": (1, 4, 0, "gelu", D_MODEL, SEED),
        "with MLP": (1, 4, 256, "gelu", D_MODEL, SEED),
        "12 heads": (1, 12, 0, "gelu", D_MODEL, SEED),  # the guard: as many parameters, no MLP
    },
    "depth": {
        "1 layer": (1, 4, 192, "solu_ln", D_MODEL, SEED),
        "2 layers": (2, 4, 192, "solu_ln", D_MODEL, SEED),
        "wide": (1, 8, 384, "solu_ln", D_MODEL, SEED),  # the guard: as many parameters, one layer
    },
    "gelu-solu": {
        "GELU": (1, 4, 256, "gelu", D_MODEL, SEED),
        "SoLU": (1, 4, 256, "solu_ln", D_MODEL, SEED),
        "GELU again": (1, 4, 256, "gelu", D_MODEL, SEED + 100),  # the guard: another seed
    },
    "size": {
        "small": (1, 2, 64, "gelu", D_MODEL // 2, SEED),
        "larger": (2, 4, 256, "gelu", D_MODEL, SEED),
        "small again": (1, 2, 64, "gelu", D_MODEL // 2, SEED + 100),  # the guard: another seed
    },
}[PAIR]
A, B, GUARD = MODELS

# %% [markdown]
# ### Text, and the rivals that need no network
#
# Python's documentation, some 700,000 tokens. A bigram table is all that a model with no layers could be;
# a trigram table knows two tokens back.

# %%
corpus = load_corpus(documentation(), VOCABULARY)
tokenizer = corpus.tokenizer
tokens = corpus.held_out(ROWS, CONTEXT)
before, now, target = tokens[:, :-2], tokens[:, 1:-1], tokens[:, 2:]  # predictions with two tokens to go by
stream = corpus.train
unigram = (torch.bincount(stream, minlength=VOCABULARY) + 1).float()
unigram_log = (unigram / unigram.sum()).log()[target]
bigram_log = bigram_log_probs(stream, VOCABULARY)[now, target]


def count(codes: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """How often each of ``wanted`` stands in ``codes``."""
    kinds, counts = codes.unique(return_counts=True)
    place = torch.searchsorted(kinds, wanted).clamp_max(len(kinds) - 1)
    return torch.where(kinds[place] == wanted, counts[place], 0)


pair_codes = stream[:-1] * VOCABULARY + stream[1:]
seen_pair = count(pair_codes[:-1], before * VOCABULARY + now)
seen_triple = count(
    pair_codes[:-1] * VOCABULARY + stream[2:], (before * VOCABULARY + now) * VOCABULARY + target
)
trigram_log = ((seen_triple + 2 * bigram_log.exp()) / (seen_pair + 2)).log()

# %% [markdown]
# Classes, fixed before any model is trained; a token belongs to the first that fits.

# %%
repeated = heads.duplicate_token_keys(tokens)[:, 2:].any(-1)  # the token stood in the window before
layout = torch.tensor([text.strip() == "" for text in tokenizer.vocabulary])[target]
classes = {"bigram sure": bigram_log.exp() > 0.5}
classes["trigram sure"] = trigram_log.exp() > 0.5
classes["layout"] = layout
classes["seen before"] = repeated
classes["the rest"] = torch.ones_like(repeated)
taken = torch.zeros_like(repeated)
for name, mask in classes.items():
    classes[name] = mask & ~taken
    taken |= mask
print({name: f"{mask.float().mean():.0%}" for name, mask in classes.items()})
tokens = tokens.to(device)
answers = target.to(device)
classes = {name: mask.to(device) for name, mask in classes.items()}

# %% [markdown]
# ### Train the three on the same windows


# %%
def build(shape: tuple) -> TransformerBridge:
    layers, n_heads, neurons, activation, width, seed = shape
    config = TransformerBridgeConfig(
        d_model=width, d_head=16, n_heads=n_heads, n_layers=layers, n_ctx=CONTEXT, d_vocab=VOCABULARY,
        attn_only=neurons == 0, d_mlp=neurons or 4 * width, act_fn=activation,
        normalization_type="LN", positional_embedding_type="rotary",
        init_mode="gpt2", initializer_range=0.8 / width**0.5, seed=seed,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


def token_loss(logits: torch.Tensor) -> torch.Tensor:
    """Loss in nats of every prediction that has two tokens to go by: [row, position]."""
    return F.cross_entropy(logits[:, 1:-1].transpose(1, 2), answers, reduction="none")


def fit(name: str) -> tuple[TransformerBridge, list[float]]:
    model = build(MODELS[name])
    generator = torch.Generator().manual_seed(MODELS[name][-1])

    def loss_at(step: int) -> torch.Tensor:
        batch = corpus.batch(BATCH, CONTEXT, generator).to(device)
        return F.cross_entropy(model(batch)[:, :-1].flatten(0, 1), batch[:, 1:].flatten())

    columns = train(
        model, loss_at, steps=STEPS, lr=LR, weight_decay=0.01, decay=True, every=max(1, STEPS // 10),
        evaluate=lambda: {"held_out": token_loss(model(tokens)).mean().item()}, label=name,
    )  # fmt: skip
    history.setdefault("step", columns["step"])
    history[name] = columns["held_out"]
    return model, history[name]


history: dict[str, list[float]] = {}
models = {name: fit(name)[0] for name in MODELS}
with torch.no_grad():
    losses = {name: token_loss(model(tokens)) for name, model in models.items()}
    untrained_loss = token_loss(build(MODELS[B])(tokens)).mean().item()
rivals = {"unigram": unigram_log, "bigram": bigram_log, "trigram": trigram_log}
averages = {name: -table.mean().item() for name, table in rivals.items()}
averages |= {name: loss.mean().item() for name, loss in losses.items()}
blocks = {name: sum(p.numel() for p in model.blocks.parameters()) for name, model in models.items()}
print("parameters in the blocks:", blocks)

# %% [markdown]
# ### Which tokens gain?
#
# Each class's share of the average gain over A, for B and for the guard.

# %%
gain = {name: losses[A] - losses[name] for name in (B, GUARD)}
gain_by_class = {
    name: {kind: (g * mask).mean().item() for kind, mask in classes.items()} for name, g in gain.items()
}

# %% [markdown]
# ### Which component does it?
#
# Two measures for each attention layer, MLP and the embedding. Ablation: replace its output by its mean
# over all positions. Direct logit attribution: its share of the right token's logit, above the mean over
# the vocabulary, with LayerNorm's scale taken as it is.


# %%
def components(model: TransformerBridge) -> dict[str, str]:
    """Hook names of everything that writes into the residual stream."""
    names = {"embed": "hook_embed"}
    for l in range(model.cfg.n_layers):
        names[f"attn {l}"] = f"blocks.{l}.hook_attn_out"
        if not model.cfg.attn_only:
            names[f"mlp {l}"] = f"blocks.{l}.hook_mlp_out"
    return names


def mean_everywhere(out: torch.Tensor, hook: HookPoint) -> torch.Tensor:
    return out.mean(dim=(0, 1), keepdim=True).expand_as(out)


@torch.no_grad()
def by_token(model: TransformerBridge, name: str) -> tuple:
    """A hook that puts a table in the place of a component: its mean output for each current token.

    The means are taken on training text; what the table loses is what the component knew from context.
    """
    _, cache = model.run_with_cache(training_rows, names_filter=name)
    out, ids = cache[name].flatten(0, 1), training_rows.flatten()
    sums = torch.zeros(VOCABULARY, out.shape[-1], device=device).index_add_(0, ids, out)
    counts = torch.bincount(ids, minlength=VOCABULARY)[:, None]
    table = torch.where(counts > 0, sums / counts.clamp_min(1), out.mean(0))
    return (name, lambda out, hook: table[tokens])


training_rows = corpus.batch(4 * ROWS, CONTEXT, torch.Generator().manual_seed(SEED)).to(device)


@torch.no_grad()
def loss_with(model: TransformerBridge, hooks: list) -> float:
    return token_loss(model.run_with_hooks(tokens, fwd_hooks=hooks)).mean().item()


@torch.no_grad()
def attribution(model: TransformerBridge) -> dict[str, torch.Tensor]:
    """Direct logit attribution of the right token by component: {name: [row, position]}."""
    _, cache = model.run_with_cache(tokens)
    right = model.W_U.T[answers] - model.W_U.mean(1)  # [row, position, d_model]
    result = {}
    for name, hook in components(model).items():
        out = cache[hook][:, 1:-1]
        normed = (out - out.mean(-1, keepdim=True)) / cache["ln_final.hook_scale"][:, 1:-1]
        result[name] = (normed * model.ln_final.weight * right).sum(-1)
    return result


costs, written, table_costs = {}, {}, {}
for name in (A, B):
    model = models[name]
    hooks = {part: hook for part, hook in components(model).items() if part != "embed"}
    costs[name] = {
        part: loss_with(model, [(hook, mean_everywhere)]) - averages[name] for part, hook in hooks.items()
    }
    written[name] = {part: values.mean().item() for part, values in attribution(model).items()}
    table_costs[name] = {
        part: loss_with(model, [by_token(model, hook)]) - averages[name]
        for part, hook in hooks.items()
        if "mlp" in part
    }
noop = loss_with(models[B], [("blocks.0.hook_attn_out", lambda out, hook: out)])
last = models[B].cfg.n_layers - 1
everything = loss_with(models[B], [(hook, mean_everywhere) for hook in components(models[B]).values()])

# %% [markdown]
# ### What does B know after each layer?
#
# The logit lens reads the residual stream through the final LayerNorm and the unembedding before it is
# finished.


# %%
@torch.no_grad()
def lens_losses(model: TransformerBridge) -> list[float]:
    """Held-out loss if the model stopped after 0, 1, ... layers."""
    stack = logit_lens(model, tokens, positions=None).values  # [layer, row, position, token]
    return [token_loss(logits).mean().item() for logits in stack]


lens = {name: lens_losses(models[name]) for name in (A, B)}

# %% [markdown]
# ### Neurons: how concentrated are the activations?
#
# The share of the squared activation in the four largest of a position's neurons, and the excess kurtosis
# over the neurons. A random rotation of the same activations shows what no preferred basis would give.
# SoLU is read before the LayerNorm inside its MLP (Elhage et al. 2022, Softmax Linear Units). Then the
# loss if only the sixteen largest activations of a position are kept, or all but those.


# %%
def top_share(x: torch.Tensor, k: int = 4) -> float:
    squares = x.pow(2)
    return (squares.topk(k, dim=-1).values.sum(-1) / squares.sum(-1).clamp_min(1e-12)).mean().item()


def kurtosis(x: torch.Tensor) -> float:
    """Excess kurtosis over the neurons, averaged over positions: 0 for a normal distribution."""
    centred = x - x.mean(-1, keepdim=True)
    return (centred.pow(4).mean(-1) / centred.pow(2).mean(-1).pow(2).clamp_min(1e-12) - 3).mean().item()


def keep(post: torch.Tensor, hook: HookPoint, largest: bool) -> torch.Tensor:
    top = torch.zeros_like(post, dtype=torch.bool).scatter_(-1, post.abs().topk(16, dim=-1).indices, True)
    return torch.where(top == largest, post, 0.0)


neurons = {}
for name, (_, _, width, activation, _, _) in MODELS.items():
    if not width:
        continue
    model = models[name]
    hook = "blocks.0.mlp.ln.hook_in" if activation == "solu_ln" else "blocks.0.mlp.hook_post"
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, names_filter=hook)
    values = cache[hook][:, 1:-1].flatten(0, 1)
    rotation = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(SEED)))[
        0
    ].to(device)
    neurons[name] = {
        "share": top_share(values),
        "kurtosis": kurtosis(values),
        "rotated": top_share(values @ rotation),
        "only top 16": loss_with(model, [("blocks.0.mlp.hook_post", lambda p, hook: keep(p, hook, True))])
        - averages[name],
        "without top 16": loss_with(model, [("blocks.0.mlp.hook_post", lambda p, hook: keep(p, hook, False))])
        - averages[name],
    }
    print(name, {key: round(value, 3) for key, value in neurons[name].items()})

# %% [markdown]
# ### Mistakes repaired, and mistakes made
#
# Tokens where A gives a wrong token more than 0.25 and B's best guess is right, and the reverse.
# With the guard in B's place the same counts say how much of it is chance. For the repaired ones: does
# the component of A that pushes the wrong token most still push it in B?


# %%
@torch.no_grad()
def guesses(model: TransformerBridge) -> tuple[torch.Tensor, torch.Tensor]:
    """Best guess at every position, and whether it is confidently wrong."""
    best, guess = model(tokens)[:, 1:-1].softmax(-1).max(-1)
    return guess, (best > 0.25) & (guess != answers)


(guess_a, wrong_a), (guess_b, wrong_b) = guesses(models[A]), guesses(models[B])
guess_guard, _ = guesses(models[GUARD])
repaired, broken = wrong_a & (guess_b == answers), wrong_b & (guess_a == answers)


@torch.no_grad()
def push(model: TransformerBridge, where: torch.Tensor) -> dict[str, float]:
    """Each component's push towards A's wrong token and against the right one, over the given places."""
    _, cache = model.run_with_cache(tokens)
    direction = (model.W_U.T[guess_a] - model.W_U.T[answers])[where]
    result = {}
    for name, hook in components(model).items():
        out = cache[hook][:, 1:-1][where]
        normed = (out - out.mean(-1, keepdim=True)) / cache["ln_final.hook_scale"][:, 1:-1][where]
        result[name] = (normed * model.ln_final.weight * direction).sum(-1).mean().item()
    return result


places = repaired if repaired.any() else torch.ones_like(repaired)
pushes = {name: push(models[name], places) for name in (A, B)}

# %%
metrics = {
    "bigram_loss": averages["bigram"],
    "loss_a": averages[A],
    "loss_b": averages[B],
    "gain_b": gain[B].mean().item(),
    "gain_guard": gain[GUARD].mean().item(),
    "gain_net": (gain[B] - gain[GUARD]).mean().item(),
    "untrained_loss": untrained_loss,
    "all_ablated": everything,
    "noop_change": abs(noop - averages[B]),
    "gain_after_bigram": averages["bigram"] - averages[B],
    "gain_sure_share": gain_by_class[B]["bigram sure"] / max(abs(gain[B].mean().item()), 1e-9),
    "attn_0_cost": costs[B]["attn 0"],
    "lens_drop": lens[B][0] - lens[B][-1],
    "lens_last_layer": lens[B][-2] - lens[B][-1],
    "repaired": repaired.float().mean().item() * 1000,
    "broken": broken.float().mean().item() * 1000,
    "repaired_by_guard": (wrong_a & (guess_guard == answers)).float().mean().item() * 1000,
    "repaired_net": (repaired.float() - (wrong_a & (guess_guard == answers)).float()).mean().item() * 1000,
    "push_a": sum(pushes[A].values()),
    "push_b": sum(pushes[B].values()),
}
for name, role in ((A, "a"), (B, "b"), (GUARD, "guard")):
    for key, value in neurons.get(name, {}).items():
        metrics[f"{key.replace(' ', '_')}_{role}"] = value
for part, cost in costs[B].items():
    metrics[f"cost_{part.replace(' ', '_')}"] = cost
for part, cost in table_costs[B].items():
    metrics[f"context_share_{part.replace(' ', '_')}"] = cost / max(costs[B][part], 1e-9)

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 3, f"{A} against {B} ({GUARD} as guard): one difference, taken apart")
plots.loss_curves(
    axes[0], history, list(MODELS), title="Loss on held-out text", log=False,
    marks={name: averages[name] for name in rivals},
)  # fmt: skip
axes[0].set_ylim(min(averages.values()) - 0.2, averages["unigram"] + 0.3)
spots = torch.arange(len(classes))
for offset, colour, name in ((-0.2, 1, B), (0.2, 0, GUARD)):
    axes[1].bar(spots + offset, list(gain_by_class[name].values()), 0.4, color=plots.COLOURS[colour],
                label=f"{name}: {gain[name].mean():+.3f} in all")  # fmt: skip
axes[1].axhline(0, color="0.2", linewidth=0.6)
axes[1].set_xticks(spots, list(classes), rotation=20)
axes[1].legend(fontsize=8, frameon=False)
plots.label(axes[1], f"Gain over {A}, by class of token", "", "part of the mean gain (nats)")
for ax, measures, title, y in (
    (axes[2], costs, "Each part replaced by its mean", "loss added (nats)"),
    (axes[3], written, "Direct logit attribution of the right token", "logit above the vocabulary's mean"),
    (axes[5], pushes, f"{int(repaired.sum())} mistakes of {A} that {B} repairs:\nwho pushes the wrong token",
     "wrong less right token (logits)"),
):  # fmt: skip
    bars = {f"{name}\n{part}": value for name, parts in measures.items() for part, value in parts.items()}
    plots.bars(ax, bars, title, y=y, highlight=[name for name in bars if name.startswith(f"{B}\n")])
    ax.tick_params(axis="x", labelrotation=60 if len(bars) > 5 else 30)
if PAIR == "gelu-solu":
    concentration = {
        f"{name}{text}": neurons[name][key]
        for name in neurons
        for key, text in (("share", ""), ("rotated", ", rotated"))
    }
    plots.bars(
        axes[4], concentration, "Squared activation in the 4 largest neurons", y="share", highlight=[B]
    )
else:
    for index, name in enumerate((A, B)):
        axes[4].plot(
            range(len(lens[name])), lens[name], "os"[index] + "-", color=plots.COLOURS[index], label=name
        )
    axes[4].legend(fontsize=8, frameon=False)
    axes[4].set_xticks(range(len(lens[B])))
    plots.label(axes[4], "Logit lens: loss if the model stopped here", "layers done", "loss (nats)")
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
