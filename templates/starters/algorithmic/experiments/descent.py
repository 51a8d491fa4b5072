"""Double descent in a network whose every part has a closed form: where is the peak, and what is it made of?

    python experiment.py                 the run that expected.json describes
    python experiment.py --seed 1        other data, other random features: the same peak
    python experiment.py --noise 0       clean labels: how much of the peak is left?

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Double descent, seen from inside
#
# Make a network wider and its test error falls, rises to a peak where it can just fit the training set,
# and falls again (Belkin et al. 2018, arXiv:1812.11118; in large networks Nakkiran et al. 2019,
# arXiv:1912.02292). Here is about the smallest network that does it: one hidden layer of ReLU units with
# random weights, of which only the readout is learned, by least squares. So every curve can be computed
# twice: measured, and predicted from the singular values of the hidden activations.

# %%
import torch
from torch.nn import functional as F
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from lab import plots
from lab.results import start_run

# %% knobs
SEED = 0  # data, features, noise
EXAMPLES = 100  # training examples; the peak should be at this many hidden units
D_IN = 20  # input dimensions
NOISE = 0.5  # standard deviation of the label noise; that of the clean labels is 1
RIDGE = 2.0  # penalty on the squared readout, for the control without a peak
REPEATS = 15  # independent draws of everything; curves are medians over them
STEPS = 2000  # steps of gradient descent, to see that it ends at the same readout
WEAK = 5  # how many of the weakest directions to remove at the peak

# %%
run = start_run(globals())
device = torch.device("cpu")  # many small SVDs in double precision: a GPU is no faster, and MPS has none
RATIOS = [0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0, 8.0]  # hidden units per example
widths = [max(1, round(ratio * EXAMPLES)) for ratio in RATIOS]
PEAK, BEYOND = RATIOS.index(1.0), RATIOS.index(8.0)
torch.set_default_dtype(torch.float64)  # near the peak the singular values are tiny


# %% [markdown]
# ### Data and network
#
# Inputs on a sphere, labels from one linear direction plus noise. Hidden weights are random and stay so;
# the readout is the solution of smallest norm that fits the training labels best, which is what gradient
# descent from zero ends at. (With more units than examples there are many that fit perfectly.)


# %%
class RandomFeatures(HookedRootModule):
    """One hidden ReLU layer with fixed random weights [d_in, width] and a linear readout [width]."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.register_buffer("readout", torch.zeros(weights.shape[1]))
        self.hook_post = HookPoint()  # [example, width]
        self.setup()  # tells the HookPoints their names

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.hook_post(F.relu(x @ self.weights)) @ self.readout  # [example]


def draw(repeat: int) -> dict[str, torch.Tensor]:
    """One world: training and test inputs, clean labels, noise, and the weights of the widest network."""
    generator = torch.Generator().manual_seed(1000 * SEED + repeat)

    def sphere(rows: int) -> torch.Tensor:
        return F.normalize(torch.randn(rows, D_IN, generator=generator), dim=-1) * D_IN**0.5

    teacher = F.normalize(torch.randn(D_IN, generator=generator), dim=0)
    x, x_test = sphere(EXAMPLES), sphere(1000)
    world = {
        "x": x, "y": x @ teacher, "x_test": x_test, "y_test": x_test @ teacher,
        "noise": torch.randn(EXAMPLES, generator=generator),
        "weights": torch.randn(D_IN, widths[-1], generator=generator) / D_IN**0.5,
    }  # fmt: skip
    return {name: value.to(device) for name, value in world.items()}


def pseudo_inverse(hidden: torch.Tensor, ridge: float = 0.0) -> torch.Tensor:
    """Maps labels to the readout, [width, example]; every singular value s becomes s / (s^2 + ridge)."""
    u, s, vt = torch.linalg.svd(hidden, full_matrices=False)
    gain = torch.where(s > 1e-10 * s[0], s / (s.square() + ridge), 0.0)
    return (vt.T * gain) @ u.T


