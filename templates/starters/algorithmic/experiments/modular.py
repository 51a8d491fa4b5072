"""Modular arithmetic: train a small network, watch it grok, and read its Fourier algorithm.

    python experiment.py                       the run that expected.json describes
    python experiment.py --seed 1              another seed: other frequencies, same story
    python experiment.py --p 97 --steps 300    another modulus

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Modular arithmetic
#
# The network sees two numbers and must answer `(a + b) mod p` (or `a - b`). It is shown a share of
# all pairs and tested on the rest. First it memorises: the training loss falls while the test loss
# rises. Later it generalises, and by then its weights hold the numbers as sines and cosines of a
# handful of frequencies (Nanda et al. 2023, arXiv:2301.05217). Which frequencies depends on the
# seed; that there are few does not.

# %%
import torch
from torch import nn
from torch.nn import functional as F
from transformer_lens import HookedRootModule, TransformerBridgeConfig
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from lab import fourier, plots
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # split, weights
P = 113  # the modulus; odd
OPERATION = "add"  # add or subtract
ARCHITECTURE = "transformer"  # transformer (one layer) or mlp (one hidden layer)
ACTIVATION = "relu"  # relu or gelu
D_MODEL = 64  # width of the embedding and of the residual stream
D_MLP = 256  # hidden units
TRAIN_SHARE = 0.5  # share of all p * p pairs that is trained on
STEPS = 250  # full-batch steps
LR = 1e-2  # AdamW
WEIGHT_DECAY = 1.0  # without it the network memorises and stays there
KEY = 5  # how many frequencies to call key frequencies

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### The data: every pair, split once

# %%
a = torch.arange(P).repeat_interleave(P)
b = torch.arange(P).repeat(P)
answers = ((a + b) if OPERATION == "add" else (a - b)) % P
equals = torch.full_like(a, P)  # the token "=", where the transformer answers
tokens = torch.stack([a, b, equals], dim=1).to(device)  # [p * p, 3]
answers = answers.to(device)

order = torch.randperm(P * P, generator=torch.Generator().manual_seed(SEED)).to(device)
n_train = int(TRAIN_SHARE * P * P)
train_set, test_set = order[:n_train], order[n_train:]

# %% [markdown]
# ### The model
#
# A one-layer transformer without layer norm, built offline by TransformerLens; or a network with one
# hidden layer, whose `HookPoint`s give it the same `run_with_cache` and `run_with_hooks`.


# %%
class OneHiddenLayer(HookedRootModule):
    """Embeds both numbers with one table, adds them, one hidden layer, unembeds."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Parameter(torch.randn(P, D_MODEL) / D_MODEL**0.5)
        # subtraction is not symmetric, so the second number gets a table of its own
        self.embed_b = nn.Parameter(torch.randn(P, D_MODEL) / D_MODEL**0.5)
        self.hidden = nn.Linear(D_MODEL, D_MLP)
        self.unembed = nn.Linear(D_MLP, P, bias=False)
        self.hook_embed = HookPoint()  # [pair, d_model]
        self.hook_pre = HookPoint()  # [pair, d_mlp]
        self.hook_post = HookPoint()  # [pair, d_mlp]
        self.setup()  # tells the HookPoints their names

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        embedded = self.hook_embed(self.embed[pairs[:, 0]] + self.embed_b[pairs[:, 1]])
        activation = F.relu if ACTIVATION == "relu" else F.gelu
        return self.unembed(self.hook_post(activation(self.hook_pre(self.hidden(embedded)))))


torch.manual_seed(SEED)
if ARCHITECTURE == "transformer":
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL // 4, n_heads=4, n_layers=1, n_ctx=3,
        d_vocab=P + 1, d_vocab_out=P, d_mlp=D_MLP, act_fn=ACTIVATION, normalization_type=None,
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=SEED,
    )  # fmt: skip
    model = TransformerBridge.boot_native(config, device=device)
else:
    model = OneHiddenLayer().to(device)


def logits_of(pairs: torch.Tensor) -> torch.Tensor:
    """Logits for the answer, [pair, p]: at the last position of the transformer."""
    out = model(pairs)
    return out[:, -1] if out.ndim == 3 else out


# %% [markdown]
# ### Train, full batch


# %%
def loss_at(step: int) -> torch.Tensor:
    return F.cross_entropy(logits_of(tokens[train_set]), answers[train_set])


def accuracy(logits: torch.Tensor, subset: torch.Tensor) -> float:
    return (logits.argmax(-1) == answers[subset]).float().mean().item()


def evaluate() -> dict[str, float]:
    on_train, on_test = logits_of(tokens[train_set]), logits_of(tokens[test_set])
    return {
        "train_loss": F.cross_entropy(on_train, answers[train_set]).item(),
        "test_loss": F.cross_entropy(on_test, answers[test_set]).item(),
        "train_accuracy": accuracy(on_train, train_set),
        "test_accuracy": accuracy(on_test, test_set),
    }


# steps of the hidden-layer network cost less, and it needs more of them, and stronger ones
stronger = 1 if ARCHITECTURE == "transformer" else 2
history = train(
    model, loss_at, steps=stronger * STEPS, lr=stronger * LR, weight_decay=stronger * WEIGHT_DECAY,
    evaluate=evaluate, every=5,
)  # fmt: skip
metrics = {"test_accuracy": history["test_accuracy"][-1], "test_loss": history["test_loss"][-1]}


def first_step(name: str, level: float) -> float:
    """The first recorded step at which an accuracy passes ``level`` (NaN if it never does)."""
    steps = (s for s, v in zip(history["step"], history[name], strict=True) if v > level)
    return next(steps, float("nan"))


