"""Board state: does a model that only sees moves keep the board, and in which terms?

    python experiment.py                       the run that expected.json describes
    python experiment.py --seed 1              other games, other weights
    python experiment.py --steps 3000          a better player: is its board better too?

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## The board inside an Othello model
#
# A small transformer is shown the moves of random games of 4 x 4 Othello and must say which moves are
# legal next. It never sees a board. Li et al. 2022 (arXiv:2210.13382) found the board inside such a model
# with nonlinear probes; Nanda, Lee & Wattenberg 2023 (arXiv:2309.00941) found that *linear* probes do,
# once squares are called mine and theirs (of the player to move) instead of black and white.

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
test, probe_set = games[held_out[opening].nonzero()[:2000, 0]], games[train_rows[:3000]]
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
# ### Linear probes at every depth
#
# `run_with_cache` keeps the residual stream. At five depths we fit, by least squares, a linear map from
# the stream to "mine / theirs / empty" of each square, on training games, and read it on held-out openings.
# Controls: labels in absolute colours, an untrained model, labels shuffled over positions.

# %%
DEPTHS = {"embedding": "blocks.0.hook_resid_pre"}
for l in range(LAYERS):
    DEPTHS[f"attention {l}"] = f"blocks.{l}.hook_resid_mid"
    DEPTHS[f"MLP {l}"] = f"blocks.{l}.hook_resid_post"


@torch.no_grad()
def streams(net: TransformerBridge, played: othello.Games) -> dict[str, torch.Tensor]:
    """The residual stream at each depth, [position, d_model], over all positions of games that go on."""
    _, cache = net.run_with_cache(played.tokens.to(device))
    return {depth: cache[name][played.going.to(device)] for depth, name in DEPTHS.items()}


def with_one(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, torch.ones_like(x[:, :1])], dim=1)


def fit_probe(x: torch.Tensor, board: torch.Tensor) -> torch.Tensor:
    """Least squares from the stream [position, d_model] to the board: [d_model + 1, square, 3]."""
    wanted = F.one_hot(board.long() + 1, 3).float()  # theirs, empty, mine (or white, empty, black)
    inputs = with_one(x)
    gram = inputs.T @ inputs + 1e-3 * len(x) * torch.eye(inputs.shape[1], device=device)  # a little ridge
    return torch.linalg.solve(gram, inputs.T @ wanted.flatten(1)).unflatten(1, (SQUARES, 3))


def read_probe(probe: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The board that a probe reads: -1, 0 or 1, [position, square]."""
    return torch.einsum("pd,dsk->psk", with_one(x), probe).argmax(-1) - 1


def scores(read: torch.Tensor, board: torch.Tensor) -> tuple[float, float]:
    """Share of squares read right: of all squares, and of those with a piece on them."""
    right = (read == board).float()
    return right.mean().item(), right[board != 0].mean().item()


board = {"fit": probe_set.state[probe_set.going].to(device), "test": test.state[test.going].to(device)}
colour = {"fit": probe_set.colours[probe_set.going].to(device), "test": test.colours[test.going].to(device)}
mixed = torch.randperm(len(board["fit"]), generator=torch.Generator().manual_seed(SEED)).to(device)
shuffled = {"fit": board["fit"][mixed], "test": board["test"]}
trained_streams = {"fit": streams(model, probe_set), "test": streams(model, test)}
untrained_streams = {"fit": streams(untrained, probe_set), "test": streams(untrained, test)}
cases = {
    "mine / theirs": (trained_streams, board),
    "black / white": (trained_streams, colour),
    "untrained, mine / theirs": (untrained_streams, board),
    "shuffled labels": (trained_streams, shuffled),
}
curves: dict[str, list[tuple[float, float]]] = {
    case: [
        scores(read_probe(fit_probe(at["fit"][depth], labels["fit"]), at["test"][depth]), labels["test"])
        for depth in DEPTHS
    ]
    for case, (at, labels) in cases.items()
}
best = max(range(1, len(DEPTHS)), key=lambda i: curves["mine / theirs"][i][0])
place = list(DEPTHS)[best]
metrics["board_mine"], metrics["pieces_mine"] = curves["mine / theirs"][best]
metrics["pieces_colour"] = max(pieces for _, pieces in curves["black / white"])
metrics["pieces_untrained"] = max(pieces for _, pieces in curves["untrained, mine / theirs"])
metrics["board_shuffled"] = curves["shuffled labels"][best][0]
metrics["mine_over_colour"] = metrics["pieces_mine"] - metrics["pieces_colour"]

