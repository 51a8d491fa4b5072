"""Explain one neuron of a small language model: what fires it, what it says, and what that is worth.

    python experiment.py              the run that expected.json describes
    python experiment.py --seed 1     another model, another neuron
    python experiment.py --layers 2   a second layer reads what the neuron writes

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## One neuron, from both ends
#
# A neuron of the first layer reads the embedding of the current token plus what the heads brought there, and
# writes one fixed vector, scaled by its activation. Both ends are products of known matrices (Elhage et al.
# 2021, A Mathematical Framework for Transformer Circuits, does this for heads). So a story about a neuron can
# be tested: a rule must predict the activation on new text, weak firings included, and must be able to stand
# in for the neuron. Labels read off the top examples alone often fail that (Gurnee et al. 2023,
# arXiv:2305.01610).

# %%
import torch
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from lab import plots
from lab.results import start_run
from lab.text import bigram_log_probs, documentation, load_corpus
from lab.train import train

# %% knobs
SEED = 0  # weights, batches, and the random neurons of the controls
LAYERS = 1  # transformer layers; the neuron is always one of the first layer
D_MODEL = 48  # width of the residual stream
D_MLP = 96  # neurons in a layer
HEADS = 4  # attention heads in a layer
VOCABULARY = 512  # tokens: frequent words whole, the rest spelled in characters
LENGTH = 32  # tokens in a window
BATCH = 64  # windows in a step
STEPS = 220  # training steps
LR = 1e-2  # AdamW, cosine down to zero
WEIGHT_DECAY = 0.1  # decoupled, of AdamW
ROWS = 300  # windows for each of: fitting the rule, and the final test
SHRINK = 3.0  # pseudo-counts that pull rare tokens of the rule towards no effect

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
windows = corpus.held_out(10**9, LENGTH)
test, choose = windows[::6][:ROWS].to(device), windows[3::12][: ROWS // 2].to(device)
fit = corpus.batch(3 * ROWS, LENGTH, torch.Generator().manual_seed(SEED + 1)).to(device)


def build() -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL // HEADS, n_heads=HEADS, n_layers=LAYERS, n_ctx=LENGTH,
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

# %% [markdown]
# ### Baselines, and one clean-up of the weights
#
# `enable_compatibility_mode` folds LayerNorm's gains into the next matrices and centres what is written to
# the residual stream. Log-probabilities stay the same. Once only: a second call would fold twice.

# %%
bigram = bigram_log_probs(corpus.train, VOCABULARY).to(device)
unigram = (torch.bincount(corpus.train, minlength=VOCABULARY) + 1.0).to(device)
unigram = (unigram / unigram.sum()).log()
with torch.no_grad():
    before = losses(model(test), test)
    model.enable_compatibility_mode()
    _, cache = model.run_with_cache(test)
    clean = losses(model(test), test)
    level = {
        "the model": clean.mean().item(),
        "bigrams": -bigram[test[:, :-1], test[:, 1:]].mean().item(),
        "unigrams": -unigram[test[:, 1:]].mean().item(),
        "untrained": losses(build()(test), test).mean().item(),
    }
print({name: round(value, 3) for name, value in level.items()})

# %% [markdown]
# ### Choose by effect, not by charm
#
# The rule: of the neurons that fire on fewer than a fifth of the tokens, take the one with the largest direct
# effect on the loss when mean-ablated, on windows kept for this choice. "Fires" means: above a quarter of its
# 99.9th percentile. `direct` changes the neuron's term in the final residual stream only; `total` lets
# everything downstream answer. In one layer the two are the same thing, which checks the bookkeeping.

# %%
PRE, POST = "blocks.0.mlp.hook_pre", "blocks.0.mlp.hook_post"
W_in, W_out, b_in = model.W_in[0].detach(), model.W_out[0].detach(), model.b_in[0].detach()
with torch.no_grad():
    fit_pre = model.run_with_cache(fit, names_filter=PRE)[1][PRE]  # [row, position, neuron]
    fit_acts = F.gelu(fit_pre)
mean = fit_acts.mean((0, 1))
threshold = fit_acts.flatten(0, 1).quantile(0.999, dim=0) / 4
rate = (fit_acts > threshold).float().mean((0, 1))


@torch.no_grad()
def loss_with(tokens: torch.Tensor, neurons: list[int], values: torch.Tensor) -> torch.Tensor:
    """Per-token loss with the activations of some neurons replaced; values [..., neuron]."""

    def replace(acts: torch.Tensor, hook) -> torch.Tensor:
        acts = acts.clone()
        acts[..., neurons] = values.expand_as(acts[..., neurons])
        return acts

    return losses(model.run_with_hooks(tokens, fwd_hooks=[(POST, replace)]), tokens)


@torch.no_grad()
def loss_less(tokens: torch.Tensor, write: torch.Tensor, place: str) -> torch.Tensor:
    """Per-token loss with ``write`` subtracted at one place; whoever else reads it still sees it."""
    hooks = [(place, lambda value, hook: value - write)]
    return losses(model.run_with_hooks(tokens, fwd_hooks=hooks), tokens)


with torch.no_grad():
    _, chosen = model.run_with_cache(choose)
    base, final = losses(model(choose), choose).mean(), chosen["resid_post", LAYERS - 1]
    direct = torch.zeros(D_MLP, device=device)
    for n in range(D_MLP):
        write = (chosen["post", 0][..., n, None] - mean[n]) * W_out[n]
        direct[n] = losses(model.unembed(model.ln_final(final - write)), choose).mean() - base
sparse = rate < 0.2 if (rate < 0.2).any() else rate <= rate.min()
neuron = int(direct.masked_fill(~sparse, -1e9).argmax())
others = torch.randperm(D_MLP, generator=torch.Generator().manual_seed(SEED)).tolist()
others = [n for n in others if n != neuron and sparse[n]][:15] or [1 - min(neuron, 1)]  # random controls
some = [neuron, *others]
total = torch.stack([loss_with(choose, [n], mean[n]).mean() - base for n in some])
acts = cache["post", 0][..., neuron]
pre = cache["pre", 0][..., neuron]
order = acts[:, 1:].flatten().topk(8).indices.tolist()
print(f"neuron {neuron}: fires on {rate[neuron]:.3f} of the tokens; strongest on")
for index in order:
    row, position = divmod(index, LENGTH - 1)
    shown = corpus.tokenizer.decode(test[row, max(0, position - 6) : position + 2].tolist())
    print(f"  {acts[row, position + 1]:6.2f}  {shown!r}")

# %% [markdown]
# ### The input side, from the weights
#
# With the LayerNorm scale held at its value, the pre-activation is a sum: the embedding of the current token,
# one term for each head, the biases. The parts must add up. A head's term, for a source token, is
# `W_E -> OV -> W_in`: what that token adds if the head attends to it fully.

# %%
scale = cache["blocks.0.ln2.hook_scale"][..., 0]
parts = {"current token": cache["blocks.0.hook_resid_pre"] @ W_in[:, neuron] / scale}
for head in range(HEADS):
    parts[f"head {head}"] = cache["z", 0][:, :, head] @ model.W_O[0, head] @ W_in[:, neuron] / scale
bias = model.b_O[0] @ W_in[:, neuron] / scale + b_in[neuron]
input_error = (sum(parts.values()) + bias - pre).abs().max().item()
centred = pre - pre.mean()
share = {name: (part * centred).mean().item() / pre.var().item() for name, part in parts.items()}
with torch.no_grad():
    embedded = model.blocks[0].ln1(model.W_E.detach())
    sources = torch.stack(
        [embedded @ model.W_V[0, h] @ model.W_O[0, h] @ W_in[:, neuron] for h in range(HEADS)]
    )  # [head, source token]
    pattern = cache["pattern", 0]
    itself = pattern.diagonal(0, -2, -1).mean((0, 2))  # attention of each head to the current token
    neighbour = pattern.diagonal(-1, -2, -1).mean((0, 2))  # and to the one before
    token_drive = (model.W_E @ W_in[:, neuron] + itself @ sources) / scale.mean()
    previous_drive = neighbour @ sources / scale.mean()

# %% [markdown]
# ### A rule for the activation
#
# `gelu(a[current token] + b[previous token])`, two look-up tables fitted on training text, tested on
# held-out text. Controls: the first table alone; the same rule fitted to shuffled activations; another
# neuron's rule.


# %%
def table(values: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Shrunken mean of ``values`` for each token in ``keys``."""
    keys, values = keys.flatten(), values.flatten()
    counts = torch.bincount(keys, minlength=VOCABULARY) + SHRINK
    return torch.bincount(keys, weights=values, minlength=VOCABULARY).float() / counts