# %% [markdown]
# ### The sweep over width
#
# For each width: error with noisy labels, with clean labels and with a ridge penalty; norm of the
# readout; smallest singular value of the hidden activations. Then two closed forms. Labels reach the
# predictions through one matrix, `h_test @ pinv(h_train)`, so noise of variance v adds v times its
# squared norm to the error. And a label's pull on its own prediction (the leverage) is, on average,
# exactly rank / examples. Check both: draw noise many times, and change one label by 1 and fit again.

# %%
NAMES = [
    "train_error", "noisy_labels", "clean_labels", "with_ridge", "readout_norm", "smallest", "noise_measured",
    "noise_predicted", "own", "own_error", "elsewhere",
]  # fmt: skip
table = {name: torch.zeros(REPEATS, len(widths)) for name in NAMES}
worlds = [draw(repeat) for repeat in range(REPEATS)]


def network(world: dict[str, torch.Tensor], width: int) -> tuple:
    """A network with no readout yet, and its hidden activations on training and test inputs."""
    model = RandomFeatures(world["weights"][:, :width])
    _, cache = model.run_with_cache(world["x"])
    _, cache_test = model.run_with_cache(world["x_test"])
    return model, cache["hook_post"], cache_test["hook_post"]


def error(predicted: torch.Tensor, wanted: torch.Tensor) -> float:
    """Mean squared error; predicting zero for everything would have about 1."""
    return (predicted - wanted).square().mean().item()


for repeat, world in enumerate(worlds):
    y = world["y"] + NOISE * world["noise"]
    bumped = y.clone()
    bumped[0] += 1.0  # the first training example gets another label
    for index, width in enumerate(widths):
        model, hidden, hidden_test = network(world, width)
        solve = pseudo_inverse(hidden)  # [width, training example]
        model.readout = pseudo_inverse(hidden, RIDGE) @ y
        ridged = model(world["x_test"])
        model.readout = solve @ world["y"]
        clean = model(world["x_test"])
        model.readout = solve @ bumped
        after, after_test = model(world["x"]), model(world["x_test"])
        model.readout = solve @ y
        fitted, predicted = model(world["x"]), model(world["x_test"])

        through = hidden_test @ solve  # [test example, training example]
        leverage = (hidden @ solve).diagonal()
        many = torch.randn(EXAMPLES, 100, generator=torch.Generator().manual_seed(repeat)).to(y)
        row = {
            "train_error": error(fitted, y),
            "noisy_labels": error(predicted, world["y_test"]),
            "clean_labels": error(clean, world["y_test"]),
            "with_ridge": error(ridged, world["y_test"]),
            "readout_norm": model.readout.norm().item(),
            "smallest": torch.linalg.svdvals(hidden)[-1].item(),
            "noise_measured": (through @ many).square().mean().item(),
            "noise_predicted": through.square().sum(1).mean().item(),
            "own": leverage.mean().item(),
            "own_error": ((after - fitted)[0] - leverage[0]).abs().item(),
            "elsewhere": (after_test - predicted).square().mean().sqrt().item(),
        }
        for name in NAMES:
            table[name][repeat, index] = row[name]

curve = {name: values.median(0).values for name, values in table.items()}  # each [width]

# %% [markdown]
# ### Where is the peak, and was it foreseen?
#
# Random ReLU features act like a linear part plus an unpredictable rest of variance `1/4 - 1/(2π)` per
# unit (Mei and Montanari 2019, arXiv:1908.05355). A random matrix of that size has its smallest singular
# value near `|sqrt(width) - sqrt(examples)|` of those: it touches zero exactly where width = examples,
# and dividing by it is what blows up the readout.