# %% [markdown]
# ### Heuristic baselines: the commonest state of a square, and who placed the piece
#
# A piece belongs to whoever placed it, until it is turned. Anyone who remembers the moves can read that
# off without knowing the rules. The probes must beat it, above all on pieces that have changed sides.

# %%
placed = torch.zeros_like(test.state)  # [game, step, square], in absolute colours: who placed the piece
by_black, by_white = othello.start(4)
now = othello.state_from_bits(by_black, by_white, 4).repeat(len(test.tokens), 1)
for step in range(LENGTH):
    player = 1 if step % 2 == 0 else -1
    now = torch.where(F.one_hot(test.tokens[:, step], VOCABULARY)[:, :SQUARES] > 0, player, now)
    placed[:, step] = now
placed = torch.where(test.state == test.colours, placed, -placed)[test.going].to(device)
counts = torch.stack([(board["fit"] == value).sum(0) for value in (-1, 0, 1)])  # [3, square]
commonest = (counts.argmax(0) - 1).expand_as(board["test"])
metrics["board_commonest"] = scores(commonest, board["test"])[0]
metrics["pieces_placed"] = scores(placed, board["test"])[1]
changed = (placed != board["test"]) & (board["test"] != 0)  # pieces that have changed sides
reads = {
    case: read_probe(fit_probe(at["fit"][place], board["fit"]), at["test"][place])
    for case, at in {"trained": trained_streams, "untrained": untrained_streams}.items()
}
metrics["changed_mine"] = (reads["trained"] == board["test"])[changed].float().mean().item()
metrics["changed_untrained"] = (reads["untrained"] == board["test"])[changed].float().mean().item()

# %% [markdown]
# ### Is the board used? Flip one piece and see
#
# A probe shows that the board is there, not that it matters. Between the layers, move the stream as far as
# it would differ if one piece belonged to the other side (a regression of the stream on the board says how
# far), and compare the model's legal moves with those on the flipped board. Controls: no change, another
# square's change, a random direction, all of the same length; and the whole stream of another game.

# %%
SITE = "blocks.0.hook_resid_post"  # the output of block 0: an edit here reaches everything after it
stream = trained_streams["fit"]["MLP 0"]  # [position, d_model]
clock = torch.eye(LENGTH).expand(len(probe_set.going), LENGTH, LENGTH)[probe_set.going].to(device)
pieces = board["fit"].float()
causes = torch.cat([pieces, pieces.abs(), clock], dim=1)  # owner, presence, step
gram = causes.T @ causes + 1e-3 * len(causes) * torch.eye(causes.shape[1], device=device)
owner_directions = torch.linalg.solve(gram, causes.T @ stream)[:SQUARES]  # [square, d_model]

chooser = torch.Generator().manual_seed(SEED + 2)
game = test.going[:, 7].nonzero()[:, 0]  # games still going after their eighth token
state = test.state[game, 7]  # [case, square]
square, other = torch.multinomial((state != 0).float(), 2, generator=chooser).T  # two pieces of each
flipped = state.clone()
flipped[torch.arange(len(square)), square] *= -1
legal_now, legal_flipped = test.legal[game, 7], othello.legal_tokens(flipped)  # [case, token]
telling = (legal_now != legal_flipped).any(1) & legal_flipped.any(1)  # cases that can tell
game, state, square, other = game[telling], state[telling], square[telling], other[telling]
legal_now, legal_flipped = legal_now[telling], legal_flipped[telling]


def turn(at: torch.Tensor) -> torch.Tensor:
    """The change of the stream [case, d_model] that turns the piece on each case's square."""
    owner = state[torch.arange(len(at)), at].float().to(device)[:, None]
    return -2 * owner * owner_directions[at]


