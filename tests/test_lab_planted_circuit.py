"""A circuit written by hand: the model solves its task, by the heads that are said to do it."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from mihack.lab.patching import Patcher, logit_difference  # noqa: E402
from mihack.lab.planted_circuit import (  # noqa: E402
    END,
    HEADS,
    KEYS,
    LAYER_OF,
    LAYERS,
    QUERY,
    Lookups,
    PlantedCircuit,
    lookups,
    planted_circuit,
)

SEEDS = (0, 1, 2)


@pytest.fixture(params=SEEDS)
def planted(request: Any) -> PlantedCircuit:
    return planted_circuit(request.param)


def accuracy(made: PlantedCircuit, given: Lookups, silent: tuple[str, ...] = ()) -> float:
    """Share of right answers with these roles writing zero."""

    def hook(head: int) -> Any:
        def zero(z: Any, hook: Any = None) -> Any:
            z = z.clone()
            z[:, :, head] = 0
            return z

        return zero

    places = [made.roles[name] for name in silent]
    with torch.no_grad():
        logits = made.model.run_with_hooks(
            given.tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", hook(head)) for layer, head in places]
        )
    return (logits[:, -1].argmax(-1) == given.answers).float().mean().item()


def patched(made: PlantedCircuit, exchange: str) -> Any:
    """Share of the difference that each head alone restores, [layer, head]."""
    given = lookups(32, 5, exchange)
    patcher = Patcher(
        made.model, given.tokens, given.corrupted, logit_difference(given.answers, given.others)
    )
    clean, corrupted = patcher.baseline()
    return (patcher.heads() - corrupted) / (clean - corrupted)


class TestPrompts:
    @pytest.mark.parametrize("exchange", ["keys", "values", "query"])
    def test_the_answer_stands_behind_the_key_that_is_asked_for(self, exchange: str) -> None:
        given = lookups(50, 1, exchange)
        for tokens, wanted in ((given.tokens, given.answers), (given.corrupted, given.others)):
            for row, answer in zip(tokens.tolist(), wanted.tolist(), strict=True):
                pairs = dict(zip(row[1:QUERY:2], row[2:QUERY:2], strict=True))
                assert pairs[row[QUERY]] == KEYS + answer
                assert len(pairs) == len(set(pairs.values())) == 4

    def test_the_two_answers_differ(self) -> None:
        given = lookups(50, 1)
        assert bool((given.answers != given.others).all())

    def test_each_exchange_changes_its_own_places(self) -> None:
        changed = {}
        for exchange in ("keys", "values", "query"):
            given = lookups(50, 1, exchange)
            changed[exchange] = set((given.tokens != given.corrupted).any(0).nonzero().flatten().tolist())
        assert changed == {"keys": {1, 3, 5, 7}, "values": {2, 4, 6, 8}, "query": {QUERY}}
        assert END == QUERY + 1

    def test_a_seed_gives_the_same_prompts_again(self) -> None:
        assert torch.equal(lookups(9, 3).tokens, lookups(9, 3).tokens)
        assert not torch.equal(lookups(9, 3).tokens, lookups(9, 4).tokens)

    def test_an_unknown_exchange_is_refused(self) -> None:
        with pytest.raises(ValueError, match="keys, values or query"):
            lookups(4, exchange="names")


class TestTheModel:
    def test_it_solves_the_task(self, planted: PlantedCircuit) -> None:
        assert accuracy(planted, lookups(200, 7)) >= 0.99

    def test_roles_stand_in_their_layers_in_places_that_the_seed_deals_out(self) -> None:
        made = [planted_circuit(seed).roles for seed in SEEDS]
        assert all({name: layer for name, (layer, _) in roles.items()} == LAYER_OF for roles in made)
        assert made[0] != made[1]
        assert all(len(set(roles.values())) == len(LAYER_OF) for roles in made)

    def test_a_seed_gives_the_same_weights_again(self) -> None:
        one, two = (planted_circuit(1).model.state_dict() for _ in range(2))
        assert all(torch.equal(one[name], two[name]) for name in one)

    def test_the_truth_names_the_circuit(self, planted: PlantedCircuit) -> None:
        truth = planted.truth()
        assert truth.shape == (LAYERS, HEADS)
        assert {planted.role(*place) for place in truth.nonzero().tolist()} == set(planted.circuit)
        assert sum(planted.role(n, h) == "random" for n in range(LAYERS) for h in range(HEADS)) == 17

    @pytest.mark.parametrize("wrong", [{"noise": -0.1}, {"sharpness": 0.0}])
    def test_settings_without_meaning_are_refused(self, wrong: dict[str, float]) -> None:
        with pytest.raises(ValueError, match="must be at least 0"):
            planted_circuit(**wrong)

    def test_without_noise_the_logit_of_the_answer_is_the_closed_form(self) -> None:
        """The mover gives it 6 nats, and the crowd half as much to every value of the prompt."""
        made, given = planted_circuit(noise=0.0), lookups(20, 2)
        with torch.no_grad():
            logits = made.model(given.tokens)[:, -1]
        chosen = logits.gather(-1, torch.stack([given.answers, given.others], -1)).mean(0)
        assert chosen.tolist() == pytest.approx([9.0, 3.0], abs=0.01)


class TestTheCircuit:
    def test_each_of_its_heads_alone_turns_the_answer_round(self, planted: PlantedCircuit) -> None:
        share = patched(planted, "keys")
        assert all(share[planted.roles[name]] > 0.9 for name in planted.circuit)
        assert share[planted.truth() == 0].abs().max() < 0.1

    @pytest.mark.parametrize("exchange", ["values", "query"])
    def test_other_exchanges_leave_the_first_head_out(self, planted: PlantedCircuit, exchange: str) -> None:
        share = patched(planted, exchange)
        assert share[planted.roles["previous"]].abs() < 0.01
        assert share[planted.roles["match"]] > 0.9

    def test_the_backup_stands_in_for_the_match(self, planted: PlantedCircuit) -> None:
        given = lookups(200, 7)
        assert accuracy(planted, given, ("match",)) >= 0.95
        assert accuracy(planted, given, ("backup",)) >= 0.99
        assert accuracy(planted, given, ("match", "backup")) <= 0.5

    def test_without_the_constant_the_match_looks_away(self, planted: PlantedCircuit) -> None:
        assert accuracy(planted, lookups(200, 7), ("constant",)) <= 0.6

    @pytest.mark.parametrize("role", ["previous", "mover"])
    def test_without_an_end_of_the_chain_the_answer_is_lost(self, planted: PlantedCircuit, role: str) -> None:
        assert accuracy(planted, lookups(200, 7), (role,)) <= 0.6

    @pytest.mark.parametrize("role", ["crowd", "decoy"])
    def test_crowd_and_decoy_are_not_needed(self, planted: PlantedCircuit, role: str) -> None:
        assert accuracy(planted, lookups(200, 7), (role,)) >= 0.99