def rule(target: torch.Tensor, look_back: bool = True) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Offset, table of the current token, table of the previous token, fitted in turns."""
    now, last, middle = fit[:, 1:], fit[:, :-1], target[:, 1:].mean()
    current, previous = torch.zeros(2, VOCABULARY, device=device)
    for _ in range(3):
        current = table(target[:, 1:] - middle - previous[last], now)
        if look_back:
            previous = table(target[:, 1:] - middle - current[now], last)
    return middle, current, previous


def predict(fitted: tuple[torch.Tensor, ...], tokens: torch.Tensor) -> torch.Tensor:
    """The rule's activation [row, position - 1], for every token but <start>."""
    middle, current, previous = fitted
    return F.gelu(middle + current[tokens[:, 1:]] + previous[tokens[:, :-1]])


def r_squared(guess: torch.Tensor, truth: torch.Tensor) -> float:
    return 1 - ((guess - truth).pow(2).mean() / truth.var().clamp_min(1e-9)).item()


def correlation(x: torch.Tensor, y: torch.Tensor) -> float:
    return torch.nan_to_num(torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1]).item()


fitted = rule(fit_pre[..., neuron])
mixed = torch.randperm(fit.numel(), generator=torch.Generator().manual_seed(SEED)).to(device)
guesses = {
    "rule": predict(fitted, test),
    "current token only": predict(rule(fit_pre[..., neuron], look_back=False), test),
    "fitted to shuffled": predict(rule(fit_pre[..., neuron].flatten()[mixed].view_as(fit)), test),
    "another neuron's rule": predict(rule(fit_pre[..., others[0]]), test),
}
truth = acts[:, 1:]
r2 = {name: r_squared(guess, truth) for name, guess in guesses.items()}
r2_others = [r_squared(predict(rule(fit_pre[..., n]), test), cache["post", 0][:, 1:, n]) for n in others[:8]]

