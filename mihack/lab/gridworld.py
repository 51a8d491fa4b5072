"""Mazes on a small grid, thousands at once, with the shortest way from every cell.

A ``Mazes`` is a bank of layouts; a ``Grid`` walks many agents through it in step.  Cell ``row * size +
column``; the actions are up, right, down, left.  Walking into a wall or over the edge is staying put.
Reaching the goal pays 1 and ends the episode, as does the time limit, which pays nothing.

A network sees planes [agent, plane, row, column]: walls, goal, agent.  Distances come from a flood fill,
so the optimal action and the value of every cell are known: ``optimal`` and ``discount ** (distance - 1)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

ACTIONS = ("up", "right", "down", "left")
WALLS, GOAL, AGENT = range(3)
FAR = 10_000  # the distance of a cell from which the goal cannot be reached


@dataclass(frozen=True)
class Mazes:
    """Layouts: ``walls`` [maze, cell], ``goal`` [maze], ``distance`` [maze, cell] in steps to the goal.

    ``starts`` [maze, cell] says where an episode may begin, ``counted`` [maze, cell] which states a
    learner may learn from.
    """

    size: int
    walls: Bool[Tensor, "maze cell"]
    goal: Int[Tensor, "maze"]
    distance: Int[Tensor, "maze cell"]
    starts: Bool[Tensor, "maze cell"]
    counted: Bool[Tensor, "maze cell"]

    def __len__(self) -> int:
        return len(self.goal)

    def to(self, device: torch.device) -> Mazes:
        """The same on another device."""
        tensors = (self.walls, self.goal, self.distance, self.starts, self.counted)
        return Mazes(self.size, *(tensor.to(device) for tensor in tensors))

    def planes(self, maze: Int[Tensor, "n"], cell: Int[Tensor, "n"]) -> Float[Tensor, "n plane row column"]:
        """What an agent at ``cell`` of ``maze`` sees."""
        cells = self.size**2
        seen = [self.walls[maze], F.one_hot(self.goal[maze], cells), F.one_hot(cell, cells)]
        return torch.stack([plane.float() for plane in seen], dim=1).view(-1, 3, self.size, self.size)

    def states(self) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"]]:
        """Every (maze, cell) from which the goal can be reached and is not reached yet."""
        maze, cell = ((self.distance > 0) & (self.distance < FAR)).nonzero().T
        return maze, cell

    def optimal(self, maze: Int[Tensor, "n"], cell: Int[Tensor, "n"]) -> Bool[Tensor, "n action"]:
        """Which actions shorten the way: often more than one."""
        there = torch.stack([self.moved(maze, cell, torch.full_like(cell, a)) for a in range(4)], dim=1)
        shorter = self.distance[maze[:, None], there] < self.distance[maze, cell][:, None]
        return shorter

    def moved(
        self, maze: Int[Tensor, "n"], cell: Int[Tensor, "n"], action: Int[Tensor, "n"]
    ) -> Int[Tensor, "n"]:
        """The cell after an action."""
        row, column = cell // self.size, cell % self.size
        steps = torch.tensor([[-1, 0], [0, 1], [1, 0], [0, -1]], device=cell.device)[action]
        row, column = row + steps[:, 0], column + steps[:, 1]
        inside = (row >= 0) & (row < self.size) & (column >= 0) & (column < self.size)
        there = torch.where(inside, row * self.size + column, cell)
        return torch.where(self.walls[maze, there], cell, there)


def flood(walls: Bool[Tensor, "maze cell"], goal: Int[Tensor, "maze"], size: int) -> Int[Tensor, "maze cell"]:
    """Steps from each cell to the goal along free cells; FAR where there is no way."""
    free = ~walls.view(-1, size, size)
    reached = F.one_hot(goal, size**2).bool().view(-1, size, size)
    distance = torch.full(reached.shape, FAR, device=walls.device)
    distance[reached] = 0
    for step in range(1, size**2):
        wide = F.pad(reached, (1, 1, 1, 1))
        beside = wide[:, :-2, 1:-1] | wide[:, 2:, 1:-1] | wide[:, 1:-1, :-2] | wide[:, 1:-1, 2:]
        new = beside & free & ~reached
        if not new.any():
            break
        distance[new] = step
        reached = reached | new
    return distance.flatten(1)


def mazes_with(walls: Bool[Tensor, "maze cell"], goal: Int[Tensor, "maze"], size: int) -> Mazes:
    """Mazes from given walls and goals; a goal inside a wall clears it."""
    walls = walls & ~F.one_hot(goal, size**2).bool()
    distance = flood(walls, goal, size)
    starts = (distance > 0) & (distance < FAR)
    return Mazes(size, walls, goal, distance, starts, torch.ones_like(starts))


def random_mazes(
    count: int, size: int, goals: Int[Tensor, "count"] | None, density: float, generator: torch.Generator
) -> Mazes:
    """``count`` mazes whose cells are walls with probability ``density``, goals as given or anywhere.

    A maze is drawn again until at least half of its cells can reach the goal.
    """
    goal = torch.randint(size**2, (count,), generator=generator) if goals is None else goals
    walls = torch.rand(count, size**2, generator=generator) < density
    while True:
        found = mazes_with(walls, goal, size)
        poor = found.starts.sum(1) < size**2 // 2
        if not poor.any():
            return found
        walls[poor] = torch.rand(int(poor.sum()), size**2, generator=generator) < density


class Grid:
    """Agents that walk through mazes of a bank, each on its own, all in step."""

    def __init__(self, bank: Mazes, agents: int, generator: torch.Generator, limit: int = 40) -> None:
        """``limit``: steps after which an episode ends.  ``generator`` lives on the CPU."""
        self.bank, self.agents, self.generator, self.limit = bank, agents, generator, limit
        self.maze = torch.zeros(agents, dtype=torch.int64, device=bank.goal.device)
        self.cell, self.clock = self.maze.clone(), self.maze.clone()
        self.restart(torch.ones(agents, dtype=torch.bool))

    def restart(self, which: Bool[Tensor, "agent"]) -> None:
        """Put these agents into new mazes, at random starts."""
        count = int(which.sum())
        which, device = which.to(self.maze.device), self.maze.device
        maze = torch.randint(len(self.bank), (count,), generator=self.generator).to(device)
        draw = torch.rand(count, self.bank.size**2, generator=self.generator).to(device)
        self.maze[which], self.clock[which] = maze, 0
        self.cell[which] = draw.masked_fill(~self.bank.starts[maze], -1).argmax(1)

    def observe(self) -> Float[Tensor, "agent plane row column"]:
        """What every agent sees."""
        return self.bank.planes(self.maze, self.cell)

    def step(self, action: Int[Tensor, "agent"]) -> tuple[Float[Tensor, "agent"], Bool[Tensor, "agent"]]:
        """Act; return rewards and which episodes ended.  Those agents are in new mazes afterwards."""
        self.cell = self.bank.moved(self.maze, self.cell, action)
        self.clock += 1
        reward = (self.cell == self.bank.goal[self.maze]).float()
        done = (reward > 0) | (self.clock >= self.limit)
        if done.any():
            self.restart(done)
        return reward, done
