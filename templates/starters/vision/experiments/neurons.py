"""Neurons of a small image classifier: drawn stimuli, optimised pictures, examples, and what ablation says.

    python experiment.py                       the run that expected.json describes
    python experiment.py --seed 1              other weights, another split
    python experiment.py --decay 3             stronger weight decay: smoother filters, worse digits

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## What does a unit of an image classifier look for?
#
# Three answers are usual: draw stimuli and record tuning curves (Cammarata et al. 2020, Distill,
# "Curve Detectors"), optimise a picture by gradient ascent (Olah et al. 2017, Distill, "Feature
# Visualization"), and look at the examples that excite it most. Each can mislead, so each has its control
# here: an untrained network, which gets the same treatment, and a second trained network as a judge.
#
# The data: 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn (Alpaydin and Kaynak, UCI,
# 1998, CC BY 4.0). Nothing is downloaded.

# %%
import torch
from torch import nn
from torch.nn import functional as F
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from lab import digits, plots
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # split, weights, starting noise
CHANNELS = 16  # channels of the first layer; the next two have twice as many
KERNEL = 5  # pixels along a side of the first layer's kernels (odd)
STEPS = 500  # training steps
BATCH = 128  # pictures per step
LR = 5e-3
DECAY = 0.1  # weight decay
ASCENT = 200  # steps of gradient ascent for a picture
ABLATE = 4  # channels to ablate

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### The network
#
# Three convolutions, the strongest response anywhere in the picture, a linear layer. A `HookPoint` after
# each layer makes `run_with_cache` and `run_with_hooks` work on it, as on any transformer in TransformerLens.
# The first layer starts small, so that what its kernels look like at the end has been learned.


# %%
class Classifier(HookedRootModule):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(1, CHANNELS, KERNEL, padding=KERNEL // 2)
        self.second = nn.Conv2d(CHANNELS, 2 * CHANNELS, 3, padding=1)
        self.third = nn.Conv2d(2 * CHANNELS, 2 * CHANNELS, 3, padding=1)
        self.classes = nn.Linear(2 * CHANNELS, 10)
        nn.init.normal_(self.first.weight, std=0.02)
        self.hook_pre = HookPoint()  # [image, channel, row, column], before the ReLU
        self.hook_first, self.hook_second = HookPoint(), HookPoint()
        self.hook_third_pre, self.hook_third = HookPoint(), HookPoint()  # before and after the ReLU
        self.setup()  # tells the HookPoints their names

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        lines = self.hook_first(F.relu(self.hook_pre(self.first(images))))
        strokes = self.hook_second(F.max_pool2d(F.relu(self.second(lines)), 2))
        parts = self.hook_third(F.relu(self.hook_third_pre(self.third(strokes))))  # [image, channel, 4, 4]
        return self.classes(parts.amax((2, 3)))


data = digits.load(SEED, device)


def accuracy(net: Classifier) -> float:
    with torch.no_grad():
        return (net(data.test).argmax(-1) == data.test_labels).float().mean().item()


def fit(seed: int) -> tuple[Classifier, dict]:
    net = Classifier(seed).to(device)
    generator = torch.Generator().manual_seed(seed)

    def loss_at(step: int) -> torch.Tensor:
        rows = torch.randint(len(data.train), (BATCH,), generator=generator).to(device)
        return F.cross_entropy(net(digits.shifted(data.train[rows], generator)), data.train_labels[rows])

    history = train(
        net, loss_at, steps=STEPS, lr=LR, weight_decay=DECAY, decay=True, every=max(1, STEPS // 20),
        evaluate=lambda: {"test_accuracy": accuracy(net)},
    )  # fmt: skip
    return net, history


net, history = fit(SEED)
judge, _ = fit(SEED + 100)  # another network, trained on the same digits: it sees pictures and no weights
untrained = Classifier(SEED + 200).to(device).eval()
metrics = {
    "accuracy": accuracy(net), "accuracy_judge": accuracy(judge), "accuracy_untrained": accuracy(untrained),
}  # fmt: skip

# %% [markdown]
# ### Drawn stimuli: is orientation tuning learned?
#
# Gratings at 24 orientations. A convolution is linear before its ReLU, so the response swings with the
# grating's phase, and the size of the swing is the kernel's Fourier transform at the grating's frequency:
# the tuning curve can be read off the weights. Both ways must agree.
#
# Then the control that is easily forgotten. Random kernels prefer some orientation too (Ringach et al. 2002
# define the measure, one minus circular variance). What random kernels are not is *smooth*.

# %%
stripes, angle = digits.gratings(angles=24, phases=16, period=4.0)
stripes, angle = stripes.to(device), angle.to(device)


@torch.no_grad()
def tuning(model: Classifier) -> torch.Tensor:
    """Amplitude of each first-layer channel's response at the centre over phases, [angle, channel]."""
    _, cache = model.run_with_cache(stripes.flatten(0, 1)[:, None], names_filter="hook_pre")
    response = cache["hook_pre"][:, :, 4, 4].unflatten(0, stripes.shape[:2])  # [angle, phase, channel]
    return 2**0.5 * response.std(1, correction=0)