# %% [markdown]
# ### Substitute the rule for the neuron
#
# Repaired = the share of the mean-ablation damage that goes away when the rule's number stands in place of
# the mean. The neuron's own values must repair all of it (the no-op), the shuffled rule nothing.


# %%
def damage(values: torch.Tensor, which: list[int]) -> torch.Tensor:
    """Loss added on the test windows, per token, by replaced activations."""
    return loss_with(test, which, values) - clean


def with_start(guess: torch.Tensor) -> torch.Tensor:
    """Values for every position, as [row, position, 1]; <start> keeps its own."""
    return torch.cat([acts[:, :1], guess], dim=1)[..., None]


ablated = damage(mean[neuron], [neuron])
repaired = {
    name: 1 - (damage(with_start(guess), [neuron]).mean() / ablated.mean()).item()
    for name, guess in guesses.items()
}
firing = acts[:, :-1] > threshold[neuron]
metrics = {
    "loss": level["the model"],
    "gain_over_bigrams": level["bigrams"] - level["the model"],
    "untrained_loss": level["untrained"],
    "input_error": input_error,
    "weights_correlation": correlation(token_drive[fit], fitted[1][fit]),
    "weights_correlation_previous": correlation(previous_drive[fit], fitted[2][fit]),
    "r2_rule": r2["rule"],
    "r2_gain_previous_token": r2["rule"] - r2["current token only"],
    "r2_shuffled": r2["fitted to shuffled"],
    "r2_other_neurons": sum(r2_others) / len(r2_others),
    "repaired_by_rule": repaired["rule"],
    "repaired_by_shuffled": repaired["fitted to shuffled"],
    "damage_neuron": ablated.mean().item(),
    "damage_random": sum(damage(mean[n], [n]).mean().item() for n in others) / len(others),
    "damage_all_neurons": damage(mean, list(range(D_MLP))).mean().item(),
    "damage_share_when_firing": (ablated[firing].sum() / ablated.sum()).item(),
    "noop_change": damage(cache["post", 0][..., neuron : neuron + 1], [neuron]).abs().max().item(),
}

