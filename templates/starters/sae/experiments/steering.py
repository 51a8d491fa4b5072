"""Steering with a feature: add its direction, and weigh what was wanted against what was not.

    python experiment.py                    the run that expected.json describes
    python experiment.py --seed 1           another model, other features
    python experiment.py --features 20      more features, in the order of their effect

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## What does a push along a feature do?
#
# A latent of a sparse autoencoder writes one direction. Add it where the latent is silent, and the model
# should act as if the feature were there. Three amusing samples prove little: any large push changes any
# model, and a push that makes one word certain always "works". So state beforehand what is wanted (tokens
# that follow the feature in text), measure it beside all that was not wanted, at several doses, against
# random directions of the same length. Templeton et al. 2024 (Scaling Monosemanticity,
# transformer-circuits.pub) made steering with features popular; Arditi et al. 2024 (arXiv:2406.11717) show
# how much one direction can carry.

# %%
import torch
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from lab import directions, plots
from lab.dictionary_metrics import measure, next_token_loss
from lab.results import start_run
from lab.sae import Options, SparseAutoencoder
from lab.sae_training import train_sae
from lab.text import documentation, load_corpus
from lab.train import train

# %% knobs
SEED = 0  # weights of model and dictionary, batches, random directions
LATENTS = 512  # of the dictionary
K = 8  # latents for each token
FEATURES = 12  # features that are steered with
WANTED = 5  # tokens that a feature is expected to raise
DOSE = 2.0  # in mean activations of the feature where it fires
D_MODEL = 64  # width of the residual stream
D_MLP = 128  # neurons in each of the two layers
VOCABULARY = 512  # tokens
LENGTH = 32  # tokens in a window
STEPS = 350  # training steps of the model

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### A model of two layers, and a dictionary between them

# %%
corpus = load_corpus(documentation(), VOCABULARY)
generator = torch.Generator().manual_seed(SEED)
config = TransformerBridgeConfig(
    d_model=D_MODEL, d_head=16, n_heads=D_MODEL // 16, n_layers=2, n_ctx=LENGTH, d_vocab=VOCABULARY,
    d_mlp=D_MLP, act_fn="gelu", normalization_type="LN", positional_embedding_type="rotary",
    init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=SEED,
)  # fmt: skip
model = TransformerBridge.boot_native(config, device=device)


def loss_at(step: int) -> torch.Tensor:
    batch = corpus.batch(64, LENGTH, generator).to(device)
    return next_token_loss(model(batch), batch)


train(model, loss_at, steps=STEPS, lr=1e-2, weight_decay=0.1, decay=True)
SITE = "blocks.0.hook_resid_post"
tokens = corpus.batch(2500, LENGTH, torch.Generator().manual_seed(SEED + 1)).to(device)
test = corpus.held_out(10**9, LENGTH)[::8][:120].to(device)  # documents that nothing was trained on
with torch.no_grad():
    acts = model.run_with_cache(tokens, names_filter=SITE)[1][SITE][:, 1:].flatten(0, 1)
    held = model.run_with_cache(test, names_filter=SITE)[1][SITE]
sae = SparseAutoencoder(Options(D_MODEL, LATENTS, k=K), seed=SEED + 7).to(device)
draw = torch.Generator().manual_seed(SEED + 2)
train_sae(
    sae, lambda step: acts[torch.randint(len(acts), (1024,), generator=draw).to(device)],
    steps=min(600, 10 * STEPS), revive_every=100,
)  # fmt: skip
quality = measure(sae, [held[:, 1:].flatten(0, 1)])

# %% [markdown]
# ### Choose features, and say what they should do, before steering
#
# Candidates fire on 0.5 to 5 % of the tokens and are followed by a word more than by signs; of these we take
# the ones that say most about the next token. A feature's *wanted* tokens are those that follow its firings
# more often than they occur otherwise, counted on training text. No model output is used to choose them.

# %%
with torch.no_grad():
    latents = sae.encode(model.run_with_cache(tokens, names_filter=SITE)[1][SITE])[:, 1:-1].flatten(0, 1)
following = F.one_hot(tokens[:, 2:].flatten(), VOCABULARY).float()
fires = (latents > 0).float()
rate = fires.mean(0)
lift = fires.T @ following / fires.sum(0)[:, None].clamp(min=1) - following.mean(0)  # [latent, token]
wanted_of = lift.topk(WANTED, dim=1).indices
promise = lift.topk(WANTED, dim=1).values.sum(1)
wordlike = torch.tensor([text.strip().isalpha() for text in corpus.tokenizer.vocabulary], device=device)
candidates = (rate > 0.005) & (rate < 0.05) & wordlike[wanted_of[:, 0]]  # else rulers and indents come first
if candidates.sum() < 3:
    candidates = rate > 0
chosen = promise.masked_fill(~candidates, -1).topk(min(FEATURES, int(candidates.sum()))).indices.tolist()
size = latents.sum(0) / fires.sum(0).clamp(min=1)  # mean activation where it fires
word = corpus.tokenizer.token
for latent in chosen[:6]:
    names = [word(t) for t in wanted_of[latent].tolist()]
    print(f"latent {latent}: {rate[latent]:.2%} of tokens, wants {names}")

# %% [markdown]
# ### Push, and weigh
#
# On held-out windows, at the positions where the feature is silent: how much log-probability do its wanted
# tokens gain (together), and how far does the rest of the distribution move (KL divergence, in nats, among
# the other tokens only)? Everything is compared at equal length of push.


# %%
@torch.no_grad()
def pushed(direction: torch.Tensor, dose: float, more=()) -> torch.Tensor:
    """Log-probabilities [row, position, token] with the direction added everywhere but at the start."""
    hook = directions.add(direction, dose, positions=slice(1, None))
    return model.run_with_hooks(test, fwd_hooks=[(SITE, hook), *more]).log_softmax(-1)


with torch.no_grad():
    plain = model(test).log_softmax(-1)
    silent = sae.encode(held) == 0  # [row, position, latent]
    clean_loss = next_token_loss(plain, test).item()


def weigh(after: torch.Tensor, latent: int) -> tuple[float, float]:
    """(log-probability gained by the wanted tokens, KL among all others), where the feature is silent."""
    here = silent[..., latent].clone()
    here[:, 0] = False
    p, q = plain[here], after[here]
    wanted = wanted_of[latent]
    gain = q[:, wanted].logsumexp(-1) - p[:, wanted].logsumexp(-1)
    others = torch.ones(VOCABULARY, dtype=torch.bool, device=device)
    others[wanted] = False
    p, q = p[:, others].log_softmax(-1), q[:, others].log_softmax(-1)
    return gain.mean().item(), (p.exp() * (p - q)).sum(-1).mean().item()


def average(make, dose: float) -> tuple[float, float]:
    """Gain and cost, over the chosen features, of ``make(latent)``, a direction of the feature's length."""
    pairs = [weigh(pushed(make(latent), dose), latent) for latent in chosen]
    return tuple(sum(column) / len(chosen) for column in zip(*pairs, strict=True))


