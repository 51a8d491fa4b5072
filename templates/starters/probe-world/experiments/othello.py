"""A world model in miniature: 6 x 6 Othello read, and rewritten, inside a transformer.

    python experiment.py                        the run that expected.json describes
    python experiment.py --seed 1               other games, other weights
    python experiment.py --steps 5000           a better player: is its board better too?

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Moves in, board inside
#
# A small transformer sees the first moves of random games of 6 x 6 Othello, as bare names of squares, and
# must say which moves are legal next. Nobody shows it a board. Li et al. 2022 (arXiv:2210.13382) found a
# board in such a model with nonlinear probes, and changed the model's moves by editing it. Nanda, Lee &
# Wattenberg 2023 (arXiv:2309.00941) found that *linear* probes do, if squares are called mine and theirs (of
# the player to move) rather than black and white.

# %%
import torch
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from lab import othello, plots
from lab.directions import random_like
from lab.probe_fits import solve_ridge
from lab.probes import fit_probe
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # games, weights
LENGTH = 10  # moves of a game that the model sees
LAYERS = 2  # transformer layers
D_MODEL = 64  # width of the residual stream
D_MLP = 256  # neurons per layer
HEADS = 4  # attention heads per layer
GAMES = 40_000  # random games; one opening in ten is held out
STEPS = 1400  # training steps
BATCH = 96  # games per step
LR = 6e-3
SITE = "attention 1"  # where the stream is edited: attention 0, MLP 0, attention 1
STRENGTH = 1.0  # size of the edit; 1 is the size that the regression suggests

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### Random legal games
#
# A token is a square (or a pass, rare so early). One opening in ten (the first four moves) is held out with
# everything that follows it: no test game shares more than three moves with a training game.

# %%
SQUARES, TOKENS = 36, 38
games = othello.random_games(GAMES, 6, LENGTH, torch.Generator().manual_seed(SEED))
opening = (games.tokens[:, :4] * TOKENS ** torch.arange(4)).sum(1)
which, opening = opening.unique(return_inverse=True)
held_out = torch.rand(len(which), generator=torch.Generator().manual_seed(SEED + 1)) < 0.1
train_rows = (~held_out[opening]).nonzero()[:, 0]
test, probe_set = games[held_out[opening].nonzero()[:1500, 0]], games[train_rows[:2500]]

# %% [markdown]
# ### The model, trained on the spot
#
# Moves are random, so the best possible answer is known: equal probability for every legal move. We train
# towards that; it is next-move prediction with the luck of the draw averaged out.


# %%
def build(seed: int) -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL // HEADS, n_heads=HEADS, n_layers=LAYERS, n_ctx=LENGTH,
        d_vocab=TOKENS, d_vocab_out=TOKENS, d_mlp=D_MLP, act_fn="gelu", normalization_type="LNPre",
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


def legal_share(logits: torch.Tensor) -> float:
    """Share of test positions where the likeliest token is legal; logits [game, step, token]."""
    right = test.legal.gather(-1, logits.cpu().argmax(-1, keepdim=True))[..., 0]
    return right[test.going].float().mean().item()


history = train(
    model, loss_at, steps=STEPS, lr=LR, weight_decay=0.01, warmup=30, decay=True, clip=1.0,
    evaluate=lambda: {"legal_share": legal_share(model(test.tokens.to(device)))}, every=max(1, STEPS // 10),
)  # fmt: skip
with torch.no_grad():
    clean = model(test.tokens.to(device)).cpu()  # [game, step, token]
    legal_untrained = legal_share(untrained(test.tokens.to(device)))
empty = (test.state == 0)[test.going]
metrics = {
    "legal_share": history["legal_share"][-1],
    "legal_any_empty": (test.legal[test.going][:, :SQUARES].sum(-1) / empty.sum(-1)).mean().item(),
    "legal_untrained": legal_untrained,
}

# %% [markdown]
# ### Linear probes at five depths
#
# Least squares from the residual stream to "mine, empty, theirs" of all squares, fitted on training games,
# read on held-out openings, counted on squares with a piece. Controls: absolute colours, an untrained model,
# and boards shuffled over positions. Baseline: a piece belongs to whoever put it there.

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


def read(seen: torch.Tensor, labels: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Fit on ``seen`` [position, d_model] and ``labels`` [position, square]; the boards read off ``new``."""
    wanted = F.one_hot(labels.long() + 1, 3).flatten(1).double()  # theirs, empty, mine (or white ... black)
    middle, centre = seen.double().mean(0), wanted.mean(0)
    weights = solve_ridge(seen.double() - middle, wanted - centre, penalty=1.0)
    scores = (new.double() - middle) @ weights + centre
    return scores.unflatten(1, (SQUARES, 3)).argmax(-1) - 1


