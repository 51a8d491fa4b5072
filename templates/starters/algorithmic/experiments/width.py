"""The smallest network of squares that adds modulo a small prime exactly.

    python experiment.py                 the run that expected.json describes
    python experiment.py --modulus 5     the case that is open between 7 and 9

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## How few squares add?
#
# sum over H neurons of w(c) (u(a) + v(b))^2 is to be 1 where c = a + b mod p, and 0 elsewhere. These are
# p^3 equations of third degree. Fourier analysis solves them with H = 2p - 1; no H below (3p - 1) / 2 can
# (Shi 2026). For p = 3 that leaves 4 or 5, and 4 is reached. Levenberg-Marquardt from many starts finds
# such networks to the last digit, so that "no exact fit in thirty starts" means something, though it
# proves nothing.

# %%
import math

import torch

from lab import plots
from lab.results import start_run

# %% knobs
SEED = 0  # starts
MODULUS = 3  # p, an odd prime
STARTS = 30  # for each width
STEPS = 300  # of Levenberg-Marquardt
LARGEST = 20.0  # weights above this count as running off to infinity

# %%
run = start_run(globals())
device = run.device
P = MODULUS
BOUND, FOURIER = (3 * P - 1) // 2, 2 * P - 1
WIDTHS = list(range(BOUND - 2, FOURIER + 1))
a, b = torch.cartesian_prod(torch.arange(P), torch.arange(P)).T.to(device)
eye = torch.eye(P, dtype=torch.float64, device=device)
sums = eye[(a + b) % P]  # [pair, residue]


# %%
def residual(x: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What is missing [start, pair * residue], and the neurons before the square [start, neuron, pair]."""
    h = x[:, 0][..., a] + x[:, 1][..., b]
    return (h.square().mT @ x[:, 2] - wanted).flatten(1), h


def jacobian(x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """[start, pair * residue, parameter]."""
    du = 2 * torch.einsum("nhs,sr,nhc->nschr", h, eye[a], x[:, 2])
    dv = 2 * torch.einsum("nhs,sr,nhc->nschr", h, eye[b], x[:, 2])
    dw = torch.einsum("nhs,cr->nschr", h.square(), eye)
    return torch.stack([du, dv, dw], 3).flatten(3).flatten(1, 2)


def fit(width: int, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Levenberg-Marquardt from STARTS starts: tables [start, 3, neuron, residue], squared errors [start]."""
    draw = torch.Generator().manual_seed(1000 * SEED + width)
    x = torch.randn(STARTS, 3, width, P, generator=draw, dtype=torch.float64).to(device) / math.sqrt(P)
    damping = torch.full((STARTS,), 0.1, dtype=torch.float64, device=device)
    missing, h = residual(x, wanted)
    unit = torch.eye(P**3, dtype=torch.float64, device=device)
    for _ in range(STEPS):
        j = jacobian(x, h)
        gram = j @ j.mT + damping[:, None, None] * unit
        trial = x - (j.mT @ torch.linalg.solve(gram, missing[..., None])).view_as(x)
        missing_there, h_there = residual(trial, wanted)
        better = missing_there.square().sum(1) < missing.square().sum(1)
        x = torch.where(better[:, None, None, None], trial, x)
        h = torch.where(better[:, None, None], h_there, h)
        missing = torch.where(better[:, None], missing_there, missing)
        damping = torch.where(better, damping / 3, damping * 4).clamp(1e-12, 1e6)
    return x, missing.square().sum(1)


EXACT = 1e-18  # squared error: rounding, in double precision
fits = {width: fit(width, sums) for width in WIDTHS}
share = {width: (error < EXACT).double().mean().item() for width, (_, error) in fits.items()}
least = {width: error.min().item() for width, (_, error) in fits.items()}

# %% [markdown]
# ### Is it addition, or would any table do?
#
# The control gives every pair (a, b) a random residue, another table for each start, at H = 2p - 1. And a
# network of the smallest width that came out exact is put to the test: one neuron taken out, the outputs of
# the others fitted anew. The no-op: u and v times 2, w by 4.

# %%
draw = torch.Generator().manual_seed(SEED)
mixed = torch.randint(0, P, (STARTS, P * P), generator=draw).to(device)  # a table for each start
_, error_mixed = fit(FOURIER, eye[mixed])
smallest = next((width for width in WIDTHS if share[width] > 0), WIDTHS[-1])
tables, errors = fits[smallest]
best = tables[errors.argmin()]  # [3, neuron, residue]
neurons = (best[0][:, a] + best[1][:, b]).square().T  # [pair, neuron]
one_less = []
for out in range(smallest):
    rest = neurons[:, [n for n in range(smallest) if n != out]]
    refitted = rest @ torch.linalg.lstsq(rest, sums).solution
    one_less.append((refitted - sums).square().sum().item())
scaled = torch.stack([2 * best[0], 2 * best[1], best[2] / 4])
noop = (residual(scaled[None], sums)[0] - residual(best[None], sums)[0]).abs().max().item()
runaway = (fits[BOUND - 1][0].abs().amax((1, 2, 3)) > LARGEST).double().mean().item()
metrics = {
    "smallest": float(smallest),
    "exact_at_bound": share[BOUND],
    "exact_below": share[BOUND - 1],
    "least_below": least[BOUND - 1],
    "exact_fourier": share[FOURIER],
    "exact_mixed": (error_mixed < EXACT).double().mean().item(),
    "one_less": min(one_less),
    "nothing": sums.square().sum().item(),
    "runaway_below": runaway,
    "noop_change": noop,
}

# %%
fig, axes = plots.figure(1, 3, f"Exact addition mod {P} with squares, {STARTS} starts")
for n, width in enumerate(WIDTHS):
    error = fits[width][1].clamp_min(1e-32).sort().values.cpu()
    style = {"color": plots.COLOURS[n % 6], "linestyle": plots.STYLES[n % len(plots.STYLES)]}
    axes[0].plot(error, label=f"H = {width}", **style)
axes[0].set_yscale("log")
axes[0].legend(fontsize=8, frameon=False)
plots.label(axes[0], "Squared error, best start first", "start", "squared error")
names = {str(width): exact for width, exact in share.items()}
plots.bars(axes[1], names, "Starts that end exact", y="share", highlight=[str(BOUND)])
axes[1].set_xlabel(f"neurons (proved: at least {BOUND})")
plots.heatmap(axes[2], best.flatten(0, 1).T, f"u, v, w of a fit with {smallest}", x="neuron, three tables",
              y="residue", signed=True)  # fmt: skip
run.save(fig, "width")

# %%
report = run.finish(metrics)