metrics["grokking_gap"] = first_step("test_accuracy", 0.95) - first_step("train_accuracy", 0.95)


# %% [markdown]
# ### Which frequencies does the embedding use?
#
# Every function of a number mod p is a sum of waves. Written in that basis, a random table spreads its
# power evenly over all `(p - 1) / 2` frequencies; a grokked one does not.

# %%
if ARCHITECTURE == "transformer":
    table = model.W_E[:P].detach()  # [p, d_model]
else:
    table = torch.cat([model.embed, model.embed_b], dim=1).detach()  # [p, 2 * d_model]
power = fourier.frequency_power(table)
strongest = power.topk(KEY).indices
key = sorted((strongest + 1).tolist())
rest = [k for k in range(1, P // 2 + 1) if k not in key]
random_table = torch.randn(table.shape, generator=torch.Generator().manual_seed(SEED)).to(device)
metrics["key_power"] = power[strongest].sum().item()
metrics["key_power_random"] = fourier.frequency_power(random_table).topk(KEY).values.sum().item()
print("key frequencies:", key)

# %% [markdown]
# ### Does it compute with them?
#
# Looking is not enough: edit the embedding with a hook and see what the answer does. Keep everything
# (no-op), keep only the key frequencies, remove the key frequencies, remove as many others at random.


# %%
def embedding_with(frequencies: list[int], pairs: torch.Tensor) -> torch.Tensor:
    """What the hook on the embedding would hold if the tables had only these frequencies."""
    kept = fourier.keep_frequencies(table, frequencies)
    if ARCHITECTURE == "transformer":
        return torch.cat([kept, model.W_E[P:].detach()])[pairs]  # [pair, position, d_model]
    return kept[pairs[:, 0], :D_MODEL] + kept[pairs[:, 1], D_MODEL:]  # [pair, d_model]


@torch.no_grad()
def logits_with(frequencies: list[int]) -> torch.Tensor:
    def replace(embedded: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        return embedding_with(frequencies, tokens)

    out = model.run_with_hooks(tokens, fwd_hooks=[("hook_embed", replace)])
    return out[:, -1] if out.ndim == 3 else out


with torch.no_grad():
    clean = logits_of(tokens)  # [p * p, p]
shuffled = torch.randperm(len(rest), generator=torch.Generator().manual_seed(SEED)).tolist()
removed = [rest[i] for i in shuffled[:KEY]]
everything = list(range(1, P // 2 + 1))
conditions = {
    "everything": everything,
    "only key": key,
    "without key": rest,
    "without random": [k for k in everything if k not in removed],
}
edited = {name: logits_with(frequencies) for name, frequencies in conditions.items()}
scores = {name: accuracy(out[test_set], test_set) for name, out in edited.items()}
metrics["noop_change"] = (edited["everything"] - clean).abs().max().item()
metrics["only_key_accuracy"] = scores["only key"]
metrics["without_key_accuracy"] = scores["without key"]
metrics["without_random_accuracy"] = scores["without random"]

# %% [markdown]
# ### Closed form: the logits are waves in a + b - c
#
# If the network adds angles, the logit of c is a sum of `cos(2πk (a + b - c) / p)` over the key k.
# How much of the variance of the logits do these few functions carry? (For subtraction: a - b - c.)

# %%
total = (a + b if OPERATION == "add" else a - b).to(device)
residue = (total[:, None] - torch.arange(P, device=device)[None]) % P  # [p * p, p]
centred = clean - clean.mean(0)  # drop what does not depend on the input


def share_explained(frequencies: list[int]) -> float:
    explained = 0.0
    for k in frequencies:
        wave = torch.cos(2 * torch.pi * k * residue / P)
        explained += ((centred * wave).sum().square() / wave.square().sum()).item()
    return explained / centred.square().sum().item()


metrics["logits_explained"] = share_explained(key)
metrics["logits_explained_random"] = share_explained(removed)

# %% [markdown]
# ### Where does the answer position look?
#
# `run_with_cache` keeps every activation of a forward pass, under its TransformerLens name. In the
# transformer look at the attention from "=" to a and b; in the MLP at one hidden unit over all pairs.

# %%
with torch.no_grad():
    _, cache = model.run_with_cache(tokens)
fig, axes = plots.figure(2, 2, f"Modular {OPERATION} mod {P}, {ARCHITECTURE}, {ACTIVATION}")
levels = {"guessing": torch.log(torch.tensor(float(P))).item()}
plots.loss_curves(
    axes[0], history, ["train_loss", "test_loss"], title="Memorise, then grok", marks=levels
)
plots.spectrum(axes[1], power, f"Embedding: {metrics['key_power']:.0%} in {KEY} frequencies", key=key)
plots.bars(
    axes[2], scores, "Test accuracy with embedding frequencies kept", highlight=["without key"],
    marks={"guessing": 1 / P},
)  # fmt: skip
if ARCHITECTURE == "transformer":
    activations, name = cache["blocks.0.mlp.hook_post"][:, -1], "MLP unit"  # [pair, d_mlp]
    attention = cache["blocks.0.attn.hook_pattern"][:, :, -1].mean(0)  # [head, key]
    metrics["attention_to_operands"] = attention[:, :2].sum(-1).mean().item()
else:
    activations, name = cache["hook_post"], "hidden unit"
unit = int(activations.var(0).argmax())
grid = activations[:, unit].reshape(P, P)
plots.heatmap(axes[3], grid, f"{name} {unit}: periodic in both numbers", x="b", y="a")
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