def owners(boards: torch.Tensor, truth: torch.Tensor) -> float:
    """Share of the pieces whose owner is right."""
    return (boards == truth)[truth != 0].float().mean().item()


truth = {"fit": probe_set.state[probe_set.going].to(device), "test": test.state[test.going].to(device)}
colour = {"fit": probe_set.colours[probe_set.going].to(device), "test": test.colours[test.going].to(device)}
mixed = torch.randperm(len(truth["fit"]), generator=torch.Generator().manual_seed(SEED)).to(device)
ours = {"fit": streams(model, probe_set), "test": streams(model, test)}
theirs = {"fit": streams(untrained, probe_set), "test": streams(untrained, test)}
cases = {
    "mine / theirs": (ours, truth),
    "black / white": (ours, colour),
    "untrained model": (theirs, truth),
    "shuffled boards": (ours, {"fit": truth["fit"][mixed], "test": truth["test"]}),
}
curves = {
    case: [owners(read(at["fit"][d], labels["fit"], at["test"][d]), labels["test"]) for d in DEPTHS]
    for case, (at, labels) in cases.items()
}
last = len(DEPTHS) - 2 if LAYERS > 1 else 1  # the depth before the last MLP
placed, now = torch.zeros_like(test.state), torch.zeros(len(test.tokens), SQUARES, dtype=torch.int8)
now[:] = othello.state_from_bits(*othello.start(6), 6)
for step in range(LENGTH):
    here = F.one_hot(test.tokens[:, step], TOKENS)[:, :SQUARES] > 0
    now = torch.where(here, torch.tensor(1 if step % 2 == 0 else -1, dtype=torch.int8), now)
    placed[:, step] = torch.where((test.state == test.colours)[:, step], now, -now)
placed = placed[test.going].to(device)
turned = (placed != truth["test"]) & (truth["test"] != 0)  # pieces that have changed sides
reads = {
    name: read(at["fit"][place], truth["fit"], at["test"][place])
    for name, at in {"trained": ours, "untrained": theirs}.items()
    for place in [list(DEPTHS)[last]]
}
metrics |= {
    "pieces_mine": max(curves["mine / theirs"]),
    "pieces_colour": max(curves["black / white"]),
    "pieces_untrained": max(curves["untrained model"]),
    "pieces_shuffled": max(curves["shuffled boards"]),
    "pieces_placed": owners(placed, truth["test"]),
    "turned_trained": (reads["trained"] == truth["test"])[turned].float().mean().item(),
    "turned_untrained": (reads["untrained"] == truth["test"])[turned].float().mean().item(),
}

# %% [markdown]
# ### One square, with all its controls
#
# `fit_probe` holds whole games out, shuffles labels, takes an untrained model along and prints what speaks
# against the probe. The square is a central one, which changes hands often: c3.

# %%
square_c3 = 14
label_c3 = truth["fit"][:, square_c3].long()
game_of = torch.arange(len(probe_set.tokens))[:, None].expand(-1, LENGTH)[probe_set.going]
taken = (label_c3 != 0).cpu()
report_c3 = fit_probe(
    ours["fit"][list(DEPTHS)[last]][taken], label_c3[taken], kind="ridge", groups=game_of[taken], seed=SEED,
    untrained=theirs["fit"][list(DEPTHS)[last]][taken], repeats=5,
)  # fmt: skip
print(f"c3, mine or theirs: {report_c3}")
metrics["selectivity_c3"] = report_c3.selectivity