# %%
rest_std = (0.25 - 1 / (2 * torch.pi)) ** 0.5
edge = rest_std * (torch.tensor(widths).double().sqrt() - EXAMPLES**0.5).abs()  # [width]
near = [i for i, ratio in enumerate(RATIOS) if 0.4 <= ratio <= 2 and i != PEAK]
enough = torch.tensor(widths).double().clamp_max(EXAMPLES) / EXAMPLES  # rank / examples
noise_ratio = (table["noise_measured"] / table["noise_predicted"]).mean(0)  # [width]
metrics = {
    "peak_ratio": RATIOS[int(curve["noisy_labels"].argmax())],
    "norm_peak_ratio": RATIOS[int(curve["readout_norm"].argmax())],
    "smallest_ratio": RATIOS[int(curve["smallest"].argmin())],
    "peak_height": (curve["noisy_labels"][PEAK] / curve["noisy_labels"][BEYOND]).item(),
    "ridge_height": (curve["with_ridge"][PEAK] / curve["with_ridge"][BEYOND]).item(),
    "noise_raises_peak": (curve["noisy_labels"][PEAK] / curve["clean_labels"][PEAK]).item(),
    "edge_error": ((curve["smallest"] - edge)[near] / edge[near]).abs().mean().item(),
    "noise_error": (noise_ratio - 1).abs().max().item(),
    "leverage_error": max((curve["own"] - enough).abs().max().item(), table["own_error"].max().item()),
    "spill_peak": curve["elsewhere"][PEAK].item(),
    "spill_beyond": curve["elsewhere"][BEYOND].item(),
}

# %% [markdown]
# ### What is the peak made of? Remove directions of the hidden layer
#
# If the story is right, a handful of directions in the hidden layer, those that the training set hardly
# excites, make the peak. Take a network at the peak, *leave its readout alone*, and remove directions from
# `hook_post` on the test inputs: the weakest few, as many at random, the strongest few, none.