def feature(latent: int) -> torch.Tensor:
    return sae.directions[latent] * size[latent]


def like(direction: torch.Tensor, latent: int) -> torch.Tensor:
    return direction / direction.norm() * feature(latent).norm()


def random(latent: int) -> torch.Tensor:
    return directions.random_like(feature(latent), seed=SEED * 1000 + latent)


ARMS = {
    "feature": feature,
    "half noise": lambda latent: like(feature(latent) + random(latent), latent),
    "another feature": lambda latent: like(feature(chosen[(chosen.index(latent) + 1) % len(chosen)]), latent),
    "random": random,
}
DOSES = sorted({0.0, 0.5, 1.0, 2.0, 4.0, DOSE})
curves = {name: [average(make, dose) for dose in DOSES] for name, make in ARMS.items()}
at = DOSES.index(DOSE)
gain, cost = curves["feature"][at]
metrics = {
    "loss": clean_loss,
    "explained": quality.explained_variance,
    "gain": gain,
    "gain_half_noise": curves["half noise"][at][0],
    "gain_other": curves["another feature"][at][0],
    "gain_random": curves["random"][at][0],
    "cost": cost,
    "cost_random": curves["random"][at][1],
    "dose_response": curves["feature"][DOSES.index(2.0)][0] - curves["feature"][DOSES.index(1.0)][0],
    "noop_change": abs(curves["feature"][0][0]) + abs(curves["feature"][0][1]),
}

