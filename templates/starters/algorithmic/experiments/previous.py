"""Rotary previous-token head: how does a head that knows only relative angles find its neighbour?

    python experiment.py                run that expected.json describes
    python experiment.py --seed 1       another seed: another frequency mix, same behaviour
    python experiment.py --heads 1      one head must do it alone

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## The previous token, with rotary positions
#
# A one-layer attention-only model must output, at every place, the token before. With rotary positions
# (Su et al. 2021, arXiv:2104.09864) nothing is added to the residual stream: queries and keys are
# turned by an angle that grows with the position, so a score depends on the two tokens and on their
# distance only. To attend one back whatever the tokens are, the head needs a part of query and key
# that all tokens share, and frequencies whose sum peaks at distance one.

# %%
import math

import torch
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from lab import heads, plots
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # weights and data
HEADS = 2  # heads in the layer
D_MODEL = 32  # width of the residual stream
D_HEAD = 16  # width of a head: 8 rotary pairs
VOCABULARY = 24  # random tokens
LENGTH = 24  # tokens in a row
BATCH = 128  # rows in a step
STEPS = 200  # training steps
LR = 1e-2  # AdamW, cosine down to zero

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### Data and model
#
# Random tokens, so that nothing but the position can say which key is right. The first place has no
# previous token and is left out of the loss.


# %%
def sample(rows: int, generator: torch.Generator) -> torch.Tensor:
    """Random tokens [row, position]."""
    return torch.randint(VOCABULARY, (rows, LENGTH), generator=generator).to(device)


def build() -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_HEAD, n_heads=HEADS, n_layers=1, n_ctx=2 * LENGTH,
        d_vocab=VOCABULARY, attn_only=True, normalization_type=None,
        positional_embedding_type="rotary", rotary_dim=D_HEAD,
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=SEED,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


model = build()
generator = torch.Generator().manual_seed(SEED)
test = sample(256, torch.Generator().manual_seed(10_000 + SEED))


def loss_on(tokens: torch.Tensor) -> torch.Tensor:
    """Cross-entropy (nats) of the previous token."""
    return F.cross_entropy(model(tokens)[:, 1:].flatten(0, 1), tokens[:, :-1].flatten())


def accuracy(logits: torch.Tensor, tokens: torch.Tensor) -> float:
    return (logits[:, 1:].argmax(-1) == tokens[:, :-1]).float().mean().item()


history = train(
    model, lambda step: loss_on(sample(BATCH, generator)), steps=STEPS, lr=LR, weight_decay=0.1,
    decay=True, evaluate=lambda: {"test_loss": loss_on(test).item()}, every=max(1, STEPS // 50),
)  # fmt: skip

# %% [markdown]
# ### Where do the heads look?

# %%
with torch.no_grad():
    logits, cache = model.run_with_cache(test)
    untrained_logits, untrained_cache = build().run_with_cache(test)
pattern = cache["blocks.0.attn.hook_pattern"]  # [row, head, query, key]
scores = heads.previous_token_score(pattern, test)
metrics = {
    "test_accuracy": accuracy(logits, test),
    "untrained_accuracy": accuracy(untrained_logits, test),
    "previous_token_score": scores.max().item(),
    "untrained_score": heads.previous_token_score(untrained_cache["pattern", 0], test).max().item(),
}
best = int(scores.argmax())

# %% [markdown]
# ### The mechanism, from the weights alone
#
# A rotary score is a sum over pairs of dimensions: pair i turns by `theta_i = 10000^(-2i / d_head)` at
# each step. Take query and key of every token before the rotation, turn the key back by the distance,
# and the whole attention pattern must come out of W_E, W_Q and W_K alone: compare it with the cache.

# %%
theta = 1.0 / 10000 ** (torch.arange(0, D_HEAD, 2, device=device) / D_HEAD)  # [pair]


def turn(x: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """Turn each adjacent pair of x [..., d_head] by ``steps`` * theta: a rotary position."""
    angle = steps[..., None] * theta
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = angle.cos(), angle.sin()
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


with torch.no_grad():
    attn = model.blocks[0].attn
    bias_q = attn.q.bias.view(HEADS, D_HEAD)
    bias_k = attn.k.bias.view(HEADS, D_HEAD)
    queries = model.W_E @ model.W_Q[0] + bias_q[:, None]  # [head, token, d_head]
    keys = model.W_E @ model.W_K[0] + bias_k[:, None]
    distance = torch.arange(LENGTH, device=device)
    turned = turn(keys[:, None], -distance[:, None].float())  # [head, distance, token, d_head]
    # score[head, distance, query token, key token]
    score = torch.einsum("hqd,hskd->hsqk", queries, turned) / math.sqrt(D_HEAD)

place = torch.arange(LENGTH, device=device)
gap = (place[:, None] - place[None]).clamp_min(0)  # [query, key]
rebuilt = score[:, gap, test[:1, :, None], test[:1, None, :]][:, 0]  # [head, query, key]
if rebuilt.ndim == 2:
    rebuilt = rebuilt[None]
causal = place[:, None] >= place[None]
rebuilt = rebuilt.masked_fill(~causal, -math.inf).softmax(-1)
metrics["rebuilt_error"] = (rebuilt - pattern[0]).abs().max().item()

# %% [markdown]
# ### Position or content?
#
# Average the score over all pairs of tokens, per distance: that is the part that position alone decides.
# The spread over tokens is what content can add. And the part of query and key that all tokens share
# should be enough: give every token the mean query and key, and see whether the answer survives.

# %%
by_distance = score[best].mean((-1, -2))  # [distance]
spread = score[best].std((-1, -2))
others = torch.cat([by_distance[:1], by_distance[2:]])
metrics["margin_at_one"] = (by_distance[1] - others.max()).item()


@torch.no_grad()
def accuracy_with(changes: dict) -> float:
    """Accuracy when hooks replace activations: name -> function of the activation."""
    hooks = [(name, lambda value, hook, f=f: f(value)) for name, f in changes.items()]
    return accuracy(model.run_with_hooks(test, fwd_hooks=hooks), test)


def shared(x: torch.Tensor) -> torch.Tensor:
    """Every token gets the mean over rows and positions; x [row, position, head, d_head]."""
    return x.mean((0, 1), keepdim=True).expand_as(x)


def random_like(x: torch.Tensor) -> torch.Tensor:
    """The control: as long as the shared part, in a random direction."""
    direction = torch.randn(x.shape[2:], generator=torch.Generator().manual_seed(SEED)).to(x)
    return (direction / direction.norm() * x.mean((0, 1)).norm()).expand_as(x)


Q, K = "blocks.0.attn.hook_q", "blocks.0.attn.hook_k"  # both before the rotation
conditions = {
    "as it is": metrics["test_accuracy"],
    "shared q and k": accuracy_with({Q: shared, K: shared}),
    "random q and k": accuracy_with({Q: random_like, K: random_like}),
    "q without shared": accuracy_with({Q: lambda x: x - x.mean((0, 1), keepdim=True)}),
}
metrics["shared_accuracy"] = conditions["shared q and k"]
metrics["random_accuracy"] = conditions["random q and k"]
metrics["without_shared_accuracy"] = conditions["q without shared"]
with torch.no_grad():
    noop = model.run_with_hooks(test, fwd_hooks=[(Q, lambda x, hook: x)])
    longer = torch.randint(VOCABULARY, (64, 2 * LENGTH), generator=torch.Generator().manual_seed(SEED))
    longer = longer.to(device)
    metrics["longer_accuracy"] = accuracy(model(longer), longer)
metrics["noop_change"] = (noop - logits).abs().max().item()

# %% [markdown]
# ### Which frequencies make the peak?
#
# The shared query and key give one wave per rotary pair; they add up to the curve over distance.

# %%
mean_query, mean_key = queries[best].mean(0), keys[best].mean(0)
product = (mean_query * turn(mean_key[None], -distance[:, None].float().squeeze(-1))) / math.sqrt(D_HEAD)
waves = product.view(LENGTH, D_HEAD // 2, 2).sum(-1)  # [distance, pair]

# %%
copying = (model.W_E @ model.OV[0, best].AB @ model.W_U).detach()
fig, axes = plots.figure(2, 3, "A previous-token head with rotary positions")
plots.loss_curves(
    axes[0], history, ["test_loss"], title="Learning", marks={"guessing": math.log(VOCABULARY)}
)
plots.attention(axes[1], pattern[0, best], test[0].tolist(), f"Head {best}: score {scores[best]:.2f}")
span = min(LENGTH, 16)
axes[2].errorbar(
    range(span), by_distance[:span].tolist(), yerr=spread[:span].tolist(), color=plots.COLOURS[0], capsize=2
)
axes[2].axvline(1, color=plots.COLOURS[1], linestyle=":")
plots.label(axes[2], "Score by distance (bars: spread over tokens)", "query - key", "attention score")
plots.heatmap(
    axes[3], waves[:span].T, "One wave per rotary pair", x="query - key", y="pair (fast to slow)", signed=True
)
plots.bars(
    axes[4], conditions, "Accuracy with queries and keys edited", highlight=["random q and k"],
    marks={"guessing": 1 / VOCABULARY},
)  # fmt: skip
plots.heatmap(
    axes[5], copying, f"OV circuit of head {best}", x="logit of token", y="attending to", signed=True
)
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
