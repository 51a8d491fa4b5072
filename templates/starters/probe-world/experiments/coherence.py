"""Does a board model treat equal boards alike? Coherence of a world model, and what breaks it.

    python experiment.py                        the run that expected.json describes
    python experiment.py --seed 1               other games, other weights
    python experiment.py --steps 5000           a better player: is it more coherent?

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## One board, two histories
#
# A model that names legal moves nearly always may still hold no coherent board. Vafa et al. 2024
# (arXiv:2406.03689) ask two things, after the theorem of Myhill and Nerode: *compression*, that two move
# orders which lead to one board are continued alike; and *distinction*, that different boards are told apart.
# Here we ask further, in 6 x 6 Othello: where the model fails, is the board that a linear probe reads (Nanda,
# Lee & Wattenberg 2023, arXiv:2309.00941) wrong as well, and does repairing it repair the prediction?

# %%
import torch
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from lab import othello, plots
from lab.probe_fits import solve_ridge
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
MORE = 200_000  # random games from which pairs of equal boards are taken
STEPS = 1400  # training steps
BATCH = 96  # games per step
LR = 6e-3
APART = 0.12  # two predictions disagree from this total variation distance on

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### Random legal games
#
# A token is a square (or a pass, rare so early). One opening in ten (the first four moves) is held out with
# all that follows it. Pairs of histories with equal boards are rare in a few games and common in many, so we
# play many more that begin with a held-out opening.

# %%
SQUARES, TOKENS = 36, 38
games = othello.random_games(GAMES, 6, LENGTH, torch.Generator().manual_seed(SEED))
more = othello.random_games(MORE, 6, LENGTH, torch.Generator().manual_seed(SEED + 5))
opening, opening_more = ((g.tokens[:, :4] * TOKENS ** torch.arange(4)).sum(1) for g in (games, more))
which, opening = opening.unique(return_inverse=True)
held_out = torch.rand(len(which), generator=torch.Generator().manual_seed(SEED + 1)) < 0.1
train_rows = (~held_out[opening]).nonzero()[:, 0]
pool = more[torch.isin(opening_more, which[held_out])]
test, probe_set = pool[torch.arange(1500)], games[train_rows[:2500]]

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
    clean = model(pool.tokens.to(device)).cpu()  # [game, step, token]
    legal_untrained = legal_share(untrained(test.tokens.to(device)))
metrics = {
    "legal_share": history["legal_share"][-1],
    "legal_untrained": legal_untrained,
}

# %% [markdown]
# ### Pairs of histories
#
# Among held-out games, all pairs of neighbours in a list sorted by board: *equal* boards after equally many
# moves, reached by different moves; and, as many, *different* boards after equally many moves. Passes never
# occur so early.

# %%
FIRST = 4  # after the fifth move; before that, there are few orders
flat = pool.state[:, FIRST:].reshape(-1, SQUARES)
game_of = torch.arange(len(pool.tokens))[:, None].expand(-1, LENGTH - FIRST).flatten()
step_of = torch.arange(FIRST, LENGTH).expand(len(pool.tokens), -1).flatten()
_, board_id = torch.cat([flat, step_of[:, None].to(torch.int8)], 1).unique(dim=0, return_inverse=True)
order = board_id.argsort(stable=True)
left, right = order[:-1], order[1:]
keep = (board_id[left] == board_id[right]) & pool.going[game_of[left], step_of[left]]
so_far = torch.arange(LENGTH) <= step_of[:, None]  # [place, step]
history_of = [pool.tokens[game_of[side]] * so_far[side] for side in (left, right)]
keep &= (history_of[0] != history_of[1]).any(1)
same = torch.stack([left[keep], right[keep]])  # [2, pair], places in the flat list
chooser = torch.Generator().manual_seed(SEED + 2)
same = same[:, torch.randperm(same.shape[1], generator=chooser)[:3000]]
partner = same[1].clone()
for step in range(FIRST, LENGTH):  # exchange partners within a step
    at = (step_of[same[0]] == step).nonzero()[:, 0]
    partner[at] = same[1][at[torch.randperm(len(at), generator=chooser)]]
other = torch.stack([same[0], partner])
other = other[:, board_id[other[0]] != board_id[other[1]]]
print(f"{same.shape[1]} pairs of equal boards, {other.shape[1]} of different ones")

# %% [markdown]
# ### Compression and distinction
#
# The distance of two predictions is the total variation, 0 (alike) to 1. For equal boards it should be 0; for
# different ones as large as that of the two true distributions. Controls: an untrained model, which is all
# history and no board, and the true distributions themselves (the no-op: 0 for equal boards).

# %%
legal = pool.legal[game_of, step_of].float()
ideal = legal / legal.sum(-1, keepdim=True).clamp(min=1)
guess = clean.softmax(-1)[game_of, step_of]  # [place, token]
with torch.no_grad():
    guess_untrained = untrained(pool.tokens.to(device)).softmax(-1).cpu()[game_of, step_of]


def distance(p: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """Total variation of the predictions at the two places of each pair."""
    return 0.5 * (p[pairs[0]] - p[pairs[1]]).abs().sum(-1)


def shown(p: torch.Tensor, pairs: torch.Tensor) -> float:
    """Share of the moves legal on one board only that are above half of an equal share there alone."""
    level = 0.5 / legal.sum(-1, keepdim=True).clamp(min=1)
    says = p > level  # [place, token]
    one, two = legal[pairs[0]].bool(), legal[pairs[1]].bool()
    told = torch.where(one, says[pairs[0]] & ~says[pairs[1]], says[pairs[1]] & ~says[pairs[0]])
    return told[one != two].float().mean().item()


apart, apart_other = distance(guess, same), distance(guess, other)
metrics |= {
    "compression": apart.mean().item(),
    "compression_untrained": distance(guess_untrained, same).mean().item(),
    "compression_truth": distance(ideal, same).mean().item(),
    "distinction": apart_other.mean().item(),
    "distinction_truth": distance(ideal, other).mean().item(),
    "distinction_untrained": distance(guess_untrained, other).mean().item(),
    "legality_shown": shown(guess, other),
    "disagree": (apart > APART).float().mean().item(),
}

# %% [markdown]
# ### Is the board wrong where the model is incoherent?
#
# A linear probe reads mine, empty and theirs of every square before the last MLP. For each pair of equal
# boards: does it read the same board twice? If what is done with the board were all that fails, incoherence
# would not depend on that.

# %%
READ, WRITE = f"blocks.{LAYERS - 1}.hook_resid_mid", f"blocks.{LAYERS - 1}.hook_attn_out"
with torch.no_grad():
    seen = model.run_with_cache(probe_set.tokens.to(device), names_filter=READ)[1][READ]
    held = model.run_with_cache(pool.tokens.to(device), names_filter=READ)[1][READ].cpu()[game_of, step_of]
x, labels = seen[probe_set.going.to(device)].double().cpu(), probe_set.state[probe_set.going]
wanted = F.one_hot(labels.long() + 1, 3).flatten(1).double()
weights = solve_ridge(x - x.mean(0), wanted - wanted.mean(0), penalty=1.0)  # [d_model, square x 3]
boards = ((held.double() - x.mean(0)) @ weights + wanted.mean(0)).unflatten(1, (SQUARES, 3)).argmax(-1) - 1
differ = (boards[same[0]] != boards[same[1]]).sum(-1)  # squares read differently, by pair
alike = differ == 0
metrics |= {
    "board_right": (boards == flat)[flat != 0].float().mean().item(),
    "disagree_alike": (apart > APART)[alike].float().mean().item() if alike.any() else 0.0,
    "disagree_unlike": (apart > APART)[~alike].float().mean().item() if (~alike).any() else 0.0,
}
mixed = alike[torch.randperm(len(alike), generator=chooser)]
metrics["gap"] = metrics["disagree_unlike"] - metrics["disagree_alike"]
shares = [(apart > APART)[rows].float().mean().item() for rows in (~mixed, mixed)]
metrics["gap_shuffled"] = shares[0] - shares[1]

# %% [markdown]
# ### Give one history the other's board
#
# For pairs that disagree: copy from the second stream into the first what the probe reads of owners (one
# direction for each square), before the last MLP. Do the predictions come together? Control: what lies along
# as many random directions. The most that can be had: the whole stream.

# %%
pairs = same[:, apart > APART] if (apart > APART).sum() >= 10 else same
gap = held[pairs[1]] - held[pairs[0]]
by_square = weights.float().unflatten(1, (SQUARES, 3))
owner = torch.linalg.qr(by_square[..., 2] - by_square[..., 0]).Q  # mine less theirs, [d_model, square]
chance = torch.linalg.qr(torch.randn(owner.shape, generator=chooser)).Q
board_part, chance_part = gap @ owner @ owner.T, gap @ chance @ chance.T


@torch.no_grad()
def after(change: torch.Tensor) -> float:
    """Mean distance of the pairs when the first one's stream is changed, [pair, d_model]."""
    rows, steps = game_of[pairs[0]], step_of[pairs[0]]

    def add(value: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        value = value.clone()
        value[torch.arange(len(rows)), steps] += change.to(value)
        return value

    logits = model.run_with_hooks(pool.tokens[rows].to(device), fwd_hooks=[(WRITE, add)]).cpu()
    p = logits[torch.arange(len(rows)), steps].softmax(-1)
    return (0.5 * (p - guess[pairs[1]]).abs().sum(-1)).mean().item()


moved = {
    "no edit": after(0 * gap),
    "the probe's board": after(board_part),
    "random part": after(chance_part),
    "whole stream": after(gap),
}
before = distance(guess, pairs).mean().item()
metrics |= {
    "apart_before": before,
    "apart_board": moved["the probe's board"],
    "apart_random": moved["random part"],
    "apart_whole": moved["whole stream"],
    "span_share": (board_part.square().sum() / gap.square().sum()).item(),
    "noop_change": abs(moved["no edit"] - before),
}

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 2, f"Is the board coherent? 6 x 6 Othello, {LAYERS} layers")
axes[0].hist(
    [apart.numpy(), apart_other.numpy()], bins=20, range=(0, 1), density=True,
    color=[plots.COLOURS[0], plots.COLOURS[1]], label=["equal boards", "different boards"],
)  # fmt: skip
axes[0].legend(fontsize=8, frameon=False)
plots.label(axes[0], "Pairs of histories", "distance of the predictions", "density")
steps = range(FIRST, LENGTH)
for index, (name, p, which) in enumerate((
    ("equal boards", guess, same), ("different boards", guess, other),
    ("equal boards, untrained", guess_untrained, same), ("different boards, truth", ideal, other),
)):  # fmt: skip
    by_step = [distance(p, which[:, step_of[which[0]] == step]).mean().item() for step in steps]
    style = {"color": plots.COLOURS[index], "linestyle": plots.STYLES[index], "label": name, "marker": "o"}
    axes[1].plot([step + 1 for step in steps], by_step, **style)
axes[1].set_xticks([step + 1 for step in steps])
axes[1].legend(fontsize=7.5, frameon=False)
plots.label(axes[1], "By length of the history", "moves", "mean distance")
levels = [0, 1, 2, 3, 4, 6]
bins = [(differ >= low) & (differ < high) for low, high in zip(levels, [*levels[1:], 99], strict=True)]
shares = {f"{low}" if low < 4 else ("4-5" if low == 4 else "6+"): (apart > APART)[b].float().mean().item()
          for low, b in zip(levels, bins, strict=True) if b.sum() >= 5}  # fmt: skip
plots.bars(
    axes[2], shares, "Are the boards read differently where predictions differ?",
    y=f"share of pairs further apart than {APART:g}",
)  # fmt: skip
axes[2].set_xlabel("squares that the probe reads differently in the two histories", fontsize=9)
plots.bars(
    axes[3], {name.replace(" ", "\n", 1): value for name, value in moved.items()},
    f"Give one history the other's board ({pairs.shape[1]} pairs)", y="mean distance",
    highlight=["the\nprobe's board"],
)  # fmt: skip
run.save(fig, "coherence")

# %%
report = run.finish(metrics)