# %% [markdown]
# ### Rewrite the board
#
# A probe shows that the board can be read, not that the model reads it. So turn one piece: move the stream
# by as much as a regression of the stream on the board says that it differs between owners, and compare the
# model's moves with the legal moves of the board with that piece turned. Errors are counted as Li et al.
# do: if n moves are legal, the n likeliest tokens are called legal; false and missed ones add up.
# Controls of equal length: the probe's own weights, another square, a random direction. The most that an
# edit could do: the whole stream of a game that has another board.

# %%
AT = 7  # the position that is edited (the eighth move); the board is the one after it
place = SITE if SITE in DEPTHS else list(DEPTHS)[1]
# In TransformerLens 4.3 hook_resid_mid is the input of the MLP's norm: an edit there never enters the stream.
WRITE = DEPTHS[place].replace("hook_resid_mid", "hook_attn_out")
stream, pieces = ours["fit"][place].double(), truth["fit"].double()
clock = torch.eye(LENGTH).expand(len(probe_set.going), LENGTH, LENGTH)[probe_set.going].to(device).double()
causes = torch.cat([pieces, pieces.abs(), clock], dim=1)  # owner and presence of every piece, and the step
writes = solve_ridge(causes, stream, penalty=1.0)[:SQUARES].float()  # [square, d_model]
reading = solve_ridge(stream - stream.mean(0), pieces - pieces.mean(0), penalty=1.0).T.float()
chooser = torch.Generator().manual_seed(SEED + 2)
game = test.going[:, AT].nonzero()[:, 0]
state = test.state[game, AT]  # [case, square]
square, other = torch.multinomial((state != 0).float(), 2, generator=chooser).T  # two pieces of each board
flipped = state.clone()
flipped[torch.arange(len(square)), square] *= -1
legal_now, legal_flipped = test.legal[game, AT], othello.legal_tokens(flipped)
telling = (legal_now != legal_flipped).any(1) & legal_flipped.any(1)  # cases that can tell
game, state, square, other = game[telling], state[telling], square[telling], other[telling]
legal_now, legal_flipped = legal_now[telling], legal_flipped[telling]


def side(at: torch.Tensor) -> torch.Tensor:
    return state[torch.arange(len(at)), at].float().to(device)[:, None]


def scaled(change: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return change / change.norm(dim=1, keepdim=True) * like.norm(dim=1, keepdim=True)


turn = -2 * side(square) * writes[square]  # [case, d_model]
changes = {
    "turn it": turn,
    "probe weights": scaled(-side(square) * reading[square], turn),
    "other square": scaled(-side(other) * writes[other], turn),
    "random": random_like(turn, seed=SEED),
}


@torch.no_grad()
def logits_with(change: torch.Tensor) -> torch.Tensor:
    """Logits [case, token] at the edited position, with ``change`` [case, d_model] added there."""

    def add(value: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        value = value.clone()
        value[:, AT] = value[:, AT] + change
        return value

    return model.run_with_hooks(test.tokens[game].to(device), fwd_hooks=[(WRITE, add)])[:, AT].cpu()


def errors(logits: torch.Tensor, legal: torch.Tensor) -> float:
    rank = logits.argsort(1, descending=True).argsort(1)
    return ((rank < legal.sum(1, keepdim=True)) != legal).float().sum(1).mean().item()


own = errors(clean[game, AT], legal_now)  # what it gets wrong anyway
before = errors(clean[game, AT], legal_flipped)
strengths = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0]
doses = {
    name: [errors(logits_with(s * change), legal_flipped) for s in strengths]
    for name, change in changes.items()
}
edited = {name: logits_with(STRENGTH * change) for name, change in changes.items()}
mended = {
    name: (before - errors(logits, legal_flipped)) / max(before - own, 1e-6)
    for name, logits in edited.items()
}
opened, closed = legal_flipped & ~legal_now, legal_now & ~legal_flipped
chance = {name: logits.softmax(-1) for name, logits in {"no edit": clean[game, AT], **edited}.items()}
moved = {
    name: [(p * kind).sum().item() / max(kind.sum().item(), 1) for kind in (opened, closed)]
    for name, p in chance.items()
}
donor = torch.randperm(len(game), generator=chooser)
with torch.no_grad():
    there = model.run_with_cache(test.tokens[game].to(device))[1][DEPTHS[place]][:, AT]
replaced = logits_with(there[donor.to(device)] - there)
metrics |= {
    "errors_own": own,
    "errors_before": before,
    "mended": mended["turn it"],
    "mended_probe": mended["probe weights"],
    "mended_other": mended["other square"],
    "mended_random": mended["random"],
    "gain_opened": moved["turn it"][0] - moved["no edit"][0],
    "gain_closed": moved["turn it"][1] - moved["no edit"][1],
    "errors_replaced": errors(replaced, legal_now[donor]),
    "noop_change": (logits_with(0 * turn) - clean[game, AT]).abs().max().item(),
}

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 3, f"6 x 6 Othello, {LAYERS} layers: the board inside the model")
plots.loss_curves(
    axes[0], history, ["legal_share"], log=False, y="share of positions",
    marks={"any empty square": metrics["legal_any_empty"]},
    title=f"Held-out openings: {metrics['legal_share']:.1%} of moves legal",
)  # fmt: skip
for index, (case, curve) in enumerate(curves.items()):
    style = {"color": plots.COLOURS[index], "linestyle": plots.STYLES[index], "label": case}
    axes[1].plot(range(len(DEPTHS)), curve, marker="o", **style)
