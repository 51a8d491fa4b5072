"""Two conjectures tested on an Othello model: is its board linear, and is its code the same at all depths?

    python experiment.py                       the run that expected.json describes
    python experiment.py --seed 1              other games, other weights
    python experiment.py --layers 3            one more layer for the code to drift through

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Othello as a test bed for conjectures
#
# Because the truth (the board) is known, an Othello model can try general claims about transformers:
# 1. *Features are linear.* Li et al. 2022 (arXiv:2210.13382) needed nonlinear probes for black and white;
#    Nanda, Lee & Wattenberg 2023 (arXiv:2309.00941) found mine and theirs linear. So what counts as linear
#    depends on the right labels. Does a nonlinear probe gain anything once the labels are right?
# 2. *The residual stream keeps one code.* Does a probe fitted at one depth still read at another?

# %%
import torch
from torch import nn
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from lab import othello, plots
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # games, weights
LAYERS = 2  # transformer layers
D_MODEL = 64  # width of the residual stream
D_MLP = 256  # neurons per layer
HEADS = 4  # attention heads per layer
GAMES = 100_000  # random games; one opening in ten is held out
LENGTH = 12  # tokens of a game that the model sees (moves and passes)
STEPS = 1400  # training steps
BATCH = 64  # games per step
LR = 6e-3

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### The data: random legal games
#
# A token is a square, or "pass" where a player cannot move. Passes are tokens, so the players take
# turns at every token, and `state` can always be told from the side of the player who moves next:
# 1 mine, -1 theirs, 0 empty. The 4 x 4 board has only 60,060 games, so a new game alone proves little:
# we hold out one in ten of the *openings* (the first five tokens) with all that follows them.

# %%
games = othello.random_games(GAMES, 4, LENGTH, torch.Generator().manual_seed(SEED))
opening = (games.tokens[:, :5] * 18 ** torch.arange(5)).sum(1)
which, opening = opening.unique(return_inverse=True)
held_out = torch.rand(len(which), generator=torch.Generator().manual_seed(SEED + 1)) < 0.1
train_rows = (~held_out[opening]).nonzero()[:, 0]
test, probe_set = games[held_out[opening].nonzero()[:1500, 0]], games[train_rows[:4000]]
SQUARES, VOCABULARY = 16, 18

# %% [markdown]
# ### The model, and its training
#
# Moves are random, so the best possible answer is known: the same probability for every legal token.
# We train towards that distribution. It is next-move prediction with the luck of the draw averaged out.


# %%
def build(seed: int) -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL // HEADS, n_heads=HEADS, n_layers=LAYERS, n_ctx=LENGTH,
        d_vocab=VOCABULARY, d_vocab_out=VOCABULARY, d_mlp=D_MLP, act_fn="gelu", normalization_type="LNPre",
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=seed,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


model, untrained = build(SEED), build(SEED + 1).eval()
generator = torch.Generator().manual_seed(SEED)


def loss_at(step: int) -> torch.Tensor:
    batch = games[train_rows[torch.randint(len(train_rows), (BATCH,), generator=generator)]]
    target = batch.legal / batch.legal.sum(-1, keepdim=True).clamp(min=1)  # [game, step, token]
    log_probs = model(batch.tokens.to(device)).log_softmax(-1)
    return -(log_probs * target.to(device)).sum(-1)[batch.going.to(device)].mean()


def legal_share(logits: torch.Tensor, played: othello.Games) -> float:
    """Share of positions (of games that go on) where the most likely token is legal; [game, step, token]."""
    top_is_legal = played.legal.gather(-1, logits.cpu().argmax(-1, keepdim=True))[..., 0]
    return top_is_legal[played.going].float().mean().item()


def evaluate() -> dict[str, float]:
    return {"legal_share": legal_share(model(test.tokens.to(device)), test)}


history = train(
    model, loss_at, steps=STEPS, lr=LR, weight_decay=0.01, warmup=30, decay=True, clip=1.0,
    evaluate=evaluate, every=max(1, STEPS // 14),
)  # fmt: skip
with torch.no_grad():
    clean = model(test.tokens.to(device))  # [game, step, token]
    legal_untrained = legal_share(untrained(test.tokens.to(device)), test)
empty = test.state == 0
legal_of_empty = (test.legal[..., :SQUARES].sum(-1) / empty.sum(-1).clamp(min=1))[test.going]
metrics = {
    "legal_share": history["legal_share"][-1],
    "legal_any_empty": legal_of_empty.mean().item(),  # playing on any empty square
    "legal_untrained": legal_untrained,
}

# %% [markdown]
# ### The residual stream and the board
#
# `run_with_cache` keeps the stream at five depths. Labels come in two kinds: mine / theirs / empty (by the
# player who moves next), and black / white / empty.

# %%
DEPTHS = {"embedding": "blocks.0.hook_resid_pre"}
for l in range(LAYERS):
    DEPTHS[f"attention {l}"] = f"blocks.{l}.hook_resid_mid"
    DEPTHS[f"MLP {l}"] = f"blocks.{l}.hook_resid_post"
depths = list(DEPTHS)
PLACE = "MLP 0"  # where conjecture 1 is tried: between the layers


@torch.no_grad()
def streams(net: TransformerBridge, played: othello.Games) -> dict[str, torch.Tensor]:
    """The residual stream at each depth, [position, d_model], over positions of games that go on."""
    _, cache = net.run_with_cache(played.tokens.to(device))
    return {depth: cache[name][played.going.to(device)] for depth, name in DEPTHS.items()}


at = {"fit": streams(model, probe_set), "test": streams(model, test)}
at_untrained = {"fit": streams(untrained, probe_set), "test": streams(untrained, test)}
played = {"fit": probe_set, "test": test}
mine = {split: g.state[g.going].to(device) for split, g in played.items()}  # [position, square]
colour = {split: g.colours[g.going].to(device) for split, g in played.items()}


def pieces_right(logits: torch.Tensor, board: torch.Tensor) -> float:
    """Share of pieces whose owner is read right; logits [position, square * 3]."""
    read = logits.unflatten(1, (SQUARES, 3)).argmax(-1) - 1
    return (read == board)[board != 0].float().mean().item()


# %% [markdown]
# ### Conjecture 1: linear, with the right labels
#
# The same probe twice, trained in the same way: one matrix, and one hidden layer. If the board is linear,
# the hidden layer gains little. In the other labels, the linear probe should lag, and the hidden layer
# should make good (it can find out who is to move, and turn the signs). Controls: an untrained model, in
# which a hidden layer may *compute* what the model does not hold; and labels shuffled over positions.

# %%
PROBE_STEPS, PROBE_BATCH, PROBE_HIDDEN = 350, 512, 128


def probe_score(
    x: torch.Tensor, x_test: torch.Tensor, labels: dict[str, torch.Tensor], hidden: bool
) -> float:
    """Train a probe by gradient descent and return its share of pieces read right on held-out openings."""
    centre, spread = x.mean(0), x.std()
    torch.manual_seed(SEED)
    layers = [nn.Linear(D_MODEL, SQUARES * 3)]
    if hidden:
        layers = [nn.Linear(D_MODEL, PROBE_HIDDEN), nn.ReLU(), nn.Linear(PROBE_HIDDEN, SQUARES * 3)]
    probe = nn.Sequential(*layers).to(device)
    batches = torch.Generator().manual_seed(SEED)

    def probe_loss(step: int) -> torch.Tensor:
        rows = torch.randint(len(x), (PROBE_BATCH,), generator=batches).to(device)
        logits = probe((x[rows] - centre) / spread).unflatten(1, (SQUARES, 3))
        return F.cross_entropy(logits.flatten(0, 1), labels["fit"][rows].long().flatten() + 1)

    probe_steps = min(PROBE_STEPS, 10 * STEPS)  # a quick trial run gets quick probes
    train(probe, probe_loss, steps=probe_steps, lr=1e-2, decay=True, label="probe")
    with torch.no_grad():
        return pieces_right(probe((x_test - centre) / spread), labels["test"])


mixed = torch.randperm(len(mine["fit"]), generator=torch.Generator().manual_seed(SEED + 2)).to(device)
shuffled = {"fit": mine["fit"][mixed], "test": mine["test"]}
cases = {
    "mine / theirs": (at, mine),
    "black / white": (at, colour),
    "untrained": (at_untrained, mine),
    "shuffled": (at, shuffled),
}
linear, nonlinear = (
    {
        case: probe_score(stream["fit"][PLACE], stream["test"][PLACE], labels, hidden)
        for case, (stream, labels) in cases.items()
    }
    for hidden in (False, True)
)
for case, name in zip(cases, ("mine", "colour", "untrained", "shuffled"), strict=True):
    metrics[f"linear_{name}"], metrics[f"nonlinear_{name}"] = linear[case], nonlinear[case]
    metrics[f"gain_{name}"] = nonlinear[case] - linear[case]

# %% [markdown]
# ### Is the linear part all there is, and is it what the model uses?
#
# Erase from the stream the 16 directions that covary with the owners, so that a linear probe can hardly do
# better than guess. Does the hidden layer still read the board? And are moves still legal with that erased in
# the running model? Controls: erase nothing; erase the directions that go with 16 *random* labels, which
# carry about as much variance; erase everything (the stream's mean).

# %%
stream = at["fit"][PLACE]
mean_stream = stream.mean(0)


def span_of(labels: torch.Tensor) -> torch.Tensor:
    """An orthonormal basis [d_model, label] of the stream's covariances with labels [position, label]."""
    return torch.linalg.qr((stream - mean_stream).T @ (labels - labels.mean(0)) / len(stream)).Q


