"""Predict the direction that should switch a neuron on, from embeddings and OV matrices, and test it.

    python experiment.py            the run that expected.json describes
    python experiment.py --seed 1   another model

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## From tokens to a direction, without looking at the neuron
#
# If a one-layer model computes a feature such as "the last token was a digit", the residual stream before the
# MLP has a direction for it, made of known pieces: the embeddings of the signal tokens, and what each head's
# OV matrix turns those embeddings into (Elhage et al. 2021, A Mathematical Framework for Transformer
# Circuits). Derive the direction first. Then ask: does the neuron that follows the feature read along it? If
# features lie in superposition (Elhage et al. 2022, arXiv:2209.10652), expect a partial match.

# %%
import torch
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from lab import plots
from lab.results import start_run
from lab.text import documentation, load_corpus
from lab.train import train

# %% knobs
SEED = 0  # weights, batches, random directions and token sets
D_MODEL = 48  # width of the residual stream
D_MLP = 96  # neurons in a layer
HEADS = 4  # attention heads in a layer
VOCABULARY = 512  # tokens: frequent words whole, the rest spelled in characters
LENGTH = 32  # tokens in a window
BATCH = 64  # windows in a step
STEPS = 220  # training steps
LR = 1e-2  # AdamW, cosine down to zero
WEIGHT_DECAY = 0.1  # decoupled, of AdamW
ROWS = 300  # windows for choosing neurons, and as many held-out ones for the test
RANDOM = 100  # random directions, and random token sets, in each null
DOSE = 0.5  # size of the push, in mean norms of the residual stream

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### Text, model, training
#
# Python's own documentation, so that nothing is downloaded. GELU neurons, rotary positions (so the residual
# stream holds tokens only), and a tenth of the documents held out.

# %%
corpus = load_corpus(documentation(), VOCABULARY)
word = corpus.tokenizer.token
test = corpus.held_out(10**9, LENGTH)[::6][:ROWS].to(device)  # from all held-out documents
fit = corpus.batch(ROWS, LENGTH, torch.Generator().manual_seed(SEED + 1)).to(device)


def build() -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL // HEADS, n_heads=HEADS, n_layers=1, n_ctx=LENGTH,
        d_vocab=VOCABULARY, d_mlp=D_MLP, act_fn="gelu", attn_only=False, normalization_type="LN",
        positional_embedding_type="rotary",
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=SEED,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


def losses(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Next-token loss in nats, [row, position - 1]."""
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")


model = build()
generator = torch.Generator().manual_seed(SEED)


def loss_at(step: int) -> torch.Tensor:
    tokens = corpus.batch(BATCH, LENGTH, generator).to(device)
    return losses(model(tokens), tokens).mean()


train(model, loss_at, steps=STEPS, lr=LR, weight_decay=WEIGHT_DECAY, decay=True)

# %%
untrained = build()
for net in (model, untrained):
    net.enable_compatibility_mode()  # folds LayerNorm into W_in and centres the writes; once for each model

# %% [markdown]
# ### Features, as sets of signal tokens
#
# Written down before any neuron is looked at. "now" features are about the current token, "before" features
# about the one before it: the second kind can only arrive through a head.

# %%
texts = corpus.tokenizer.vocabulary
SETS = {
    "digit": lambda t: t.strip().isdigit(),
    "line break": lambda t: "\n" in t,
    "indent": lambda t: t.startswith("  ") and not t.strip(),
    "capital": lambda t: t.strip()[:1].isupper(),
    "preposition": lambda t: t.strip() in {"of", "in", "to", "for", "with", "by", "from", "on", "as"},
    "article": lambda t: t.strip().lower() in {"the", "a", "an", "this"},
}
signals = {
    name: torch.tensor([float(test_(t)) for t in texts], device=device) for name, test_ in SETS.items()
}
features = [(name, offset) for name in SETS for offset in (0, 1)]  # offset 1: the token before
titles = [f"{name} {'before' if offset else 'now'}" for name, offset in features]