# %% [markdown]
# ### The other way round: take the feature out where it fires
#
# Steering shows what a direction can do, not that the model uses it. So remove the feature's own contribution
# where it does fire (all else stays, the dictionary's error too), and see whether its wanted tokens lose.
# Control: as much taken out along a random direction.


# %%
@torch.no_grad()
def removed(latent: int, direction: torch.Tensor) -> float:
    """Log-probability that the wanted tokens lose, where the feature fires."""
    code = sae.encode(held)[..., latent, None]
    here = code[..., 0] > 0
    here[:, 0] = False
    if not here.any():
        return 0.0
    part = code * direction * here[..., None]
    after = model.run_with_hooks(test, fwd_hooks=[(SITE, lambda value, hook: value - part)]).log_softmax(-1)
    wanted = wanted_of[latent]
    return (plain[here][:, wanted].logsumexp(-1) - after[here][:, wanted].logsumexp(-1)).mean().item()


lost = {
    "the feature": [removed(n, sae.directions[n]) for n in chosen],
    "random direction": [removed(n, random(n) / size[n]) for n in chosen],
}
metrics["lost_feature"] = sum(lost["the feature"]) / len(chosen)
metrics["lost_random"] = sum(lost["random direction"]) / len(chosen)

# %% [markdown]
# ### By which paths?
#
# From between the layers a push reaches the output directly, through the MLP, through what heads copy, or by
# changing where heads look. Freeze one at a time at its value without the push, and see what is left of the
# gain.

# %%
_, own = model.run_with_cache(test)
PATHS = {
    "all open": [],
    "attention pattern frozen": ["blocks.1.attn.hook_pattern"],
    "attention frozen": ["blocks.1.hook_attn_out"],
    "MLP frozen": ["blocks.1.hook_mlp_out"],
    "direct path only": ["blocks.1.hook_attn_out", "blocks.1.hook_mlp_out"],
}
left = {}
for name, sites in PATHS.items():
    hooks = [(site, lambda value, hook, kept=own[site]: kept) for site in sites]
    gains = [weigh(pushed(feature(latent), DOSE, hooks), latent)[0] for latent in chosen]
    left[name] = sum(gains) / len(gains)
metrics["share_pattern_frozen"] = left["attention pattern frozen"] / (left["all open"] or 1)
metrics["share_direct"] = left["direct path only"] / (left["all open"] or 1)

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 2, f"Steering with {len(chosen)} features between the two layers of a model")
for index, (name, values) in enumerate(curves.items()):
    style = {"color": plots.COLOURS[index], "linestyle": plots.STYLES[index], "label": name, "marker": "o"}
    axes[0].plot(DOSES, [g for g, _ in values], **style)
    axes[1].plot([c for _, c in values], [g for g, _ in values], **style)
axes[0].legend(fontsize=8, frameon=False)
plots.label(axes[0], "Dose and response", "dose (mean activations)", "log-probability gained (nats)")
axes[1].legend(fontsize=8, frameon=False)
plots.label(axes[1], "Wanted against unwanted", "KL among other tokens", "log-probability gained (nats)")
ticks = range(len(chosen))
for index, (name, values) in enumerate(lost.items()):
    places = [i + 0.4 * index - 0.2 for i in ticks]
    axes[2].bar(places, values, width=0.4, color=plots.COLOURS[index], label=name)
axes[2].set_xticks(list(ticks), [word(int(wanted_of[n][0])) for n in chosen], rotation=60, parse_math=False)
axes[2].legend(fontsize=8, frameon=False)
axes[2].margins(y=0.2)
plots.label(axes[2], "Taken out where it fires", "its first wanted token", "log-probability lost (nats)")
plots.bars(
    axes[3], {name.replace(" ", "\n", 1): value for name, value in left.items()},
    f"Which paths carry the push (dose {DOSE:g})", y="log-probability gained (nats)", highlight=["all\nopen"],
)  # fmt: skip
run.save(fig, "steering")

# %%
report = run.finish(metrics)