plots.levels(axes[1], {"whoever placed it": metrics["pieces_placed"]})
axes[1].set_xticks(range(len(DEPTHS)), [depth.replace(" ", "\n") for depth in DEPTHS])
axes[1].legend(fontsize=7.5, frameon=False, loc="center", bbox_to_anchor=(0.5, 0.2))
plots.label(axes[1], "Linear probes: owner of each piece", "residual stream after", "share read right")
plots.bars(
    axes[2], {
        "trained": metrics["pieces_mine"], "trained,\nturned": metrics["turned_trained"],
        "untrained": metrics["pieces_untrained"], "untrained,\nturned": metrics["turned_untrained"],
    }, "All pieces, and those that have changed sides", y="share of owners read right",
    highlight=["trained", "trained,\nturned"],
)  # fmt: skip
for index, (name, values) in enumerate(doses.items()):
    style = {"color": plots.COLOURS[index], "linestyle": plots.STYLES[index], "label": name}
    axes[3].plot(strengths, values, marker="o", **style)
plots.levels(axes[3], {"unedited, on its own board": own})
axes[3].legend(fontsize=7.5, frameon=False)
plots.label(axes[3], "Turn a piece in the stream", "strength of the edit", "errors against the turned board")
for index, what in enumerate(("become legal", "cease to be legal")):
    at = [i + 0.4 * index - 0.2 for i in range(len(moved))]
    levels = [values[index] for values in moved.values()]
    axes[4].bar(at, levels, width=0.4, color=plots.COLOURS[index], label=what)
axes[4].set_xticks(range(len(moved)), [name.replace(" ", "\n") for name in moved])
axes[4].legend(fontsize=8, frameon=False, ncol=2, loc="upper center")
axes[4].margins(y=0.15)
plots.label(axes[4], f"Moves that the turn makes legal or not, strength {STRENGTH:g}", "", "probability")
example = int((turned.sum(1) >= 4).int().argmax())
shown = torch.cat([truth["test"][example].reshape(6, 6), reads["trained"][example].reshape(6, 6)], dim=1)
plots.heatmap(
    axes[5], shown, "One position: the board (left), as read (right)", x="column", y="row",
    x_ticks="abcdef" * 2, y_ticks="123456", signed=True, limits=(-1, 1), bar=False,
)  # fmt: skip
axes[5].axvline(5.5, color="black", linewidth=2)
for row, column in (shown != 0).nonzero().tolist():
    name = "mine" if shown[row, column] > 0 else "theirs"
    axes[5].text(column, row, name, ha="center", va="center", fontsize=6, color="white")
run.save(fig, "board")

# %%
report = run.finish(metrics)