def tuning_from_weights(model: Classifier) -> torch.Tensor:
    """The same in closed form: half the Fourier transform of the kernel, [angle, channel]."""
    kernel = model.first.weight.detach()[:, 0]  # [channel, row, column]
    place = torch.arange(KERNEL, device=device) - KERNEL // 2
    across = angle.cos()[:, None, None] * place[:, None] + angle.sin()[:, None, None] * place
    wave = torch.exp(2j * torch.pi * across / 4.0)  # [angle, row, column]
    return 0.5 * torch.einsum("arc,krc->ak", wave, kernel.to(wave.dtype)).abs()


def smoothness(model: Classifier) -> float:
    """Correlation of a kernel's weights with those one pixel to the side or below: 0 for noise."""
    kernel = model.first.weight.detach()[:, 0]
    sideways = (kernel[:, :, 1:] * kernel[:, :, :-1]).sum() + (kernel[:, 1:] * kernel[:, :-1]).sum()
    return (sideways / (2 * kernel.square().sum())).item()


curves = {"trained": tuning(net), "untrained": tuning(untrained)}
sharp = {name: digits.selectivity(curve, angle)[0] for name, curve in curves.items()}  # [channel]
several = [Classifier(SEED + 200 + i).to(device) for i in range(20)]
gap = (curves["trained"] - tuning_from_weights(net)).abs().max()
metrics["tuning_error"] = (gap / curves["trained"].max()).item()
metrics["selectivity"] = sharp["trained"].mean().item()
by_chance = torch.stack([digits.selectivity(tuning(model), angle)[0] for model in several])
metrics["selectivity_untrained"] = by_chance.mean().item()
metrics["smoothness"] = smoothness(net)
metrics["smoothness_untrained"] = sum(smoothness(m) for m in several) / len(several)

# %% [markdown]
# ### Optimised pictures: whom do they convince?
#
# Gradient ascent on a class logit finds a picture that this network takes for the digit. Without
# regularisation the picture may be noise. Moving it about by a pixel at each step, blurring it, and charging
# for ink make it smoother. The judge, a network that had no part in it, says whether it shows the digit, and
# we correlate it with the mean of the digit's real pictures. Controls: no regularisation, and the same
# procedure on the untrained network (ink is free there, as its logits are too small to pay for any). Of 64
# pixels even the plain picture has so few that it convinces the judge: what regularisation changes at this
# size is the looks.

# %%
soft = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]], device=device)[None, None] / 16


def ascend(model: Classifier, goal, count: int, regularised: bool, ink: float = 5.0) -> torch.Tensor:
    """``count`` pictures in 0 to 1, the i-th of which makes ``goal(model, pictures)[i]`` large."""
    generator = torch.Generator().manual_seed(SEED)
    start = 0.1 * torch.randn(count, 1, digits.SIZE, digits.SIZE, generator=generator)
    drawn = (start - 1 if regularised else start).to(device).requires_grad_()
    optimiser = torch.optim.Adam([drawn], lr=0.1)
    for _ in range(ASCENT):
        pictures = drawn.sigmoid()
        if regularised:
            pictures = digits.shifted(F.conv2d(pictures, soft, padding=1), generator)
        loss = -goal(model, pictures).sum() + (ink * pictures.mean((1, 2, 3)).sum() if regularised else 0)
        (drawn.grad,) = torch.autograd.grad(loss, drawn)
        optimiser.step()
    pictures = drawn.detach().sigmoid()
    return F.conv2d(pictures, soft, padding=1) if regularised else pictures