def labels(signal: torch.Tensor, offset: int, tokens: torch.Tensor) -> torch.Tensor:
    """Whether the feature holds, [row, position - 1]; <start> is left out."""
    return signal[tokens[:, :-1] if offset else tokens[:, 1:]] > 0


# %% [markdown]
# ### The prediction
#
# Mean embedding of the signal tokens less that of the others, each weighted by how common it is. A "now"
# feature takes the direct path plus each head's OV times its mean attention to the current token; a "before"
# feature only OV times the mean attention to the token before. Nothing of the MLP enters.

# %%
frequency = torch.bincount(corpus.train, minlength=VOCABULARY).float().to(device)


@torch.no_grad()
def predicted(
    net: TransformerBridge, signal: torch.Tensor, offset: int, pattern: torch.Tensor
) -> torch.Tensor:
    """The derived direction in the residual stream before the MLP, [d_model]."""
    W_E = net.W_E.detach()
    inside, outside = signal * frequency, (1 - signal) * frequency

    def contrast(rows: torch.Tensor) -> torch.Tensor:
        return inside @ rows / inside.sum().clamp_min(1) - outside @ rows / outside.sum().clamp_min(1)

    direction = contrast(W_E) if offset == 0 else torch.zeros(D_MODEL, device=device)
    normed = net.blocks[0].ln1(W_E)
    for head in range(HEADS):
        attention = pattern[:, head, 1:].diagonal(1 - offset, -2, -1).mean()
        direction = direction + attention * contrast(normed) @ net.W_V[0, head] @ net.W_O[0, head]
    return direction


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm(dim=-1, keepdim=True).clamp_min(1e-9)


def correlations(label: torch.Tensor, pre: torch.Tensor) -> torch.Tensor:
    """Correlation of a label [row, position] with each neuron's pre-activation, [neuron]."""
    y = label.float().flatten() - label.float().mean()
    x = pre.flatten(0, 1) - pre.mean((0, 1))
    return y @ x / (y.norm() * x.norm(dim=0)).clamp_min(1e-9)


@torch.no_grad()
def study(net: TransformerBridge) -> dict[str, torch.Tensor]:
    """For each feature: the neuron that follows it, the derived and the measured direction."""
    cache = net.run_with_cache(fit)[1]
    pre, resid, pattern = cache["pre", 0][:, 1:], cache["resid_mid", 0][:, 1:], cache["pattern", 0]
    neurons, follow, derived, measured = [], [], [], []
    for name, offset in features:
        label = labels(signals[name], offset, fit)
        r = correlations(label, pre)
        neurons.append(r.argmax())  # chosen by its activations, not by its weights
        follow.append(r.max())
        derived.append(predicted(net, signals[name], offset, pattern))
        measured.append(resid[label].mean(0) - resid[~label].mean(0))
    columns = {"neuron": neurons, "follow": follow, "derived": derived, "measured": measured}
    stacked = {name: torch.stack(values) for name, values in columns.items()}
    return stacked | {"pattern": pattern, "resid": resid}


found, control = study(model), study(untrained)
W_in = model.W_in[0].detach()  # [d_model, neuron]
cosines = unit(found["derived"]) @ unit(W_in.T).T  # [feature, neuron]
index = torch.arange(len(features), device=device)
own = cosines[index, found["neuron"]]
rank = (cosines > own[:, None]).sum(1) + 1  # 1: the neuron that follows the feature is also the best match
own_measured = (unit(found["measured"]) * unit(W_in.T)[found["neuron"]]).sum(-1)
own_untrained = (unit(control["derived"]) * unit(untrained.W_in[0].detach().T)[control["neuron"]]).sum(-1)
agreement = (unit(found["derived"]) * unit(found["measured"])).sum(-1)

# %% [markdown]
# ### Two nulls
#
# Zero is not the null, since the stream has a few dominant directions. So: random directions with the
# covariance of the data, and the same derivation for random token sets of equal size. The untrained model is
# the third: there too the neuron was picked for following the feature, which alone makes some cosine.

