"""From board to move: which parts of an Othello model keep the board, which turn it into legal moves?

    python experiment.py                       the run that expected.json describes
    python experiment.py --seed 1              other games, other weights
    python experiment.py --d-mlp 64            small MLPs: where does the work go?

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## One circuit for the board, another for the move?
#
# A small transformer learns legal moves of 4 x 4 Othello from moves alone, and keeps the board in its
# residual stream (Nanda, Lee & Wattenberg 2023, arXiv:2309.00941). To play it needs two things: the board,
# and the rule that turns a board into legal moves. Are they in different parts? He et al. 2024
# (arXiv:2402.12201) trace features through such a model; here we knock out one sublayer at a time and
# measure both: the board with a probe, the moves with the model's own output.

# %%
import torch
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
test, probe_set = games[held_out[opening].nonzero()[:1000, 0]], games[train_rows[:3000]]
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
# ### Depth by depth: when is the board there, when are the moves?
#
# Three readings of the residual stream at each depth: a linear probe for the owner of every piece; the
# *logit lens* (the model's own final norm and unembedding applied early); and a linear probe for legal
# moves, since early layers may hold them in another code than the unembedding's.

# %%
DEPTHS = {"embedding": "blocks.0.hook_resid_pre"}
for l in range(LAYERS):
    DEPTHS[f"attention {l}"] = f"blocks.{l}.hook_resid_mid"
    DEPTHS[f"MLP {l}"] = f"blocks.{l}.hook_resid_post"
FINAL = f"blocks.{LAYERS - 1}.hook_resid_post"


@torch.no_grad()
def streams(net: TransformerBridge, played: othello.Games) -> dict[str, torch.Tensor]:
    """The residual stream at each depth, [game, step, d_model]."""
    _, cache = net.run_with_cache(played.tokens.to(device))
    return {depth: cache[name] for depth, name in DEPTHS.items()}


def fit_linear(x: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Least squares with a little ridge and a constant: [input + 1, output]."""
    inputs = F.pad(x, (0, 1), value=1.0)
    gram = inputs.T @ inputs + 1e-3 * len(x) * torch.eye(inputs.shape[1], device=device)
    return torch.linalg.solve(gram, inputs.T @ wanted)