# %% [markdown]
# ### The output side
#
# `W_out @ W_U` is what the neuron says directly. Check it: add 1 to the activation everywhere and see which
# logits move. In one layer only the final LayerNorm stands between; in two, later heads and neurons read the
# neuron too, and these routes can be cut one by one (take the neuron's write out of that input alone).

# %%
with torch.no_grad():
    said = W_out[neuron] @ model.W_U
    plain = model(test)
    pushed = model.run_with_hooks(
        test, fwd_hooks=[(POST, lambda a, hook: a + F.one_hot(torch.tensor(neuron), D_MLP).to(a))]
    )
    shift = (pushed - plain).mean((0, 1))
up = said.topk(6).indices.tolist()
write = (acts - mean[neuron])[..., None] * W_out[neuron]
routes = {"direct": (loss_less(test, write, "ln_final.hook_in") - clean).mean().item()}
for layer in range(1, LAYERS):
    for reader, norm in (("heads", "ln1"), ("neurons", "ln2")):
        lost = loss_less(test, write, f"blocks.{layer}.{norm}.hook_in") - clean
        routes[f"{reader} of {layer}"] = lost.mean().item()
metrics["output_correlation"] = correlation(said, shift)
metrics["direct_share"] = routes["direct"] / metrics["damage_neuron"]
metrics["routes_share"] = sum(routes.values()) / metrics["damage_neuron"]
metrics["direct_against_total"] = correlation(direct[some], total)
routes["total"] = metrics["damage_neuron"]
print("raises", [word(t) for t in up], "lowers", [word(t) for t in (-said).topk(6).indices.tolist()])

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 4, f"Neuron {neuron} of layer 0; the model has {LAYERS} layer(s)")
plots.bars(axes[0], level, "Loss on held-out text", y="nats per token", highlight=["the model"])
axes[1].scatter(direct[others].cpu(), total[1:].cpu(), s=14, color="0.5", label="random sparse neurons")
axes[1].plot(direct[neuron].cpu(), total[0].cpu(), "*", ms=11, color="tab:red", label=f"neuron {neuron}")
axes[1].axline((0, 0), slope=1, color="0.5", linewidth=0.8, linestyle=":")
axes[1].legend(fontsize=8, frameon=False, loc="upper left")
plots.label(axes[1], "Mean-ablating one neuron", "direct effect on the loss (nats)", "total effect (nats)")
plots.bars(axes[2], share, "Its input's variance, by source", y="share", highlight=["current token"])
fires = [("now", fitted[1], plots.COLOURS[0]), ("before", fitted[2], plots.COLOURS[1])]
names, heights, colours = [], [], []
for place, values, colour in fires:
    common = torch.bincount(fit.flatten(), minlength=VOCABULARY) >= 10
    for index in values.masked_fill(~common, -1e9).topk(8).indices.tolist():
        names.append(f"{place}: {word(index)}")
        heights.append(values[index].item())
        colours.append(colour)
axes[3].barh(range(len(names)), heights, color=colours)
axes[3].set_yticks(range(len(names)), names)
axes[3].invert_yaxis()
plots.label(axes[3], "The rule: tokens that push it up most", "added to the pre-activation")
axes[4].scatter(guesses["rule"].cpu(), truth.cpu(), s=3, alpha=0.3, color=plots.COLOURS[0])
axes[4].axline((0, 0), slope=1, color="0.5", linewidth=0.8, linestyle=":")
plots.label(axes[4], f"On held-out text, R² = {r2['rule']:.2f}", "activation by the rule", "true activation")
plots.bars(axes[5], repaired, "Damage repaired by a stand-in", y="share repaired", highlight=["rule"])
axes[6].scatter(said.cpu(), shift.cpu(), s=6, color=plots.COLOURS[0])
raised = "raises: " + ",  ".join(word(t) for t in up[:5])
axes[6].annotate(raised, (0.03, 0.93), xycoords="axes fraction", fontsize=8)
title = f"Push it by 1: correlation {metrics['output_correlation']:.2f}"
plots.label(axes[6], title, "W_out @ W_U", "logits move by (nats)")
plots.bars(
    axes[7], routes | {"random neurons": metrics["damage_random"]},
    "Loss added by cutting one route of the neuron", y="nats per token", highlight=["total"],
)  # fmt: skip
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
