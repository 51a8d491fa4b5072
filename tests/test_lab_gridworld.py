"""Mazes move agents as their walls say, distances are those of a search, and a small agent learns."""

from __future__ import annotations

from collections import deque

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from mihack.lab.actor_critic import Rollout, advantages, learn, rollout, walk  # noqa: E402
from mihack.lab.gridworld import AGENT, FAR, GOAL, WALLS, Grid, Mazes, mazes_with, random_mazes  # noqa: E402

UP, RIGHT, DOWN, LEFT = range(4)


def drawn(picture: str) -> Mazes:
    """One square maze from a picture: # wall, G goal, . free."""
    rows = picture.split()
    cells = "".join(rows)
    walls = torch.tensor([[cell == "#" for cell in cells]])
    return mazes_with(walls, torch.tensor([cells.index("G")]), len(rows))


ROOM = drawn("..# .#. .G.")  # the cells are numbered 0 1 2 / 3 4 5 / 6 7 8


def searched(maze: Mazes, index: int) -> list[int]:
    """Distances of one maze by a breadth-first search, cell by cell."""
    size, walls = maze.size, maze.walls[index].tolist()
    found = [FAR] * size**2
    found[int(maze.goal[index])] = 0
    queue = deque([int(maze.goal[index])])
    while queue:
        row, column = divmod(queue.popleft(), size)
        for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= r < size and 0 <= c < size and not walls[r * size + c] and found[r * size + c] == FAR:
                found[r * size + c] = found[row * size + column] + 1
                queue.append(r * size + c)
    return found