# %%
dice = torch.Generator().manual_seed(SEED + 2)
centred = (found["resid"] - found["resid"].mean((0, 1))).flatten(0, 1)
matched = unit(torch.randn(RANDOM, len(centred), generator=dice).to(device) @ centred)  # [draw, d_model]
null_data = matched @ unit(W_in.T)[found["neuron"]].T  # [draw, feature]
null_sets = []
for feature, (name, offset) in enumerate(features):
    column = unit(W_in.T)[found["neuron"][feature]]
    for _ in range(RANDOM // 10):
        mixed = signals[name][torch.randperm(VOCABULARY, generator=dice).to(device)]
        null_sets.append(unit(predicted(model, mixed, offset, found["pattern"])) @ column)
null_sets = torch.stack(null_sets)

# %% [markdown]
# ### Push along it, on held-out text where the feature is absent
#
# On a native bridge `blocks.0.hook_resid_mid` feeds the MLP only, which is what is wanted here. Compare the
# derived direction with matched random ones, with the neuron's own W_in (the best any direction can do), and
# with what the push does to all other neurons.

# %%
with torch.no_grad():
    _, cache = model.run_with_cache(test)
rest = cache["pre", 0][:, 1:]
norm = cache["resid_mid", 0][:, 1:].norm(dim=-1).mean()


@torch.no_grad()
def pre_after(direction: torch.Tensor, dose: float) -> torch.Tensor:
    """Pre-activations [row, position - 1, neuron] after a push of ``dose`` mean norms."""
    move = dose * norm * unit(direction)
    seen = {}
    model.run_with_hooks(
        test,
        fwd_hooks=[
            ("blocks.0.hook_resid_mid", lambda resid, hook: resid + move),
            ("blocks.0.mlp.hook_pre", lambda pre, hook: seen.update(pre=pre)),
        ],
    )
    return seen["pre"][:, 1:]


def rise(direction: torch.Tensor, feature: int, dose: float) -> torch.Tensor:
    """Mean change of every neuron's pre-activation where the feature is absent, [neuron]."""
    name, offset = features[feature]
    return (pre_after(direction, dose) - rest)[~labels(signals[name], offset, test)].mean(0)


pushed = torch.stack([rise(found["derived"][f], f, DOSE) for f in index.tolist()])
best = torch.stack([rise(W_in[:, n], f, DOSE)[n] for f, n in enumerate(found["neuron"].tolist())])
placebo = torch.stack([rise(matched[f], f, DOSE)[found["neuron"][f]] for f in range(len(features))])
pushed_own = pushed[index, found["neuron"]]
noop = (pre_after(found["derived"][0], 0.0) - rest).abs().max().item()

# %% [markdown]
# ### What is left of the neuron's weights?
#
# Project the prediction out of W_in and see which tokens the remainder answers to.

# %%
shown = int(own.argmax())
neuron = int(found["neuron"][shown])
along = unit(found["derived"][shown])
remainder = W_in[:, neuron] - (W_in[:, neuron] @ along) * along
common = frequency > frequency.sum() / 2000
for name, vector in (("W_in", W_in[:, neuron]), ("remainder", remainder)):
    top = (model.W_E.detach() @ vector).masked_fill(~common, -1e9).topk(8).indices.tolist()
    print(f"{titles[shown]}, neuron {neuron}, {name} reads {[corpus.tokenizer.token(t) for t in top]}")
now = torch.tensor([offset == 0 for _, offset in features], device=device)
metrics = {
    "loss": losses(model(test), test).mean().item(),
    "cosine_now": own[now].mean().item(),
    "cosine_before": own[~now].mean().item(),
    "cosine_untrained": own_untrained.mean().item(),
    "cosine_measured": own_measured.mean().item(),
    "derived_against_measured": agreement.mean().item(),
    "null_random_sets": null_sets.mean().item(),
    "null_matched_spread": null_data.std().item(),
    "share_ranked_in_top_ten": (rank <= max(1, D_MLP // 10)).float().mean().item(),
    "follow_trained": found["follow"].mean().item(),
    "follow_untrained": control["follow"].mean().item(),
    "push_derived": (pushed_own / best).mean().item(),
    "push_random": (placebo.abs() / best).mean().item(),
    "push_other_neurons": (pushed.abs().mean(1) / best).mean().item(),
    "noop_change": noop,
}

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 3, "A direction derived from embeddings and OV, and the neuron's input weights")
spots = torch.arange(len(features))
axes[0].barh(spots - 0.3, own.cpu(), 0.28, color=plots.COLOURS[1], label="derived")
axes[0].barh(spots, own_measured.cpu(), 0.28, color=plots.COLOURS[0], label="measured (difference of means)")
axes[0].barh(spots + 0.3, own_untrained.cpu(), 0.28, color="0.6", label="derived, untrained model")
axes[0].set_yticks(spots, titles)
axes[0].invert_yaxis()
axes[0].set_xlim(min(-0.1, own.min().item(), own_untrained.min().item()), 1.0)
axes[0].legend(fontsize=7, frameon=False, loc="lower right")
plots.label(axes[0], "Cosine with W_in of the neuron that follows it", "cosine")
axes[1].hist(cosines[shown].cpu(), 30, color="0.6")
axes[1].axvline(own[shown].item(), color=plots.COLOURS[1], linestyle="--", label=f"neuron {neuron}")
axes[1].legend(fontsize=8, frameon=False)
plots.label(axes[1], f"'{titles[shown]}': all neurons", "cosine, W_in and derived direction", "neurons")
bins = torch.linspace(-1, 1, 41).numpy()
for values, name, colour in (
    (null_data.flatten(), "random, data covariance", "0.6"),
    (null_sets, "derived from random token sets", plots.COLOURS[0]),
    (own, "derived from the signal tokens", plots.COLOURS[1]),
):
    weights = torch.ones(values.numel()) / values.numel()
    axes[2].hist(values.cpu(), bins, weights=weights, alpha=0.7, color=colour, label=name)
axes[2].legend(fontsize=7.5, frameon=False, loc="upper left")
plots.label(axes[2], "All features, with their nulls", "cosine with W_in", "share of draws")
doses = [-0.5, 0.0, 0.5, 1.0]
for values, name, colour, style in (
    (W_in[:, neuron], "its own W_in", "black", ":"),
    (found["derived"][shown], "derived", plots.COLOURS[1], "-"),
    (found["measured"][shown], "measured", plots.COLOURS[0], "--"),
    (matched[0], "random", "0.6", "-"),
    (matched[1], "another random", "0.6", "--"),
):
    curve = [rise(values, shown, dose)[neuron].item() for dose in doses]
    axes[3].plot(doses, curve, style, color=colour, marker="o", ms=3, label=name)
axes[3].legend(fontsize=8, frameon=False)
plots.label(axes[3], f"Dose and response, neuron {neuron}", "push (norms)", "pre-activation rises by")
ratios = {
    "derived": metrics["push_derived"],
    "random": metrics["push_random"],
    "derived, on\nother neurons": metrics["push_other_neurons"],
}
plots.bars(axes[4], ratios, "Effect of a push, mean of all features", y="share of a push along W_in",
           highlight=["derived"])  # fmt: skip
axes[5].scatter(found["follow"].cpu(), own.cpu(), s=18, color=plots.COLOURS[1])
for feature, title in enumerate(titles):
    spot = (found["follow"][feature].item(), own[feature].item())
    shift = (3, 3 if feature % 2 else -9)
    axes[5].annotate(title, spot, xytext=shift, textcoords="offset points", fontsize=7)
axes[5].margins(x=0.25)
plots.label(axes[5], "Does a good follower read it?", "correlation with the feature", "cosine with W_in")
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