def erase(x: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """``x`` [..., d_model] with the span of ``directions`` set to its mean."""
    return x - (x - mean_stream) @ directions @ directions.T


noise = torch.randn(mine["fit"].shape, generator=torch.Generator().manual_seed(SEED + 3)).to(device)
spans = {
    "nothing": torch.zeros(D_MODEL, 1, device=device),
    "random labels": span_of(noise),
    "owners": span_of(mine["fit"].float()),
    "everything": torch.eye(D_MODEL, device=device),
}


@torch.no_grad()
def logits_without(directions: torch.Tensor) -> torch.Tensor:
    def hook_erase(value: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        return erase(value, directions)

    return model.run_with_hooks(test.tokens.to(device), fwd_hooks=[(DEPTHS[PLACE], hook_erase)])


erased: dict[str, list[float]] = {"linear": [], "hidden layer": [], "legal moves": []}
for directions in spans.values():
    x, x_test = erase(stream, directions), erase(at["test"][PLACE], directions)
    erased["linear"].append(probe_score(x, x_test, mine, False))
    erased["hidden layer"].append(probe_score(x, x_test, mine, True))
    erased["legal moves"].append(legal_share(logits_without(directions), test))
metrics["noop_change"] = (logits_without(spans["nothing"]) - clean).abs().max().item()
for i, name in enumerate(("nothing", "random", "owners", "all")):
    metrics[f"linear_without_{name}"] = erased["linear"][i]
    metrics[f"nonlinear_without_{name}"] = erased["hidden layer"][i]
    metrics[f"legal_without_{name}"] = erased["legal moves"][i]

# %% [markdown]
# ### Conjecture 2: one code at all depths
#
# Least-squares probes, fitted at each depth and read at every other (each stream centred and scaled to unit
# variance, so that growth alone does no harm). If the code stays, a row of the table stays bright. Blocks
# only add to the stream, so an untrained model's code stays in part: that is one control. The other turns
# the stream by a random rotation before reading: a lost code. A probe's weights may change though the
# model's code does not, so we compare the directions that covary with the owners as well.


# %%
def standard(stream: dict[str, dict[str, torch.Tensor]], split: str, depth: str) -> torch.Tensor:
    """The stream at a depth, centred, of unit mean variance, with a constant: [position, d_model + 1]."""
    fitted = stream["fit"][depth]
    return F.pad((stream[split][depth] - fitted.mean(0)) / fitted.var(0).mean().sqrt(), (0, 1), value=1.0)


def fit_probe(x: torch.Tensor) -> torch.Tensor:
    """Least squares from the stream to the board, [d_model + 1, square * 3]."""
    gram = x.T @ x + 1e-3 * len(x) * torch.eye(x.shape[1], device=device)
    return torch.linalg.solve(gram, x.T @ F.one_hot(mine["fit"].long() + 1, 3).float().flatten(1))


def transfer(stream: dict[str, dict[str, torch.Tensor]]) -> torch.Tensor:
    """Pieces read right by a probe fitted at one depth (row) at another (column)."""
    probes = [fit_probe(standard(stream, "fit", depth)) for depth in depths]
    xs = [standard(stream, "test", depth) for depth in depths]
    return torch.tensor([[pieces_right(x @ probe, mine["test"]) for x in xs] for probe in probes])


table, table_untrained = transfer(at), transfer(at_untrained)
random_matrix = torch.randn(D_MODEL, D_MODEL, generator=torch.Generator().manual_seed(SEED + 4)).to(device)
x, rotated = standard(at, "fit", PLACE), standard(at, "test", PLACE)
rotated[:, :-1] = rotated[:, :-1] @ torch.linalg.qr(random_matrix).Q
owner = mine["fit"].float() - mine["fit"].float().mean(0)
directions = torch.stack(
    [F.normalize(owner.T @ standard(at, "fit", d)[:, :-1], dim=1) for d in depths]
)  # [depth, square, d_model]
alike = torch.einsum("asd,bsd->ab", directions, directions) / SQUARES
before, after_mlp, last = depths.index("attention 0"), depths.index(PLACE), len(depths) - 2
metrics["own_attention_0"] = table[before, before].item()
metrics["attention_0_to_mlp_0"] = table[before, after_mlp].item()
metrics["mlp_0_to_last_attention"] = table[after_mlp, last].item()
metrics["same_untrained"] = table_untrained[after_mlp, last].item()
metrics["rotated"] = pieces_right(rotated @ fit_probe(x), mine["test"])
metrics["alike_over_mlp_0"] = alike[before, after_mlp].item()
metrics["alike_over_attention"] = alike[after_mlp, last].item()

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 3, f"4 x 4 Othello, {LAYERS} layers: two conjectures")
plots.loss_curves(
    axes[0], history, ["legal_share"], log=False, y="share of positions", marks={
        "any empty square": metrics["legal_any_empty"], "untrained": metrics["legal_untrained"],
    }, title=f"Held-out openings: {metrics['legal_share']:.1%} of moves legal",
)  # fmt: skip


def grouped(ax, groups: dict[str, list[float]], names: list[str], title: str) -> None:
    """Bars side by side: one group for each of ``names``, one colour for each of ``groups``."""
    width = 0.85 / len(groups)
    for index, (label, values) in enumerate(groups.items()):
        places = [i + width * (index - (len(groups) - 1) / 2) for i in range(len(names))]
        drawn = ax.bar(places, values, width, color=plots.COLOURS[index], label=label)
        ax.bar_label(drawn, fmt="%.2f", fontsize=6.5)
    ax.set_xticks(range(len(names)), [name.replace(" ", "\n", 1) for name in names])
    ax.set_ylim(0, 1.2)
    ax.legend(fontsize=7.5, frameon=False, ncols=len(groups), loc="upper center")
    plots.label(ax, title, "", "share right / legal")


grouped(
    axes[1], {"linear": list(linear.values()), "hidden layer": list(nonlinear.values())}, list(cases),
    f"Owner of each piece, read after {PLACE}",
)  # fmt: skip
grouped(axes[2], erased, list(spans), "Directions erased: what is left?")
short = ["embed", *(depth.replace("attention", "attn") for depth in depths[1:])]
for ax, values, title in (
    (axes[3], table, "Probe fitted at one depth, read at another"),
    (axes[4], table_untrained, "The same in an untrained model"),
    (axes[5], alike, "Cosine of the owners' directions"),
):
    plots.heatmap(
        ax, values, title, x="read at" if ax is not axes[5] else "depth", x_ticks=short, y_ticks=short,
        y="fitted at" if ax is not axes[5] else "depth", numbers=True, limits=(0, 1),
    )  # fmt: skip
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