def own_class(model: Classifier, pictures: torch.Tensor) -> torch.Tensor:
    return model(pictures).log_softmax(-1).diagonal()  # log-probability of digit i for picture i


drawn = {
    "regularised": ascend(net, own_class, 10, True),
    "not regularised": ascend(net, own_class, 10, False),
    "untrained net": ascend(untrained, own_class, 10, True, ink=0),
}
with torch.no_grad():
    wanted = torch.arange(10, device=device)
    own = {name: (net(p).argmax(-1) == wanted).float().mean().item() for name, p in drawn.items()}
    seen = {name: judge(p).softmax(-1).diagonal().mean().item() for name, p in drawn.items()}
prototypes = torch.stack([data.train[data.train_labels == digit].mean(0) for digit in range(10)]).flatten(1)


def likeness(pictures: torch.Tensor) -> float:
    """Mean correlation of each picture with the mean of its digit."""
    both = [x - x.mean(1, keepdim=True) for x in (pictures.flatten(1), prototypes)]
    return F.cosine_similarity(*both).mean().item()


like = {name: likeness(pictures) for name, pictures in drawn.items()}
metrics |= {
    "like_regularised": like["regularised"], "like_plain": like["not regularised"],
    "like_untrained": like["untrained net"],
    "own_plain": own["not regularised"], "judge_regularised": seen["regularised"],
    "judge_plain": seen["not regularised"], "judge_untrained": seen["untrained net"],
}  # fmt: skip

# %% [markdown]
# ### Examples, and what the channel is for
#
# For each channel of the last convolution: the pictures that excite it most, and an optimised picture. Both
# only suggest what it is for. So we ablate (set to their mean over pictures) the channels that speak most for
# one digit, by weight times activation, and count how many of its pictures are still recognised. Controls: as
# many other channels at random, ablating nothing, and the other digits: were the channels for this digit
# alone, those would not suffer.

# %%
with torch.no_grad():
    logits, cache = net.run_with_cache(data.test)
    response = cache["hook_third"].amax((2, 3))  # [image, channel]
    mean = cache["hook_third"].mean((0, 2, 3))  # [channel]


def with_mean(channels: list[int]):
    def hook(value: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        value[:, channels] = mean[channels][:, None, None]
        return value

    return hook


@torch.no_grad()
def right(digit: int, channels: list[int]) -> tuple[float, float]:
    """Share of this digit's pictures, and of the others', classified right with channels ablated."""
    out = net.run_with_hooks(data.test, fwd_hooks=[("hook_third", with_mean(channels))]).argmax(-1)
    this = data.test_labels == digit
    correct = (out == data.test_labels).float()
    return correct[this].mean().item(), correct[~this].mean().item()


generator = torch.Generator().manual_seed(SEED)
rows = []
for digit in range(10):
    margin = net.classes.weight[digit] - net.classes.weight.mean(0)
    share = margin * (response[data.test_labels == digit].mean(0) - response.mean(0))
    best = share.topk(ABLATE).indices.tolist()
    others = [c for c in range(2 * CHANNELS) if c not in best]
    chance = [others[i] for i in torch.randperm(len(others), generator=generator)[:ABLATE]]
    rows.append((*right(digit, []), *right(digit, best), *right(digit, chance)))
table = torch.tensor(rows)  # [digit, (clean, ablated, random) x (this digit, others)]
with torch.no_grad():
    noop = net.run_with_hooks(data.test, fwd_hooks=[("hook_third", lambda value, hook: value.clone())])
metrics |= {
    "clean_own": table[:, 0].mean().item(), "ablated_own": table[:, 2].mean().item(),
    "ablated_others": table[:, 3].mean().item(), "random_own": table[:, 4].mean().item(),
    "noop_change": (noop - logits).abs().max().item(),
}  # fmt: skip


def channel_peak(model: Classifier, pictures: torch.Tensor) -> torch.Tensor:
    kept = []  # run_with_cache detaches what it keeps; here the gradient has to pass
    model.run_with_hooks(pictures, fwd_hooks=[("hook_third_pre", lambda value, hook: kept.append(value))])
    return kept[0].amax((2, 3)).diagonal()


units = ascend(net, channel_peak, 2 * CHANNELS, True)
with torch.no_grad():
    _, cache = net.run_with_cache(units)
    reached = cache["hook_third"].amax((2, 3)).diagonal()
best_example = response.amax(0)
metrics["over_best_example"] = (reached / best_example.clamp(min=1e-6)).median().item()
top = response.topk(9, dim=0).indices  # [rank, channel]
agree = data.test_labels[top].mode(0).values
metrics["top_purity"] = (data.test_labels[top] == agree).float().mean().item()

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 3, "8 x 8 digits: first-layer filters, optimised pictures, ablation")


