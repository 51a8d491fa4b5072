"""Training: the plain loop, bit for bit; checkpoints; going on after a kill; schedules."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import numpy  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

from mihack.lab import train as training  # noqa: E402
from mihack.lab.checkpoints import checkpoints, load_checkpoint, log_spaced, save_checkpoint  # noqa: E402
from mihack.lab.schedules import constant, cosine, linear, warmup_stable_decay  # noqa: E402
from mihack.lab.train import train  # noqa: E402

STEPS = 30


class Net(nn.Module):
    """Every part that a state has to hold: weights, a buffer that moves, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))

    def forward(self, x: Any) -> Any:
        return self.layers(x)


class Task:
    """A model, its data from every kind of generator, and a step at which it is interrupted."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.model, self.dies_at = Net(), dies_at
        self.generator = torch.Generator().manual_seed(5)
        random.seed(1)
        numpy.random.seed(2)
        torch.manual_seed(4)

    def loss_at(self, step: int) -> Any:
        if step == self.dies_at:
            raise KeyboardInterrupt
        x = torch.randn(16, 4, generator=self.generator)
        shift = random.random() + numpy.random.rand() + torch.rand(1).item()
        return (self.model(x) - x.sum(1, keepdim=True) - shift).square().mean()

    def evaluate(self) -> dict[str, float]:
        return {"norm": sum(p.norm().item() for p in self.model.parameters()), "drawn": random.random()}

    def train(self, **options: Any) -> Any:
        given = {"steps": STEPS, "lr": 1e-2, "weight_decay": 0.1, "every": 7, "evaluate": self.evaluate}
        return train(self.model, self.loss_at, **{**given, "generators": [self.generator], **options})


def same(one: nn.Module, two: nn.Module) -> bool:
    """Bit for bit, buffers too."""
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def interrupted(path: Path, at: int, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        Task(at).train(state=path, **options)


class TestThePlainLoop:
    @pytest.mark.parametrize(
        ("decay", "clip", "warmup"), [(False, None, 10), (True, 0.1, 3), (True, None, 0)]
    )
    def test_it_is_adamw_with_a_warm_up_to_the_last_bit(
        self, decay: bool, clip: float | None, warmup: int
    ) -> None:
        """The numbers of the starters rest on this."""
        ours = Task()
        history = ours.train(decay=decay, clip=clip, warmup=warmup, evaluate=None, betas=(0.8, 0.9))
        plain = Task()
        optimiser = torch.optim.AdamW(plain.model.parameters(), lr=1e-2, weight_decay=0.1, betas=(0.8, 0.9))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (STEPS - warmup))) if decay else 1.0

        schedule, losses = torch.optim.lr_scheduler.LambdaLR(optimiser, factor), []
        for step in range(STEPS):
            loss = plain.loss_at(step)
            losses.append(loss.item())
            optimiser.zero_grad()
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(plain.model.parameters(), clip)
            optimiser.step()
            schedule.step()
        assert history["step"] == [0, 7, 14, 21, 28, STEPS]
        assert history["loss"][:-1] == losses[::7]
        assert all(torch.equal(a, b) for a, b in
                   zip(ours.model.parameters(), plain.model.parameters(), strict=True))  # fmt: skip

    def test_new_options_change_nothing_in_the_numbers(self, tmp_path: Path) -> None:
        bare = Task()
        expected = bare.train()
        rich = Task()  # seeds anew
        found = rich.train(checkpoints=tmp_path / "c", state=tmp_path / "s", schedule=constant(10))
        assert found == expected
        assert same(rich.model, bare.model)

    def test_columns_have_equal_length_and_the_model_ends_in_eval_mode(self) -> None:
        task = Task()
        history = task.train()
        assert {len(column) for column in history.values()} == {6}
        assert not task.model.training

    def test_a_loss_that_is_not_finite_ends_it(self) -> None:
        model = nn.Linear(1, 1)
        with pytest.raises(FloatingPointError, match="inf at step 4: lower"):
            train(model, lambda step: model.weight.sum() * (math.inf if step >= 4 else 1), steps=9, lr=1,
                  every=1)  # fmt: skip

    def test_the_bar_shows_the_current_loss(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shown: list[str] = []
        monkeypatch.setattr(training.tqdm, "set_postfix_str", lambda self, text, refresh: shown.append(text))
        history = Task().train()
        assert shown == [f"loss {loss:.4g}" for loss in history["loss"]]


class TestLogSpacing:
    @given(st.integers(0, 10**6), st.integers(2, 200))
    @settings(max_examples=300, deadline=None)
    def test_exactly_as_many_all_different_with_both_ends(self, steps: int, count: int) -> None:
        chosen = log_spaced(steps, count)
        assert len(chosen) == min(count, steps + 1)
        assert chosen == sorted(set(chosen))
        assert (chosen[0], chosen[-1]) == (0, steps)

    @given(st.integers(2, 10**6), st.integers(3, 60))
    @settings(max_examples=200, deadline=None)
    def test_gaps_do_not_shrink_but_for_rounding(self, steps: int, count: int) -> None:
        chosen = log_spaced(steps, count)
        gaps = [b - a for a, b in pairwise(chosen)]
        assert all(later >= earlier - 1 for earlier, later in pairwise(gaps))

    def test_powers_of_a_ratio_where_these_are_whole(self) -> None:
        assert log_spaced(1000, 5) == [0, 1, 10, 100, 1000]
        assert log_spaced(64, 8) == [0, 1, 2, 4, 8, 16, 32, 64]

    @pytest.mark.parametrize(("steps", "count"), [(-1, 5), (10, 1), (10, 0)])
    def test_what_cannot_be_is_refused(self, steps: int, count: int) -> None:
        with pytest.raises(ValueError, match=f"{count} checkpoints over {steps} steps"):
            log_spaced(steps, count)


class TestCheckpoints:
    def test_they_hold_the_weights_that_had_the_loss(self, tmp_path: Path) -> None:
        model, x = nn.Linear(4, 1), torch.ones(2, 4)

        def loss_at(step: int) -> Any:
            return model(x).square().mean()

        at = log_spaced(STEPS, 6)
        train(model, loss_at, steps=STEPS, lr=0.1, checkpoints=tmp_path, checkpoint_at=at)
        found = checkpoints(tmp_path)
        assert [one.step for one in found] == at
        for one in found:
            assert load_checkpoint(model, one.path) == one
            assert loss_at(one.step).item() == one.loss

    def test_twenty_log_spaced_ones_if_nobody_says(self, tmp_path: Path) -> None:
        Task().train(checkpoints=tmp_path)
        assert [one.step for one in checkpoints(tmp_path)] == log_spaced(STEPS, 20)
        assert all(path.suffix == ".safetensors" for path in tmp_path.iterdir())

    def test_a_bridge_comes_back_with_its_logits(self, tmp_path: Path) -> None:
        from test_lab_scan import TransformerBridge, TransformerBridgeConfig

        def made(seed: int) -> Any:
            config = TransformerBridgeConfig(
                n_layers=1, d_model=8, n_heads=2, d_head=4, d_vocab=9, n_ctx=5, act_fn="relu", seed=seed
            )
            return TransformerBridge.boot_native(config)

        one, two, tokens = made(1), made(2), torch.arange(5)[None]
        load_checkpoint(two, save_checkpoint(one, tmp_path, 7, 0.5).path)
        assert torch.equal(one(tokens), two(tokens))

    def test_shared_parameters_are_kept_once_and_stay_shared(self, tmp_path: Path) -> None:
        def tied(seed: int) -> nn.Module:
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
            model[1].weight = model[0].weight
            return model

        one, two = tied(0), tied(1)
        load_checkpoint(two, save_checkpoint(one, tmp_path, 0, 1.0).path)
        assert same(one, two)
        assert two[1].weight is two[0].weight

    def test_one_of_another_model_is_refused_and_changes_nothing(self, tmp_path: Path) -> None:
        path = save_checkpoint(nn.Linear(4, 2), tmp_path, 0, 1.0).path
        model = nn.Linear(3, 2)
        before = model.weight.clone()
        with pytest.raises(ValueError, match="of another model: weight differs"):
            load_checkpoint(model, path)
        assert torch.equal(model.weight, before)


class TestGoingOn:
    @given(st.integers(0, STEPS), st.integers(1, 12))
    @settings(max_examples=25, deadline=None)
    def test_wherever_it_was_interrupted_it_ends_as_the_unbroken_run(
        self, tmp_path_factory: pytest.TempPathFactory, at: int, save_every: int
    ) -> None:
        path = tmp_path_factory.mktemp("state") / "state.safetensors"
        unbroken = Task()
        expected = unbroken.train()
        after = [random.random(), numpy.random.rand(), torch.rand(1).item(), unbroken.generator.get_state()]
        interrupted(path, at, save_every=save_every)
        random.seed(99), numpy.random.seed(99), torch.manual_seed(99)
        again = Task()
        assert again.train(state=path, save_every=save_every) == expected
        assert same(again.model, unbroken.model)
        # what is drawn next is the same too
        assert [random.random(), numpy.random.rand(), torch.rand(1).item()] == after[:3]
        assert torch.equal(again.generator.get_state(), after[3])

    def test_twice_interrupted(self, tmp_path: Path) -> None:
        path, unbroken = tmp_path / "s", Task()
        expected = unbroken.train()
        for at in (9, 23):
            interrupted(path, at, save_every=4)
        again = Task()
        assert again.train(state=path) == expected
        assert same(again.model, unbroken.model)

    def test_only_what_is_missing_runs(self, tmp_path: Path) -> None:
        path = tmp_path / "s"
        interrupted(path, 23, save_every=10)
        steps: list[int] = []
        task = Task()
        plain = task.loss_at
        task.loss_at = lambda step: (steps.append(step), plain(step))[1]  # type: ignore[method-assign]
        history = task.train(state=path)
        assert steps == list(range(20, STEPS + 1))
        done = Task(0)  # would die at the first step
        assert done.train(state=path) == history
        assert same(done.model, task.model)

    def test_checkpoints_are_the_same_too(self, tmp_path: Path) -> None:
        Task().train(checkpoints=tmp_path / "one")
        interrupted(tmp_path / "s", 17, save_every=5, checkpoints=tmp_path / "two")
        Task().train(state=tmp_path / "s", checkpoints=tmp_path / "two")
        one, two = (checkpoints(tmp_path / name) for name in ("one", "two"))
        assert [p.path.name for p in one] == [p.path.name for p in two]
        assert all(a.path.read_bytes() == b.path.read_bytes() for a, b in zip(one, two, strict=True))

    def test_a_process_that_dies_in_the_middle_of_saving(self, tmp_path: Path) -> None:
        """Not an exception but an end: nothing is cleaned up, half a file lies there."""
        path = tmp_path / "state.safetensors"
        script = (
            "import os, sys; from pathlib import Path; import test_lab_train as t\n"
            "from mihack.lab import checkpoints as c\n"
            "real, saved = os.replace, []\n"
            "def dies(*a):\n"
            "    saved.append(a)\n"
            "    os._exit(9) if len(saved) == 3 else real(*a)\n"
            "c.os.replace = dies\n"
            "t.Task().train(state=Path(sys.argv[1]), save_every=6)\n"
        )
        here = Path(__file__).resolve().parent
        environment = {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
        ended = subprocess.run(
            [sys.executable, "-c", script, str(path)], env=environment, check=False, capture_output=True
        )
        assert ended.returncode == 9, ended.stderr.decode()
        assert sorted(tmp_path.iterdir()) == [path, path.with_name(path.name + ".writing")]
        unbroken = Task()
        expected = unbroken.train()
        again = Task()
        assert again.train(state=path, save_every=6) == expected
        assert same(again.model, unbroken.model)
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize(
        ("changed", "told"),
        [
            ({"lr": 0.5}, "lr 0.01, now 0.5"),
            ({"steps": 40}, "steps 30, now 40"),
            ({"schedule": linear(STEPS)}, "schedule"),
            ({"generators": []}, "generators 1, now 0"),
        ],
    )
    def test_a_state_of_another_training_is_refused(
        self, tmp_path: Path, changed: dict[str, Any], told: str
    ) -> None:
        interrupted(tmp_path / "s", 20, save_every=5)
        task = Task()
        with pytest.raises(ValueError, match=rf"of another training \(.*{told}.*delete it"):
            task.train(state=tmp_path / "s", **changed)
        assert same(task.model, Net())

    def test_a_state_of_another_model_is_refused(self, tmp_path: Path) -> None:
        interrupted(tmp_path / "s", 20, save_every=5)
        task = Task()
        task.model.layers[0] = nn.Linear(4, 8, bias=False)
        with pytest.raises(ValueError, match="of another model"):
            task.train(state=tmp_path / "s")


class TestSchedules:
    @pytest.mark.parametrize(
        "made", [constant(10), cosine(100, 10), linear(100, 10), warmup_stable_decay(100, 10, 20)]
    )
    def test_they_rise_in_a_line_and_stay_between_zero_and_one(self, made: Any) -> None:
        assert [made(step) for step in range(10)] == pytest.approx([(step + 1) / 10 for step in range(10)])
        assert made(10) == 1
        assert all(0 <= made(step) <= 1 for step in range(101))

    def test_where_they_end(self) -> None:
        ends = [constant(10), cosine(100, 10), linear(100, 10), warmup_stable_decay(100, 10, 20)]
        assert [made(100) for made in ends] == pytest.approx([1, 0, 0, 0])

    def test_half_way_down(self) -> None:
        assert cosine(110, 10)(60) == pytest.approx(0.5)
        assert linear(110, 10)(35) == pytest.approx(0.75)
        stable = warmup_stable_decay(100, 10, 20)
        assert [stable(step) for step in (50, 80, 85, 95)] == pytest.approx([1, 1, 0.75, 0.25])

    def test_without_warm_up_the_first_step_is_at_the_full_rate(self) -> None:
        assert [made(0) for made in (constant(), cosine(50), linear(50))] == [1, 1, 1]

    def test_phases_that_do_not_fit_are_refused(self) -> None:
        with pytest.raises(ValueError, match="60 steps of warm-up and 50 of cool-down are more than 100"):
            warmup_stable_decay(100, 60, 50)

    def test_the_optimiser_follows_them(self) -> None:
        """Under Adam the first steps of a constant gradient have the length of the rate."""
        model = nn.Linear(1, 1, bias=False)
        before, moved = model.weight.item(), []
        train(model, lambda step: (moved.append(model.weight.item()), model.weight.sum())[1], steps=8, lr=0.1,
              schedule=linear(8))  # fmt: skip
        path = [before - 0.1 * sum(linear(8)(s) for s in range(n)) for n in range(9)]
        assert moved == pytest.approx(path, abs=1e-5)
