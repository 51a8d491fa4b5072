"""Fibonacci-like sequences mod p: which earlier numbers does the network use, and how does it add?

    python experiment.py                    x[n] = x[n-1] + x[n-2] mod p
    python experiment.py --a 2 --b 3        other coefficients
    python experiment.py --seed 1           another split of the orbits

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Sequences by recurrence
#
# Each row obeys `x[n] = (A x[n-1] + B x[n-2]) mod P`. To continue it, a network must bring the
# last two numbers together and add them. It could find the rule in other ways (the third and
# second last numbers also determine the next), so where it looks is a real question; and adding
# mod p is the task that one-layer transformers solve with waves (Nanda et al. 2023,
# arXiv:2301.05217). For affine recurrences of first order see Bhargav and Gu (2024,
# arXiv:2410.17438).

# %%
import math

import torch
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from lab import fourier, plots
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # weights and split
P = 59  # the modulus, an odd prime
A = 1  # coefficient of the previous number
B = 1  # coefficient of the number before that; not 0 mod P
LENGTH = 4  # numbers in a sequence
HEADS = 4  # heads of the one layer
D_MODEL = 64  # width of the residual stream
D_MLP = 256  # hidden units
TEST_SHARE = 0.3  # share of the orbits that are never trained on
STEPS = 260  # training steps, each on all training starts
LR = 1e-2
WEIGHT_DECAY = 1.0  # without it the network memorises and stays there
KEY = 5  # how many frequencies to call key frequencies

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### The data: hold out whole orbits
#
# A pair (x[n-2], x[n-1]) leads to the next pair, and so on in a ring back to itself: an orbit. If
# some pairs of an orbit were trained on, a test on the others would be no test, as sequences run
# through all of them. So whole orbits are held out: no pair of consecutive numbers of the test
# set ever occurs in training.


# %%
def orbit_numbers() -> torch.Tensor:
    """The orbit that each pair (first, second) belongs to, [p, p]."""
    orbit = [[-1] * P for _ in range(P)]
    count = 0
    for start in range(P * P):
        x, y = divmod(start, P)
        if orbit[x][y] < 0:
            while orbit[x][y] < 0:
                orbit[x][y] = count
                x, y = y, (A * y + B * x) % P
            count += 1
    return torch.tensor(orbit)


orbits = orbit_numbers()
shuffled = torch.randperm(
    int(orbits.max()) + 1, generator=torch.Generator().manual_seed(SEED)
)  # a random order of the orbits
columns = [torch.arange(P).repeat_interleave(P), torch.arange(P).repeat(P)]
while len(columns) < LENGTH + 1:
    columns.append((A * columns[-1] + B * columns[-2]) % P)
sequences = torch.stack(columns, dim=1)  # [p * p, length + 1], one row for each starting pair
in_test = (shuffled < TEST_SHARE * len(shuffled))[orbits.flatten()]
train_rows, test_rows = sequences[~in_test].to(device), sequences[in_test].to(device)
print(f"{len(shuffled)} orbits; {len(train_rows)} starts to train on, {len(test_rows)} held out")

# %% [markdown]
# ### The model, and its training
#
# One layer with an MLP, no layer norm. The loss is taken wherever two numbers have been seen.

# %%
torch.manual_seed(SEED)


def build(seed: int) -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL // HEADS, n_heads=HEADS, n_layers=1, n_ctx=LENGTH, d_vocab=P,
        d_mlp=D_MLP, act_fn="relu", normalization_type=None,
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=seed,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


model = build(SEED)


def loss_on(rows: torch.Tensor) -> torch.Tensor:
    logits = model(rows[:, :-1])[:, 1:]  # the first position has seen one number only
    return F.cross_entropy(logits.flatten(0, 1), rows[:, 2:].flatten())


def accuracy(logits: torch.Tensor, rows: torch.Tensor) -> float:
    """Share of right continuations; logits [row, length, p]."""
    return (logits[:, 1:].argmax(-1) == rows[:, 2:]).float().mean().item()


def evaluate() -> dict[str, float]:
    return {
        "test_loss": loss_on(test_rows).item(),
        "train_accuracy": accuracy(model(train_rows[:, :-1]), train_rows),
        "test_accuracy": accuracy(model(test_rows[:, :-1]), test_rows),
    }


history = train(
    model, lambda step: loss_on(train_rows), steps=STEPS, lr=LR, weight_decay=WEIGHT_DECAY,
    evaluate=evaluate, every=max(1, STEPS // 40),
)  # fmt: skip
metrics = {"test_accuracy": history["test_accuracy"][-1]}
every_row = sequences.to(device)
tokens, following = every_row[:, :-1], every_row[:, -1]  # the answer at the last position
last, before = tokens[:, -1], tokens[:, -2]
# what one gets by knowing the last number only: nothing, as the one before may be any
metrics["from_last_number_only"] = 1 / P

# %% [markdown]
# ### Where does it look?
#
# The attention of each head from the last position, by how far back the key is. Position 0 back
# is the last number itself.

# %%
with torch.no_grad():
    clean, cache = model.run_with_cache(tokens)
    _, cache_untrained = build(SEED + 1).run_with_cache(tokens)
clean = clean[:, -1]  # [row, p]
pattern = cache["blocks.0.attn.hook_pattern"][:, :, -1]  # [row, head, key]
back = pattern.mean(0).flip(-1)  # [head, places back]
back_untrained = cache_untrained["blocks.0.attn.hook_pattern"][:, :, -1].mean(0).flip(-1)
metrics["attention_to_last_two"] = back[:, :2].sum(-1).mean().item()
metrics["attention_to_last_two_untrained"] = back_untrained[:, :2].sum(-1).mean().item()
print("attention by places back:", [round(v, 2) for v in back.mean(0).tolist()])

# %% [markdown]
# ### Replace what is read there
#
# Put the value vectors (`hook_v`) of another sequence at one place, leaving everything else. If
# the network adds the numbers at the last two places, then after replacing the one before the
# last (y instead of x[n-2]) it must answer A x[n-1] + B y, the right continuation of a sequence
# that it never saw. Replacing numbers further back is the control: the answer must stay.

# %%
other = torch.randperm(P * P, generator=torch.Generator().manual_seed(SEED)).to(device)


@torch.no_grad()
def with_values_from(donor: torch.Tensor, places: list[int]) -> torch.Tensor:
    """Logits at the last position with the values at these places (counted back) of other rows."""
    keys = [LENGTH - 1 - place for place in places]

    def replace(v: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        v[:, keys] = v[donor][:, keys]  # v: [row, position, head, d_head]
        return v

    return model.run_with_hooks(tokens, fwd_hooks=[("blocks.0.attn.hook_v", replace)])[:, -1]


def right(logits: torch.Tensor, expected: torch.Tensor) -> float:
    return (logits.argmax(-1) == expected).float().mean().item()


itself = torch.arange(P * P, device=device)
further_back = list(range(2, LENGTH))
one_replaced = with_values_from(other, [1])
metrics["noop_change"] = (with_values_from(itself, [1]) - clean).abs().max().item()
metrics["follows_replaced_number"] = right(one_replaced, (A * last + B * before[other]) % P)
replaced = {
    "none": right(clean, following),
    "1 back": right(one_replaced, following),
    "further back": right(with_values_from(other, further_back), following),
    "all": right(with_values_from(other, list(range(LENGTH))), following),
}
metrics["further_back_replaced_accuracy"] = replaced["further back"]
metrics["all_replaced_accuracy"] = replaced["all"]

# %% [markdown]
# ### How does it add? In waves
#
# Write the embedding in the Fourier basis of the numbers mod P (see `lab/fourier.py`). A network
# that adds angles uses few frequencies. Test it by editing the embedding with a hook: keep only
# the key frequencies, remove them, or remove as many others picked at random.

# %%
table = model.W_E.detach()  # [p, d_model]
power = fourier.frequency_power(table)
everything = list(range(1, P // 2 + 1))
key = sorted((power.topk(KEY).indices + 1).tolist())
rest = [k for k in everything if k not in key]
picked = torch.randperm(len(rest), generator=torch.Generator().manual_seed(SEED)).tolist()
removed = [rest[i] for i in picked[:KEY]]
random_table = torch.randn(table.shape, generator=torch.Generator().manual_seed(SEED))
metrics["key_power"] = power.topk(KEY).values.sum().item()
metrics["key_power_random"] = fourier.frequency_power(random_table).topk(KEY).values.sum().item()


@torch.no_grad()
def logits_with(frequencies: list[int]) -> torch.Tensor:
    kept = fourier.keep_frequencies(table, frequencies)

    def replace(embedded: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        return kept[tokens]

    return model.run_with_hooks(tokens, fwd_hooks=[("hook_embed", replace)])[:, -1]


conditions = {
    "everything": everything,
    "only key": key,
    "without key": rest,
    "without random": [k for k in everything if k not in removed],
}
kept = {name: right(logits_with(chosen), following) for name, chosen in conditions.items()}
metrics["only_key_accuracy"] = kept["only key"]
metrics["without_key_accuracy"] = kept["without key"]
metrics["without_random_accuracy"] = kept["without random"]

# %% [markdown]
# ### Closed form: the logits are waves in A x[n-1] + B x[n-2] - c

# %%
residue = (following[:, None] - torch.arange(P, device=device)[None]) % P  # [row, p]
centred = clean - clean.mean(0)  # drop what does not depend on the input


def share_explained(frequency: int) -> float:
    wave = torch.cos(2 * torch.pi * frequency * residue / P)
    explained = (centred * wave).sum().square() / wave.square().sum()
    return (explained / centred.square().sum().clamp_min(1e-12)).item()


metrics["logits_explained"] = sum(share_explained(k) for k in key)
metrics["logits_explained_random"] = sum(share_explained(k) for k in removed)

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 3, f"x[n] = ({A} x[n-1] + {B} x[n-2]) mod {P}: one layer, {HEADS} heads")
plots.loss_curves(
    axes[0], history, ["loss", "test_loss"], marks={"guessing": math.log(P)},
    title=f"Unseen orbits: {metrics['test_accuracy']:.1%} right",
)  # fmt: skip
plots.heatmap(
    axes[1], back, f"Attention: {metrics['attention_to_last_two']:.0%} on the last two",
    x="places back", y="head", x_ticks=range(LENGTH), y_ticks=range(HEADS), limits=(0, 1), numbers=True,
)  # fmt: skip
follows = {"1 back, new sum": metrics["follows_replaced_number"]}
plots.bars(
    axes[2], replaced | follows, "Answers right with values of another sequence",
    y="share of answers", highlight=["1 back, new sum"],
)  # fmt: skip
plots.spectrum(axes[3], power, f"Embedding: {metrics['key_power']:.0%} in {KEY} frequencies", key=key)
plots.bars(
    axes[4], kept, "Accuracy with embedding frequencies kept", y="accuracy", highlight=["without key"]
)
activations = cache["blocks.0.mlp.hook_post"][:, -1]  # [row, d_mlp]
unit = int(activations.var(0).argmax())
grid = torch.zeros(P, P, device=device)
grid[before, last] = activations[:, unit]
plots.heatmap(axes[5], grid, f"MLP unit {unit}, the one that varies most", x="x[n-1]", y="x[n-2]")
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
