"""Policy gradient with a learned baseline, short enough to read.

Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347) with generalised advantage estimates
(Schulman et al. 2015, arXiv:1506.02438) on a ``Grid``.  ``walk`` plays a greedy policy to its end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from .gridworld import Grid, Mazes
from .train import History

# planes [n, plane, row, column] -> action logits [n, action] and values [n]
Policy = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Rollout:
    """What agents did for some steps; all tensors are [step, agent, ...], values have one step more."""

    planes: Float[Tensor, "step agent plane row column"]
    action: Int[Tensor, "step agent"]
    log_prob: Float[Tensor, "step agent"]
    reward: Float[Tensor, "step agent"]
    done: Bool[Tensor, "step agent"]
    counted: Bool[Tensor, "step agent"]
    value: Float[Tensor, "step_and_one agent"]


@torch.no_grad()
def rollout(policy: Policy, grid: Grid, steps: int) -> Rollout:
    """Let the agents act for ``steps`` steps, drawing actions from the policy."""
    rows: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]] = []
    values = []
    for _ in range(steps):
        planes = grid.observe()
        logits, value = policy(planes)
        log_probs = logits.log_softmax(-1)
        noise = torch.rand(logits.shape, generator=grid.generator).to(logits.device)
        action = (log_probs - noise.log().neg().log()).argmax(-1)  # Gumbel's trick: a draw from softmax
        counted = grid.bank.counted[grid.maze, grid.cell]
        chosen = log_probs.gather(-1, action[:, None])[:, 0]
        rows.append((planes, action, chosen, *grid.step(action), counted))
        values.append(value)
    values.append(policy(grid.observe())[1])
    planes, action, log_prob, reward, done, counted = map(torch.stack, zip(*rows, strict=True))
    return Rollout(planes, action, log_prob, reward, done, counted, torch.stack(values))


def advantages(seen: Rollout, discount: float, decay: float) -> Float[Tensor, "step agent"]:
    """Generalised advantage estimates: how much better an action went than the baseline expected."""
    going = (~seen.done).float()
    surprise = seen.reward + discount * going * seen.value[1:] - seen.value[:-1]
    total = torch.zeros_like(surprise)
    later = torch.zeros_like(surprise[0])
    for step in reversed(range(len(surprise))):
        later = surprise[step] + discount * decay * going[step] * later
        total[step] = later
    return total


def learn(
    net: nn.Module,
    grid: Grid,
    *,
    steps: int,
    lr: float = 2e-3,
    rollout_steps: int = 16,
    epochs: int = 3,
    batches: int = 2,
    discount: float = 0.95,
    entropy: float = 0.01,
    evaluate: Callable[[], dict[str, float]] | None = None,
    every: int = 10,
    label: str = "training",
) -> History:
    """Train ``net`` in place for ``steps`` rounds of acting and learning; return columns as ``train`` does.

    States that the bank does not count are acted in and not learned from.  The learning rate falls
    linearly.  ``evaluate`` is called without gradients every ``every`` rounds and at the end.
    """
    optimiser = torch.optim.Adam(net.parameters(), lr=lr, eps=1e-5)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.1, max(1, steps))
    history: History = {"step": [], "reward": []}
    net.train()
    for step in tqdm(range(steps), desc=label, unit="round", disable=None, leave=False):
        seen = rollout(net, grid, rollout_steps)
        gain = advantages(seen, discount, 0.9)
        target = (gain + seen.value[:-1]).flatten()
        gain = ((gain - gain.mean()) / (gain.std() + 1e-6)).flatten()
        kept = seen.counted.flatten().nonzero()[:, 0].cpu()
        for _ in range(epochs):
            order = kept[torch.randperm(len(kept), generator=grid.generator)]
            for part in order.chunk(batches):
                optimiser.zero_grad(set_to_none=True)
                _loss(net, seen, gain, target, part, entropy).backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(net.parameters(), 0.5)
                optimiser.step()
        schedule.step()
        if step % every == 0 or step == steps - 1:
            _record(history, step, seen, net, evaluate)
    net.eval()
    return history


def _loss(
    net: nn.Module, seen: Rollout, gain: Tensor, target: Tensor, part: Tensor, entropy: float
) -> Tensor:
    """PPO's clipped objective, the value's squared error, and a bonus for staying undecided."""
    logits, value = net(seen.planes.flatten(0, 1)[part])
    log_probs = logits.log_softmax(-1)
    chosen = log_probs.gather(-1, seen.action.flatten()[part, None])[:, 0]
    ratio = (chosen - seen.log_prob.flatten()[part]).exp()
    clipped = torch.minimum(ratio * gain[part], ratio.clamp(0.8, 1.2) * gain[part]).mean()
    undecided = -(log_probs.exp() * log_probs).sum(-1).mean()
    loss: Tensor = -clipped + 0.5 * F.mse_loss(value, target[part]) - entropy * undecided
    return loss


def _record(
    history: History,
    step: int,
    seen: Rollout,
    net: nn.Module,
    evaluate: Callable[[], dict[str, float]] | None,
) -> None:
    history["step"].append(step)
    history["reward"].append(seen.reward.mean().item())
    if evaluate is None:
        return
    net.eval()
    with torch.no_grad():
        for name, figure in evaluate().items():
            history.setdefault(name, []).append(float(figure))
    net.train()


@torch.no_grad()
def walk(
    policy: Policy, mazes: Mazes, maze: Int[Tensor, "n"], cell: Int[Tensor, "n"], steps: int = 40
) -> Int[Tensor, "n step"]:
    """The cells that a greedy policy visits from each start, which comes first; it stops at the goal."""
    visited = [cell]
    for _ in range(steps):
        action = policy(mazes.planes(maze, cell))[0].argmax(-1)
        there = mazes.moved(maze, cell, action)
        cell = torch.where(cell == mazes.goal[maze], cell, there)
        visited.append(cell)
    return torch.stack(visited, dim=1)