def read_linear(weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return F.pad(x, (0, 1), value=1.0) @ weights


going = {"fit": probe_set.going.to(device), "test": test.going.to(device)}
owner = {"fit": probe_set.state.to(device)[going["fit"]], "test": test.state.to(device)[going["test"]]}
legal = {"fit": probe_set.legal.to(device)[going["fit"]], "test": test.legal.to(device)[going["test"]]}


def board_probe(x: torch.Tensor) -> torch.Tensor:
    return fit_linear(x, F.one_hot(owner["fit"].long() + 1, 3).float().flatten(1))


def pieces_right(probe: torch.Tensor, x: torch.Tensor) -> float:
    """Share of the pieces on the board whose owner the probe reads right."""
    read = read_linear(probe, x).unflatten(1, (SQUARES, 3)).argmax(-1) - 1
    taken = owner["test"] != 0
    return (read == owner["test"])[taken].float().mean().item()


def top_is_legal(scores: torch.Tensor) -> float:
    """Share of positions where the highest score [position, token] is that of a legal token."""
    return legal["test"].gather(1, scores.argmax(1, keepdim=True)).float().mean().item()


@torch.no_grad()
def lens(stream: torch.Tensor) -> torch.Tensor:
    """The logit lens: final layer norm and unembedding applied to a stream [position, d_model]."""
    return model.unembed(model.ln_final(stream[None]))[0]


fit_streams, test_streams = streams(model, probe_set), streams(model, test)
untrained_fit, untrained_test = streams(untrained, probe_set), streams(untrained, test)
readings: dict[str, list[float]] = {"owner (probe)": [], "moves (probe)": [], "moves (logit lens)": []}
untrained_pieces, untrained_moves = [], []
for depth in DEPTHS:
    x, x_test = fit_streams[depth][going["fit"]], test_streams[depth][going["test"]]
    readings["owner (probe)"].append(pieces_right(board_probe(x), x_test))
    readings["moves (probe)"].append(top_is_legal(read_linear(fit_linear(x, legal["fit"].float()), x_test)))
    readings["moves (logit lens)"].append(top_is_legal(lens(x_test)))
    x, x_test = untrained_fit[depth][going["fit"]], untrained_test[depth][going["test"]]
    untrained_pieces.append(pieces_right(board_probe(x), x_test))
    untrained_moves.append(top_is_legal(read_linear(fit_linear(x, legal["fit"].float()), x_test)))
pieces, _, moves = readings.values()
after_attention = list(DEPTHS).index("attention 0")
metrics["lens_check"] = (lens(test_streams[f"MLP {LAYERS - 1}"][going["test"]])
                         - clean[going["test"]]).abs().max().item()  # fmt: skip
metrics["pieces_after_attention_0"] = pieces[after_attention]
metrics["pieces_after_mlp_0"] = pieces[after_attention + 1]
metrics["pieces_untrained"] = max(untrained_pieces)
metrics["lens_after_attention_0"] = moves[after_attention]
metrics["lens_after_mlp_0"] = moves[after_attention + 1]
metrics["lens_final"] = moves[-1]

# %% [markdown]
# ### Would the true board be enough for a linear reader?
#
# Give a linear map the true board (mine, theirs, empty of every square) and fit legal moves to it. A rule
# such as "an empty square beside a row of theirs that ends in mine" is not linear in the board, so even
# the perfect board leaves work for an MLP. What one hidden layer adds on the true board is the yardstick.

# %%
true_board = {split: F.one_hot(owner[split].long() + 1, 3).float().flatten(1) for split in owner}
linear = read_linear(fit_linear(true_board["fit"], legal["fit"].float()), true_board["test"])
random_layer = torch.randn(3 * SQUARES, D_MLP, generator=torch.Generator().manual_seed(SEED + 2)).to(device)
hidden = {split: F.gelu(board @ random_layer / 4) for split, board in true_board.items()}
nonlinear = read_linear(fit_linear(hidden["fit"], legal["fit"].float()), hidden["test"])
metrics["legal_linear_in_board"] = top_is_legal(linear)
metrics["legal_random_hidden"] = top_is_legal(nonlinear)

# %% [markdown]
# ### Knock out one sublayer at a time
#
# Replace a sublayer's output by its mean (per step) over training games. Then ask twice: is the board still
# in the final stream (a probe *fitted anew* to the ablated model), and are the moves still legal? Controls:
# its own output written back (no-op), a random change of the same size, and all sublayers at once.

# %%
PARTS = {}
for l in range(LAYERS):
    PARTS[f"attention {l}"] = f"blocks.{l}.hook_attn_out"
    PARTS[f"MLP {l}"] = f"blocks.{l}.hook_mlp_out"
with torch.no_grad():
    _, fit_cache = model.run_with_cache(probe_set.tokens.to(device))
means = {name: fit_cache[name].mean(0) for name in PARTS.values()}  # [step, d_model]
noise = torch.Generator().manual_seed(SEED + 3)


def keep(value: torch.Tensor, hook: HookPoint) -> torch.Tensor:
    return value


def mean_ablate(mean: torch.Tensor):
    def replace(value: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        return mean.expand_as(value)

    return replace


def same_size(mean: torch.Tensor):
    def shift(value: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        random = torch.randn(value.shape, generator=noise).to(value)
        return value + random / random.norm(dim=-1, keepdim=True) * (value - mean).norm(dim=-1, keepdim=True)

    return shift


@torch.no_grad()
def both(edits: list[tuple[str, object]]) -> dict[str, float]:
    """Pieces read from the final stream and legal moves, with ``edits`` (hook name, function) in place."""
    found: dict[str, torch.Tensor] = {}

    def store(value: torch.Tensor, hook: HookPoint) -> None:
        found["stream"] = value.clone()

    model.run_with_hooks(probe_set.tokens.to(device), fwd_hooks=[*edits, (FINAL, store)])
    probe = board_probe(found["stream"][going["fit"]])
    logits = model.run_with_hooks(test.tokens.to(device), fwd_hooks=[*edits, (FINAL, store)])
    changed = (logits - clean).abs().max().item()
    read = pieces_right(probe, found["stream"][going["test"]])
    return {"pieces": read, "moves": top_is_legal(logits[going["test"]]), "changed": changed}


intact = both([(name, keep) for name in PARTS.values()])
without = {part: both([(name, mean_ablate(means[name]))]) for part, name in PARTS.items()}
jolted = {part: both([(name, same_size(means[name]))]) for part, name in PARTS.items()}
nothing_left = both([(name, mean_ablate(means[name])) for name in PARTS.values()])
metrics["noop_change"] = intact["changed"]
metrics["pieces_intact"] = intact["pieces"]
for part, name in (("attention 0", "attention_0"), ("MLP 0", "mlp_0")):
    metrics[f"pieces_without_{name}"] = without[part]["pieces"]
    metrics[f"moves_without_{name}"] = without[part]["moves"]
metrics["moves_jolted_mlp_0"] = jolted["MLP 0"]["moves"]
metrics["pieces_jolted_mlp_0"] = jolted["MLP 0"]["pieces"]
metrics["moves_without_all"] = nothing_left["moves"]

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 3, f"4 x 4 Othello, {LAYERS} layers: the board, and the step from board to move")
plots.loss_curves(
    axes[0], history, ["legal_share"], log=False, y="share of positions", marks={
        "any empty square": metrics["legal_any_empty"], "untrained": metrics["legal_untrained"],
    }, title=f"Held-out openings: {metrics['legal_share']:.1%} of moves legal",
)  # fmt: skip
lines = {**readings, "owner, untrained": untrained_pieces, "moves (probe), untrained": untrained_moves}
for index, (name, values) in enumerate(lines.items()):
    style = {"color": plots.COLOURS[index], "linestyle": plots.STYLES[index % 4], "label": name}
    axes[1].plot(range(len(DEPTHS)), values, marker="o", **style)
axes[1].set_xticks(range(len(DEPTHS)), [depth.replace(" ", "\n") for depth in DEPTHS])
axes[1].legend(fontsize=7, frameon=False)
plots.label(axes[1], "What can be read at each depth", "residual stream after", "share right / legal")
yardsticks = {
    "linear in\ntrue board": metrics["legal_linear_in_board"],
    "hidden layer on\ntrue board": metrics["legal_random_hidden"],
    "linear in\nstream (att. 0)": readings["moves (probe)"][after_attention],
    "linear in\nstream (MLP 0)": readings["moves (probe)"][after_attention + 1],
    "model": metrics["lens_final"],
}
plots.bars(axes[2], yardsticks, "Legal moves by reader", y="share of positions", highlight=["model"])
parts = list(PARTS)
places = torch.arange(len(parts) + 1)
for panel, (case, found) in zip(
    axes[3:5], {"replaced by its mean": without, "jolted as much at random": jolted}.items(), strict=True
):
    shown = {"intact": intact, **found}
    for index, what in enumerate(("pieces", "moves")):
        heights = [values[what] for values in shown.values()]
        drawn = panel.bar(
            places + 0.4 * index - 0.2, heights, 0.4, color=plots.COLOURS[index], label=what
        )  # fmt: skip
        panel.bar_label(drawn, fmt="%.2f", fontsize=7)
    panel.set_xticks(places, [name.replace(" ", "\n") for name in shown])
    panel.set_ylim(0, 1.18)
    panel.legend(fontsize=8, frameon=False, ncols=2, loc="upper right")
    plots.label(panel, f"A sublayer's output {case}", "", "share right / legal")
loss = {part: [intact[what] - without[part][what] for what in ("pieces", "moves")] for part in parts}
for part, (in_pieces, in_moves) in loss.items():
    axes[5].scatter(in_pieces, in_moves, s=20, color=plots.COLOURS[part.startswith("MLP")])
    below = part.startswith("MLP")  # so that neighbours do not cover each other's name
    axes[5].annotate(
        part, (in_pieces, in_moves), xytext=(0, -6 if below else 6), textcoords="offset points", fontsize=8,
        ha="center", va="top" if below else "bottom",
    )  # fmt: skip
plots.label(axes[5], "Which sublayer serves what?", "pieces lost from the final stream", "legal moves lost")
axes[5].axhline(0, color="0.6", linewidth=0.6)
axes[5].axvline(0, color="0.6", linewidth=0.6)
axes[5].margins(0.35)
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