# %%
@torch.no_grad()
def error_without(model: RandomFeatures, world: dict, directions: torch.Tensor) -> float:
    """Test error when orthonormal directions [width, k] are taken out of the hidden layer by a hook."""

    def remove(post: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        return post - post @ directions @ directions.T

    return error(model.run_with_hooks(world["x_test"], fwd_hooks=[("hook_post", remove)]), world["y_test"])


edited = {"as it is": [], "without weakest": [], "without random": [], "without strongest": []}
noop, weak_share = 0.0, []
for repeat, world in enumerate(worlds):
    model, hidden, _ = network(world, widths[PEAK])
    model.readout = pseudo_inverse(hidden) @ (world["y"] + NOISE * world["noise"])
    v = torch.linalg.svd(hidden, full_matrices=False)[2].T  # [width, direction], strongest first
    pick = torch.randperm(v.shape[1], generator=torch.Generator().manual_seed(SEED + repeat))[:WEAK]
    edited["as it is"].append(error_without(model, world, v[:, :0]))
    edited["without weakest"].append(error_without(model, world, v[:, -WEAK:]))
    edited["without random"].append(error_without(model, world, v[:, pick.to(device)]))
    edited["without strongest"].append(error_without(model, world, v[:, :WEAK]))
    weak_share.append(((v[:, -WEAK:].T @ model.readout).norm() / model.readout.norm()).square().item())
    noop = max(noop, abs(edited["as it is"][-1] - error(model(world["x_test"]), world["y_test"])))
edited = {name: torch.tensor(values).median().item() for name, values in edited.items()}
metrics["weak_share"] = torch.tensor(weak_share).median().item()
metrics["without_weakest"] = edited["without weakest"] / edited["as it is"]
metrics["without_random"] = edited["without random"] / edited["as it is"]
metrics["noop_change"] = noop

# %% [markdown]
# ### Does gradient descent end there?
#
# Far beyond the peak infinitely many readouts fit the training set. Plain gradient descent (here with
# momentum) from zero can only add training activations to the readout, so of all of them it finds the
# shortest.

# %%
world = worlds[0]
model, hidden, _ = network(world, widths[RATIOS.index(4.0)])
y = world["y"] + NOISE * world["noise"]
shortest = pseudo_inverse(hidden) @ y
readout, velocity = torch.zeros_like(shortest), torch.zeros_like(shortest)
rate = 1.0 / torch.linalg.matrix_norm(hidden, 2).square()
for _ in range(STEPS):
    velocity = 0.95 * velocity - rate * (hidden.T @ (hidden @ readout - y))
    readout = readout + velocity
metrics["descent_distance"] = ((readout - shortest).norm() / shortest.norm()).item()

# %% [markdown]
# ### One label's footprint
#
# At the peak and far beyond it the network fits a single changed label perfectly: it memorises. What
# differs is what that does to everything else. Draw the change of each test prediction against how
# similar the test input is to the changed example.

# %%
middle = int(table["elsewhere"][:, PEAK].sub(curve["elsewhere"][PEAK]).abs().argmin())  # a typical draw
world = worlds[middle]
similarity = F.cosine_similarity(world["x_test"], world["x"][:1])  # [test example]
footprint = {}
for index in (PEAK, BEYOND):
    _, hidden, hidden_test = network(world, widths[index])
    footprint[index] = (hidden_test @ pseudo_inverse(hidden))[:, 0]  # [test example]
metrics["footprint_local"] = torch.corrcoef(torch.stack([similarity, footprint[BEYOND]]))[0, 1].item()

# %%
fig, axes = plots.figure(2, 3, f"Double descent: {EXAMPLES} examples, random ReLU features, least squares")
styles = dict(zip(["noisy_labels", "clean_labels", "with_ridge", "train_error"], plots.STYLES, strict=True))
for (name, style), colour in zip(styles.items(), plots.COLOURS, strict=False):
    axes[0].plot(RATIOS, curve[name].clamp_min(1e-4).tolist(), style, color=colour, marker=".",
                 label=name.replace("_", " "))  # fmt: skip
plots.levels(axes[0], {"answering 0": 1.0})
plots.label(axes[0], f"Error: highest at ratio {metrics['peak_ratio']:g}", "hidden units per example",
            "squared error")  # fmt: skip
axes[1].plot(RATIOS, curve["readout_norm"].tolist(), color=plots.COLOURS[0], marker=".", label="readout norm")
axes[1].plot(RATIOS, curve["smallest"].tolist(), "--", color=plots.COLOURS[1], marker=".",
             label="smallest singular value")  # fmt: skip
axes[1].plot(RATIOS, edge.clamp_min(1e-3).tolist(), ":", color="black", label="the same, predicted")
plots.label(axes[1], "Readout and weakest direction", "hidden units per example", "size")
axes[2].plot(RATIOS, curve["own"].tolist(), color=plots.COLOURS[0], marker=".", label="at its own example")
axes[2].plot(RATIOS, enough.tolist(), ":", color="black", label="rank / examples")
axes[2].plot(RATIOS, curve["elsewhere"].tolist(), "--", color=plots.COLOURS[1], marker=".",
             label="at test points (rms)")  # fmt: skip
plots.label(axes[2], "One label changed by 1", "hidden units per example", "change of the prediction")
for ax in axes[:3]:
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.axvline(1, color="0.7", linewidth=0.8)
    ax.set_xticks([0.1, 0.4, 1, 2, 4, 8], ["0.1", "0.4", "1", "2", "4", "8"])
    ax.minorticks_off()
    ax.legend(fontsize=7.5, frameon=False)
for index, colour in ((PEAK, plots.COLOURS[1]), (BEYOND, plots.COLOURS[0])):
    axes[3].scatter(similarity.tolist(), footprint[index].tolist(), s=5, color=colour, alpha=0.6,
                    label=f"{RATIOS[index]:g} units per example")  # fmt: skip
axes[3].legend(fontsize=7.5, frameon=False)
plots.label(axes[3], "Footprint of that one label", "cosine of test input to the example",
            "change of the prediction")  # fmt: skip
plots.bars(
    axes[4], edited, f"At the peak, {WEAK} hidden directions removed", y="test error",
    highlight=["without weakest"], marks={"answering 0": 1.0},
)  # fmt: skip
axes[4].set_yscale("log")
for index, colour in ((RATIOS.index(0.4), "0.5"), (PEAK, plots.COLOURS[1]), (BEYOND, plots.COLOURS[0])):
    _, hidden, _ = network(worlds[middle], widths[index])
    values = torch.linalg.svdvals(hidden)
    axes[5].plot(torch.linspace(0, 1, len(values)).tolist(), values.tolist(), color=colour,
                 label=f"{RATIOS[index]:g} units per example")  # fmt: skip
axes[5].set_yscale("log")
axes[5].legend(fontsize=7.5, frameon=False)
plots.label(axes[5], "Singular values of the hidden layer", "rank, strongest to weakest", "singular value")
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