def sheet(pictures: torch.Tensor, columns: int) -> torch.Tensor:
    """Pictures [n, row, column] side by side with a blank line between them."""
    framed = F.pad(pictures, (0, 1, 0, 1), value=float("nan"))
    return framed.unflatten(0, (-1, columns)).permute(0, 2, 1, 3).flatten(2, 3).flatten(0, 1)


kernels = {"trained": net, "untrained": untrained}
for place, (name, model) in enumerate(kernels.items()):
    weights = model.first.weight.detach()[:, 0]
    shown = weights / weights.abs().amax((1, 2), keepdim=True)
    smooth = metrics["smoothness" if name == "trained" else "smoothness_untrained"]
    plots.heatmap(axes[place], sheet(shown, 4).nan_to_num(0), f"Kernels, {name}: smoothness {smooth:.2f}",
                  signed=True, limits=(-1, 1), bar=False)  # fmt: skip
    axes[place].set(xticks=[], yticks=[], aspect="equal")
degrees = angle.cpu() * 180 / torch.pi
peak = curves["trained"].amax(0)
loud = peak >= peak.median()  # a faint channel can be sharp by accident
chosen = (sharp["trained"] * loud).topk(4).indices.tolist()
for index, channel in enumerate(chosen):
    axes[2].plot(degrees, curves["trained"][:, channel].cpu(), color=plots.COLOURS[index],
                 linestyle=plots.STYLES[index], label=f"channel {channel}")  # fmt: skip
axes[2].plot(degrees, tuning_from_weights(net)[:, chosen].cpu(), ".", color="0.3", markersize=3)
axes[2].legend(fontsize=7.5, frameon=False)
plots.label(axes[2], "Sharpest tuning; dots: from the weights", "orientation of stripes (°)", "amplitude")
plots.bars(
    axes[3], {"regularised": seen["regularised"], "plain": seen["not regularised"],
              "untrained": seen["untrained net"]},
    "Does another network see the digit?", y="judge's probability", highlight=["regularised"],
)  # fmt: skip
rows_shown = torch.cat([drawn["regularised"], drawn["not regularised"], drawn["untrained net"],
                        prototypes.unflatten(1, drawn["regularised"].shape[1:])])  # fmt: skip
plots.heatmap(axes[4], sheet(rows_shown[:, 0], 10), "Optimised for the digits 0 to 9", bar=False,
              limits=(0, 1))  # fmt: skip
axes[4].set_xticks([4 + 9 * d for d in range(10)], [str(d) for d in range(10)])
axes[4].set_yticks([4, 13, 22, 31], ["regularised", "plain", "untrained", "mean digit"])
plots.bars(
    axes[5], {"nothing": metrics["clean_own"], f"{ABLATE} for it": metrics["ablated_own"],
              f"{ABLATE} random": metrics["random_own"], "others": metrics["ablated_others"]},
    "Channels ablated: the digit still seen?", y="share classified right", highlight=[f"{ABLATE} for it"],
)  # fmt: skip
run.save(fig, "filters")

# %%
fig, axes = plots.figure(1, 1, "Channels of the last convolution", size=(7.0, 6.2))
show = best_example.topk(8).indices.tolist()
strips = torch.cat([torch.cat([units[c : c + 1, 0], data.test[top[:, c], 0]]) for c in show])
plots.heatmap(axes[0], sheet(strips, 10), "Optimised (left), and the nine strongest test pictures",
              limits=(0, 1), bar=False)  # fmt: skip
axes[0].axvline(8, color=plots.COLOURS[1], linewidth=2)
axes[0].set(xticks=[], aspect="equal")
axes[0].set_yticks([4 + 9 * i for i in range(8)], [f"channel {c}" for c in show])
run.save(fig, "channels")

# %%
report = run.finish(metrics)
