"""In-context regression: a transformer sees pairs (x, y) of a fresh function and predicts the next y.

    python experiment.py                        the run that expected.json describes
    python experiment.py --functions sparse     functions with few non-zero weights
    python experiment.py --seed 1               another seed

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Learning in context
#
# Every row draws a new weight vector w. The model reads x1, (x1, y1), x2, (x2, y2), ... and predicts each
# y from the pairs before it; nothing but the context can tell it w (Garg et al. 2022, arXiv:2208.01066).
# Does it do what least squares does, or one step of gradient descent (von Oswald et al. 2022,
# arXiv:2212.07677), and does it carry the quantities that such an algorithm needs (Akyurek et al. 2022,
# arXiv:2211.15661)?

# %%
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from lab import plots
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # weights and data
FUNCTIONS = "linear"  # linear: w is Gaussian; sparse: only NONZERO entries of w are not zero
DIMENSIONS = 4  # of x
NONZERO = 2  # non-zero weights of a sparse function
EXAMPLES = 10  # pairs in a row
LAYERS = 3  # transformer layers
HEADS = 4  # heads in each layer
D_MODEL = 48  # width of the residual stream
BATCH = 128  # rows in a step
STEPS = 500  # training steps
LR = 4e-3  # AdamW, cosine down to zero

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### Data and model
#
# Inputs are vectors, not tokens, so the transformer is written out here; its `HookPoint`s give it the same
# `run_with_cache` and `run_with_hooks`, under the usual names.


# %%
def sample(rows: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x [row, example, dimension], y [row, example] and w [row, dimension]."""
    x = torch.randn(rows, EXAMPLES, DIMENSIONS, generator=generator)
    w = torch.randn(rows, DIMENSIONS, generator=generator)
    if FUNCTIONS == "sparse":
        rank = torch.rand(rows, DIMENSIONS, generator=generator).argsort(-1).argsort(-1)
        w = w * (rank < NONZERO) * (DIMENSIONS / NONZERO) ** 0.5  # the same variance of y
    y = torch.einsum("red,rd->re", x, w) / DIMENSIONS**0.5
    return x.to(device), y.to(device), w.to(device)


class Block(nn.Module):
    """Pre-norm attention and MLP, with hooks on z, pattern and the residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(D_MODEL), nn.LayerNorm(D_MODEL)
        self.qkv, self.out = nn.Linear(D_MODEL, 3 * D_MODEL), nn.Linear(D_MODEL, D_MODEL)
        self.mlp = nn.Sequential(nn.Linear(D_MODEL, 4 * D_MODEL), nn.GELU(), nn.Linear(4 * D_MODEL, D_MODEL))
        self.hook_pattern = HookPoint()  # [row, head, query, key]
        self.hook_z = HookPoint()  # [row, position, head, d_head]
        self.hook_resid_post = HookPoint()  # [row, position, d_model]

    def forward(self, resid: torch.Tensor) -> torch.Tensor:
        rows, length, _ = resid.shape
        q, k, v = self.qkv(self.ln1(resid)).view(rows, length, 3, HEADS, -1).unbind(2)
        scores = torch.einsum("rqhd,rkhd->rhqk", q, k) / (D_MODEL // HEADS) ** 0.5
        causal = torch.ones(length, length, dtype=torch.bool, device=resid.device).tril()
        pattern = self.hook_pattern(scores.masked_fill(~causal, -1e9).softmax(-1))
        z = self.hook_z(torch.einsum("rhqk,rkhd->rqhd", pattern, v))
        resid = resid + self.out(z.flatten(2))
        return self.hook_resid_post(resid + self.mlp(self.ln2(resid)))


class Regressor(HookedRootModule):
    """Reads x1, (x1, y1), x2, (x2, y2), ...; at each x the output is its guess of that y."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(SEED)
        self.read = nn.Linear(DIMENSIONS + 2, D_MODEL)
        self.position = nn.Parameter(0.1 * torch.randn(2 * EXAMPLES, D_MODEL))
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.ln_final, self.write = nn.LayerNorm(D_MODEL), nn.Linear(D_MODEL, 1)
        self.setup()  # tells the HookPoints their names

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        resid = self.read(tokens) + self.position
        for block in self.blocks:
            resid = block(resid)
        return self.write(self.ln_final(resid))[:, 0::2, 0]  # [row, example]