@torch.no_grad()
def logits_with(change: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
    """Logits [case, token] at the eighth token with ``change`` added there (or whole streams of ``rows``)."""

    def add(value: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        value[:, 7] = value[:, 7] + change
        return value if rows is None else value[rows]

    return model.run_with_hooks(test.tokens[game].to(device), fwd_hooks=[(SITE, add)])[:, 7].cpu()


def errors(logits: torch.Tensor, legal: torch.Tensor) -> float:
    """Li et al.'s measure: call the n likeliest tokens legal, if n are; count false and missed ones."""
    rank = logits.argsort(1, descending=True).argsort(1)
    return ((rank < legal.sum(1, keepdim=True)) != legal).float().sum(1).mean().item()


edit = turn(square)
length = edit.norm(dim=1, keepdim=True)
elsewhere, anyhow = turn(other), torch.randn(edit.shape, generator=chooser).to(device)
changes = {
    "no edit": torch.zeros_like(edit),
    "flip": edit,
    "another\nsquare": elsewhere / elsewhere.norm(dim=1, keepdim=True) * length,
    "random": anyhow / anyhow.norm(dim=1, keepdim=True) * length,
}
edited = {name: logits_with(change) for name, change in changes.items()}
after = {name: errors(logits, legal_flipped) for name, logits in edited.items()}
metrics["noop_change"] = (edited["no edit"] - clean.cpu()[game, 7]).abs().max().item()
metrics["errors_own"] = errors(clean.cpu()[game, 7], legal_now)
metrics["errors_before"], metrics["errors_flipped"] = after["no edit"], after["flip"]
for metric, name in (("flip", "flip"), ("other", "another\nsquare"), ("random", "random")):
    mended = (after["no edit"] - after[name]) / max(after["no edit"] - metrics["errors_own"], 1e-6)
    metrics[f"mended_{metric}"] = mended
donor = torch.randperm(len(game), generator=chooser)
metrics["errors_replaced"] = errors(logits_with(torch.zeros_like(edit), donor.to(device)), legal_now[donor])

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 3, f"4 x 4 Othello, {LAYERS} layers: the board inside the model")
plots.loss_curves(
    axes[0], history, ["legal_share"], log=False, y="share of positions", marks={
        "any empty square": metrics["legal_any_empty"], "untrained": metrics["legal_untrained"],
    }, title=f"Held-out openings: {metrics['legal_share']:.1%} of moves legal",
)  # fmt: skip
for index, (case, curve) in enumerate(curves.items()):
    style = {"color": plots.COLOURS[index], "linestyle": plots.STYLES[index], "label": case}
    axes[1].plot(range(len(DEPTHS)), [pieces for _, pieces in curve], marker="o", **style)
plots.levels(axes[1], {"whoever placed it": metrics["pieces_placed"]})
axes[1].set_xticks(range(len(DEPTHS)), [depth.replace(" ", "\n") for depth in DEPTHS])
axes[1].legend(fontsize=7.5, frameon=False)
plots.label(axes[1], "Linear probes: owner of each piece", "residual stream after", "share read right")
by_square = (reads["trained"] == board["test"]).float().mean(0).reshape(4, 4)
plots.heatmap(
    axes[2], by_square, f"Board read after {place}: {metrics['board_mine']:.0%} right", x="column", y="row",
    x_ticks="abcd", y_ticks="1234", numbers=True,
)  # fmt: skip
owners = {
    "trained": metrics["pieces_mine"],
    "trained,\nturned": metrics["changed_mine"],
    "untrained": metrics["pieces_untrained"],
    "untrained,\nturned": metrics["changed_untrained"],
    "who\nplaced it": metrics["pieces_placed"],
}
plots.bars(
    axes[3], owners, "All pieces, and those that changed sides (turned)", y="share of owners read right",
    highlight=["trained", "trained,\nturned"],
)  # fmt: skip
example = int((changed.sum(1) >= 3).int().argmax())
shown = torch.cat([board["test"][example].reshape(4, 4), reads["trained"][example].reshape(4, 4)], dim=1)
plots.heatmap(
    axes[4], shown, "One position: the board (left), as read (right)", x="column", y="row",
    x_ticks="abcdabcd", y_ticks="1234", signed=True, limits=(-1, 1),
)  # fmt: skip
axes[4].axvline(3.5, color="black", linewidth=2)
plots.bars(
    axes[5], after, f"One piece flipped in the stream: {len(game)} cases", y="errors on the flipped board",
    highlight=["flip"], marks={"unedited, own board": metrics["errors_own"]},
)  # fmt: skip
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