class Follower(nn.Module):
    """A policy that knows the answer: it takes the first optimal action."""

    def __init__(self, mazes: Mazes) -> None:
        super().__init__()
        self.mazes = mazes

    def forward(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        cell = planes[:, AGENT].flatten(1).argmax(1)
        maze = torch.zeros_like(cell)
        return self.mazes.optimal(maze, cell).float() * 50, torch.zeros(len(planes))


class TestMoves:
    @pytest.mark.parametrize(
        ("cell", "action", "there"),
        [(0, RIGHT, 1), (0, DOWN, 3), (3, UP, 0), (7, LEFT, 6)],
        ids=["right", "down", "up", "left"],
    )
    def test_a_free_neighbour_is_entered(self, cell: int, action: int, there: int) -> None:
        assert ROOM.moved(*map(torch.tensor, ([0], [cell], [action]))).item() == there

    @pytest.mark.parametrize(("cell", "action"), [(0, UP), (0, LEFT), (8, DOWN), (5, RIGHT)])
    def test_the_edge_is_not_crossed(self, cell: int, action: int) -> None:
        assert ROOM.moved(*map(torch.tensor, ([0], [cell], [action]))).item() == cell

    @pytest.mark.parametrize(("cell", "action"), [(1, RIGHT), (1, DOWN), (5, UP)])
    def test_nor_is_a_wall(self, cell: int, action: int) -> None:
        assert ROOM.moved(*map(torch.tensor, ([0], [cell], [action]))).item() == cell

    def test_an_agent_sees_walls_goal_and_itself(self) -> None:
        (planes,) = ROOM.planes(torch.tensor([0]), torch.tensor([3]))
        assert planes[WALLS].nonzero().tolist() == [[0, 2], [1, 1]]
        assert planes[GOAL].nonzero().tolist() == [[2, 1]]
        assert planes[AGENT].nonzero().tolist() == [[1, 0]]


class TestDistances:
    @settings(deadline=None, max_examples=30)
    @given(st.integers(2, 6), st.integers(0, 10**6))
    def test_they_are_those_of_a_search(self, size: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        goal = torch.randint(size**2, (3,), generator=generator)
        mazes = mazes_with(torch.rand(3, size**2, generator=generator) < 0.4, goal, size)
        assert [mazes.distance[i].tolist() for i in range(3)] == [searched(mazes, i) for i in range(3)]

    def test_a_goal_inside_a_wall_is_cleared(self) -> None:
        maze = mazes_with(torch.ones(1, 9, dtype=torch.bool), torch.tensor([4]), 3)
        assert not maze.walls[0, 4]
        assert not maze.starts.any()

    def test_optimal_actions_are_all_that_shorten_the_way(self) -> None:
        maze = drawn("... ... ..G")
        assert maze.optimal(torch.tensor([0]), torch.tensor([0])).tolist() == [[False, True, True, False]]
        assert maze.optimal(torch.tensor([0]), torch.tensor([2])).tolist() == [[False, False, True, False]]

    def test_states_are_the_places_from_which_the_goal_can_be_reached(self) -> None:
        _, cell = drawn(".#. ##. ..G").states()
        assert cell.tolist() == [2, 5, 6, 7]  # not 0, which is walled in, and not the goal

    def test_random_mazes_can_be_walked_in(self) -> None:
        mazes = random_mazes(50, 5, None, 0.4, torch.Generator().manual_seed(0))
        assert (mazes.starts.sum(1) >= 12).all()
        assert not mazes.walls[torch.arange(50), mazes.goal].any()

    def test_and_the_same_again_from_the_same_seed(self) -> None:
        once, again = (random_mazes(9, 4, None, 0.3, torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(once.walls, again.walls)
        assert torch.equal(once.goal, again.goal)


class TestGrid:
    def test_the_goal_pays_one_and_ends_the_episode(self) -> None:
        grid = Grid(ROOM, 3, torch.Generator().manual_seed(0))
        grid.cell = torch.tensor([8, 6, 0])
        reward, done = grid.step(torch.tensor([LEFT, RIGHT, RIGHT]))
        assert reward.tolist() == [1.0, 1.0, 0.0]
        assert done.tolist() == [True, True, False]
        assert grid.cell[2] == 1
        assert (ROOM.distance[0][grid.cell] > 0).all()

    def test_the_time_limit_ends_it_without_pay(self) -> None:
        grid = Grid(ROOM, 1, torch.Generator().manual_seed(0), limit=2)
        grid.cell = torch.tensor([0])
        assert not grid.step(torch.tensor([UP]))[1].item()
        reward, done = grid.step(torch.tensor([UP]))
        assert (reward.item(), done.item()) == (0.0, True)
        assert grid.clock.item() == 0

    def test_episodes_begin_where_they_may(self) -> None:
        bank = drawn(".#. ##. ..G")
        bank.starts[0, 6:] = False
        grid = Grid(bank, 64, torch.Generator().manual_seed(0))
        assert set(grid.cell.tolist()) == {2, 5}


class TestActing:
    def test_a_policy_that_knows_the_way_walks_it(self) -> None:
        maze, cell = ROOM.states()
        path = walk(Follower(ROOM), ROOM, maze, cell, steps=9)
        assert torch.equal(path[:, 0], cell)
        assert (path[:, -1] == 7).all()
        arrived = (path == 7).float().argmax(1)
        assert torch.equal(arrived, ROOM.distance[0][cell])

    def test_actions_are_drawn_in_proportion_to_their_probability(self) -> None:
        logits = torch.tensor([0.5, 0.25, 0.25, 1e-9]).log()

        def policy(planes: Tensor) -> tuple[Tensor, Tensor]:
            return logits.expand(len(planes), 4), torch.zeros(len(planes))

        seen = rollout(policy, Grid(ROOM, 500, torch.Generator().manual_seed(0)), 20)
        share = torch.bincount(seen.action.flatten(), minlength=4) / seen.action.numel()
        assert torch.allclose(share, logits.exp(), atol=0.02)  # four standard errors of 10,000 draws

    def test_log_probabilities_are_those_of_the_actions_taken(self) -> None:
        torch.manual_seed(0)
        net = Tiny(9)
        seen = rollout(net, Grid(ROOM, 5, torch.Generator().manual_seed(0)), 4)
        again = net(seen.planes.flatten(0, 1))[0].log_softmax(-1).gather(1, seen.action.flatten()[:, None])
        assert torch.allclose(again[:, 0], seen.log_prob.flatten(), atol=1e-6)
        assert seen.value.shape == (5, 5)


class Tiny(nn.Module):
    def __init__(self, cells: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3 * cells, 32), nn.ReLU())
        self.policy, self.value = nn.Linear(32, 4), nn.Linear(32, 1)

    def forward(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(planes)
        return self.policy(x), self.value(x)[:, 0]


def episode(reward: list[float], done: list[bool], value: list[float]) -> Rollout:
    """One agent's rollout of which only what advantages need is filled in."""
    steps = len(reward)
    nothing = torch.zeros(steps, 1)
    return Rollout(
        torch.zeros(steps, 1, 3, 2, 2), nothing.long(), nothing, torch.tensor(reward)[:, None],
        torch.tensor(done)[:, None], nothing.bool(), torch.tensor(value)[:, None],
    )  # fmt: skip


class TestLearning:
    def test_without_decay_an_advantage_is_the_surprise_of_one_step(self) -> None:
        found = advantages(episode([0.0, 1.0], [False, False], [0.2, 0.5, 0.3]), 0.9, 0.0)
        assert found[:, 0].tolist() == pytest.approx([0.9 * 0.5 - 0.2, 1 + 0.9 * 0.3 - 0.5])

    def test_with_full_decay_it_is_the_discounted_return_less_the_baseline(self) -> None:
        found = advantages(episode([0.0, 0.0, 1.0], [False, False, True], [0.1, 0.2, 0.3, 9.0]), 0.5, 1.0)
        assert found[:, 0].tolist() == pytest.approx([0.25 - 0.1, 0.5 - 0.2, 1 - 0.3])

    def test_nothing_flows_back_over_the_end_of_an_episode(self) -> None:
        before, after = (
            advantages(episode([0.0, r], [True, False], [0.1, 0.2, 0.3]), 0.9, 0.9)[0, 0] for r in (0.0, 5.0)
        )
        assert before == after == pytest.approx(-0.1)

    def test_a_small_agent_finds_its_way(self) -> None:
        generator = torch.Generator().manual_seed(0)
        bank = random_mazes(1, 4, torch.tensor([0]), 0.2, generator)
        torch.manual_seed(0)
        net = Tiny(16)
        states = bank.states()

        def arrives() -> float:
            return (walk(net, bank, *states, steps=12)[:, -1] == 0).float().mean().item()

        before = arrives()
        history = learn(net, Grid(bank, 32, generator), steps=60, lr=5e-3)
        assert before < 0.7
        assert arrives() == 1.0
        assert history["reward"][-1] > 2 * history["reward"][0]
        assert not net.training

    def test_states_that_do_not_count_are_not_learned_from(self) -> None:
        bank = random_mazes(1, 3, torch.tensor([0]), 0.0, torch.Generator().manual_seed(0))
        bank.counted[:] = False
        torch.manual_seed(0)
        net = Tiny(9)
        before = [p.clone() for p in net.parameters()]
        learn(net, Grid(bank, 4, torch.Generator().manual_seed(0)), steps=2)
        assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