def interleave(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Vectors [row, 2 * example, dimension + 2]: x and a flag, then x again with its y.

    Beside its x, a y can be used at once; on its own, the model must first learn to fetch the x before it,
    and on many seeds a short training ends before it has.
    """
    asked = F.pad(x, (0, 2))
    asked[..., -1] = 1.0
    told = torch.cat([x, y[..., None], torch.zeros_like(y)[..., None]], -1)
    return torch.stack([asked, told], 2).flatten(1, 2)


model = Regressor().to(device)
generator = torch.Generator().manual_seed(SEED)


def loss_at(step: int) -> torch.Tensor:
    x, y, _ = sample(BATCH, generator)
    return F.mse_loss(model(interleave(x, y)), y)


x, y, w = sample(1000, torch.Generator().manual_seed(10_000 + SEED))
tokens = interleave(x, y)
history = train(
    model, loss_at, steps=STEPS, lr=LR, weight_decay=0.0, clip=1.0, decay=True, warmup=50,
    evaluate=lambda: {"last_error": (model(tokens) - y)[:, -1].square().mean().item()},
    every=max(1, STEPS // 40),
)  # fmt: skip

# %% [markdown]
# ### Against the textbook
#
# After each number of examples: least squares (minimum norm), ridge, one step of gradient descent from
# zero with the best step size, and always saying zero. For sparse functions also an oracle that knows
# which weights may differ from zero.


# %%
def textbook(method: str) -> torch.Tensor:
    """Predictions [row, example] from the pairs before each one."""
    guesses = [torch.zeros(len(x), device=device)]
    for n in range(1, EXAMPLES):
        a, b = x[:, :n] / DIMENSIONS**0.5, y[:, :n, None]
        if method == "least squares":
            solution = torch.linalg.pinv(a) @ b
        elif method == "ridge":
            gram = a.transpose(1, 2) @ a + 0.1 * torch.eye(DIMENSIONS, device=device)
            solution = torch.linalg.solve(gram, a.transpose(1, 2) @ b)
        elif method == "oracle":
            known = (w != 0).float()[:, None]
            solution = torch.linalg.pinv(a * known) @ b
        else:
            solution = a.transpose(1, 2) @ b
        guess = (x[:, n] / DIMENSIONS**0.5 * solution[..., 0]).sum(-1)
        if method == "gradient step":
            guess = guess * (guess * y[:, n]).mean() / guess.square().mean()  # the best step size
        guesses.append(guess)
    return torch.stack(guesses, 1)


methods = ["least squares", "ridge", "gradient step"] + (["oracle"] if FUNCTIONS == "sparse" else [])
with torch.no_grad():
    predicted, cache = model.run_with_cache(tokens)
    references = {method: textbook(method) for method in methods}


def error(guess: torch.Tensor) -> torch.Tensor:
    """Mean squared error after 0, 1, 2, ... examples, [example]; y has variance about 1."""
    return (guess - y).square().mean(0)


curves = {"step": list(range(EXAMPLES)), "model": error(predicted).tolist()}
curves |= {method: error(guess).clamp_min(1e-4).tolist() for method, guess in references.items()}
agreement = {
    method: (predicted - guess)[:, DIMENSIONS + 1 :].square().mean().item()
    for method, guess in references.items()
}
zero = y[:, -1].square().mean().item()
shuffled = interleave(x, torch.cat([y[:, :-1].roll(1, 0), y[:, -1:]], 1))  # answers of another row
with torch.no_grad():
    lost = (model(shuffled)[:, -1] - y[:, -1]).square().mean().item()
    untrained_model = Regressor().to(device)
    untrained_error = (untrained_model(tokens)[:, -1] - y[:, -1]).square().mean().item()
metrics = {
    "error_last": error(predicted)[-1].item() / zero,
    "error_first": error(predicted)[0].item() / y[:, 0].square().mean().item(),
    "error_gradient_step": error(references["gradient step"])[-1].item() / zero,
    "error_shuffled": lost / zero,
    "error_untrained": untrained_error / zero,
    "closer_to_ridge": agreement["gradient step"] / max(agreement["ridge"], 1e-9),
}

# %% [markdown]
# ### Does it hold w? A linear probe, layer by layer
#
# At the last x, read w off the residual stream by least squares on half of the rows, test on the others.
# Controls: an untrained model, and the probe trained on w of other rows.


# %%
def probe(resid: torch.Tensor, target: torch.Tensor) -> float:
    """R2 on the second half of the rows, fitted on the first; resid [row, d_model]."""
    half = len(resid) // 2
    features = F.pad(resid, (0, 1), value=1.0)
    gram = features[:half].T @ features[:half] + 1e-2 * torch.eye(features.shape[1], device=device)
    weights = torch.linalg.solve(gram, features[:half].T @ target[:half])
    rest = (features[half:] @ weights - target[half:]).square().sum()
    return 1 - (rest / (target[half:] - target[half:].mean(0)).square().sum()).item()


names = [f"blocks.{l}.hook_resid_post" for l in range(LAYERS)]
with torch.no_grad():
    _, untrained_cache = untrained_model.run_with_cache(tokens)
position = -2  # the last x
r2 = [probe(cache[name][:, position], w) for name in names]
r2_untrained = [probe(untrained_cache[name][:, position], w) for name in names]
metrics["probe"] = max(r2)
metrics["probe_untrained"] = max(r2_untrained)
metrics["probe_shuffled"] = max(probe(cache[name][:, position], w.roll(1, 0)) for name in names)

# %% [markdown]
# ### Which heads matter? Mean-ablate each


# %%
def mean_ablate(z: torch.Tensor, hook: HookPoint, head: int) -> torch.Tensor:
    """z: [row, position, head, d_head]; the mean is over rows, position by position."""
    z[:, :, head] = z[:, :, head].mean(0)
    return z


@torch.no_grad()
def error_with(hooks: list) -> float:
    out = model.run_with_hooks(tokens, fwd_hooks=hooks)
    return (out - y)[:, -1].square().mean().item() / zero


ablated = torch.tensor(
    [
        [error_with([(f"blocks.{l}.hook_z", partial(mean_ablate, head=h))]) for h in range(HEADS)]
        for l in range(LAYERS)
    ]
)
noop = error_with([("blocks.0.hook_z", lambda z, hook: z)])
metrics["ablation_ratio"] = ablated.max().item() / metrics["error_last"]
metrics["mildest_ablation_ratio"] = ablated.min().item() / metrics["error_last"]
metrics["noop_change"] = abs(noop - metrics["error_last"])

# %%
fig, axes = plots.figure(2, 2, f"In-context regression, {FUNCTIONS} functions of {DIMENSIONS} dimensions")
plots.loss_curves(
    axes[0], curves, ["model", *methods], title="Error against examples seen", y="mean squared error"
)
axes[0].set_xlabel("examples before this one")
plots.bars(
    axes[1], {f"as {name}": value for name, value in agreement.items()},
    "Distance of the model from each method",
    y="mean squared difference",
)  # fmt: skip
probes = {"step": list(range(LAYERS)), "trained": r2, "untrained": r2_untrained}
plots.loss_curves(
    axes[2], probes, ["trained", "untrained"], title="w read by a linear probe", y="R2", log=False
)
axes[2].set_xlabel("layer")
plots.heatmap(
    axes[3], ablated, "Error, one head ablated (1: says zero)", x="head", y="layer", numbers=True
)
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
