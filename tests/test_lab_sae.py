"""Sparse autoencoders and transcoders find what was planted, and their measures mean what they say."""

from __future__ import annotations

import ast
import math
import tempfile
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from test_lab_patching import gpt2, llama  # noqa: E402
from transformer_lens import TransformerBridgeConfig  # noqa: E402
from transformer_lens.model_bridge import TransformerBridge  # noqa: E402

from mihack.lab.dictionary_metrics import (  # noqa: E402
    Quality,
    baseline_dictionaries,
    loss_recovered,
    measure,
    recovery,
    splice,
)
from mihack.lab.directions import add  # noqa: E402
from mihack.lab.planted import Planted  # noqa: E402
from mihack.lab.sae import Options, SparseAutoencoder  # noqa: E402
from mihack.lab.sae_training import revive, train_sae  # noqa: E402
from mihack.lab.scan import scan  # noqa: E402
from mihack.scaffold.experiment import Experiment, lab_files  # noqa: E402
from mihack.scaffold.percent import Script  # noqa: E402

FEATURES, D = 64, 32
SETTINGS: dict[str, dict[str, Any]] = {
    "topk": {"kind": "topk", "k": 4},
    "batchtopk": {"kind": "batchtopk", "k": 3},
    "relu": {"kind": "relu", "l1": 0.2},
}
HELD_OUT = 10**6  # a step that no training reaches


@cache
def trained(kind: str, seed: int = 0) -> tuple[Planted, SparseAutoencoder]:
    planted = Planted.draw(FEATURES, D, probability=0.05, seed=seed)
    sae = SparseAutoencoder(Options(D, 2 * FEATURES, **SETTINGS[kind]), seed=seed)
    steps = 1000 if kind == "relu" else 600
    train_sae(sae, lambda step: planted.activations(step, 256), steps=steps, lr=5e-3)
    return planted, sae


def small(kind: str = "topk", seed: int = 0, **changes: Any) -> SparseAutoencoder:
    """An untrained one with numbers that are not at their defaults."""
    sae = SparseAutoencoder(Options(**{"d_in": 6, "latents": 12, **SETTINGS[kind], **changes}), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*sae.parameters(), sae.centre_in, sae.centre_out):
            tensor += 0.3 * torch.randn(tensor.shape, generator=generator)
        sae.scale_in.fill_(2.0)
        sae.scale_out.fill_(2.0 if sae.options.d_out is None else 3.0)
        sae.threshold.fill_(0.1)
    if sae.options.d_out is None:
        sae.centre_out.copy_(sae.centre_in)
    return sae.eval()


class TestPlantedData:
    def test_a_batch_depends_on_seed_and_step_alone(self) -> None:
        one, two = (Planted.draw(20, 8, seed=3, noise=0.1) for _ in range(2))
        assert torch.equal(one.activations(5, 64), two.activations(5, 64))
        assert not torch.equal(one.activations(5, 64), one.activations(6, 64))
        assert not torch.equal(one.codes(5, 64), Planted.draw(20, 8, seed=4).codes(5, 64))

    def test_features_are_as_frequent_and_as_large_as_asked(self) -> None:
        chance = torch.tensor([0.02, 0.1, 0.5])
        codes = Planted.draw(3, 8, probability=chance, low=1.0, high=2.0).codes(0, 20_000)
        torch.testing.assert_close((codes > 0).float().mean(0), chance, atol=0.015, rtol=0)
        assert codes[codes > 0].min() >= 1.0
        assert codes.max() <= 2.0

    def test_a_child_is_active_only_with_its_parent_and_a_group_together(self) -> None:
        planted = Planted.draw(6, 8, probability=0.3, parents={2: 0, 3: 2}, groups=[[4, 5]])
        active = planted.codes(0, 5000) > 0
        assert not (active[:, 2] & ~active[:, 0]).any()
        assert not (active[:, 3] & ~active[:, 2]).any()
        assert active[:, 2].float().mean() == pytest.approx(0.09, abs=0.02)
        assert torch.equal(active[:, 4], active[:, 5])

    def test_noise_is_of_the_size_asked(self) -> None:
        noisy, clean = (Planted.draw(6, 8, noise=noise) for noise in (0.2, 0.0))
        assert (noisy.activations(0, 5000) - clean.activations(0, 5000)).std() == pytest.approx(0.2, rel=0.05)

    def test_what_cannot_be_drawn_is_refused(self) -> None:
        with pytest.raises(ValueError, match="parents come before"):
            Planted.draw(4, 8, parents={1: 2})
        with pytest.raises(ValueError, match="shares a feature"):
            Planted.draw(4, 8, groups=[[0, 1], [1, 2]])


class TestRecovery:
    @pytest.mark.parametrize("seed", [0, 1, 2])
    @pytest.mark.parametrize("kind", ["topk", "relu"])
    def test_nine_in_ten_planted_features_are_found_and_by_no_control(self, kind: str, seed: int) -> None:
        planted, sae = trained(kind, seed)
        found = recovery(sae.directions, planted.directions)
        assert found.share(above=0.9) >= 0.9
        assert found.mmcs > 0.95
        x = planted.activations(HELD_OUT, 4096)
        for rows in baseline_dictionaries(x, 2 * FEATURES, seed).values():
            control = recovery(rows, planted.directions)
            assert control.share(above=0.9) < 0.4
            assert control.mmcs < found.mmcs - 0.15

    def test_batchtopk_finds_them_with_a_number_of_latents_that_varies(self) -> None:
        planted, sae = trained("batchtopk")
        assert recovery(sae.directions, planted.directions).share() >= 0.6  # it wants three times the steps
        counts = (sae.encode(planted.activations(HELD_OUT, 4096)) > 0).sum(1)
        assert counts.float().mean() == pytest.approx(3, abs=0.3)
        assert counts.min() < 2
        assert counts.max() > 5

    def test_an_untrained_dictionary_is_no_better_than_random_rows(self) -> None:
        planted, _ = trained("topk")
        untrained = SparseAutoencoder(Options(D, 2 * FEATURES, **SETTINGS["topk"]))
        assert recovery(untrained.directions, planted.directions).share() == 0

    def test_a_latent_fires_with_its_feature(self) -> None:
        planted, sae = trained("topk")
        codes = planted.codes(HELD_OUT, 4096)
        latents = sae.encode(codes @ planted.directions)
        cosine = torch.nn.functional.normalize(planted.directions, dim=1) @ sae.decoder.detach().T
        paired = latents[:, cosine.argmax(1)]
        agree = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(paired.T, codes.T)])  # noqa: B905
        assert agree.median() > 0.9

    def test_with_a_hierarchy_the_parents_latent_has_holes_where_its_child_is(self) -> None:
        """Absorption (arXiv:2409.14507), and the control: no holes where the second feature is free."""
        chance = torch.full((32,), 0.05)
        chance[:4] = 0.2

        def holes(parents: dict[int, int], own: float) -> float:
            given = chance.clone()
            given[4:8] = own
            planted = Planted.draw(32, 32, probability=given, parents=parents)
            sae = SparseAutoencoder(Options(32, 64, **SETTINGS["relu"]))
            train_sae(sae, lambda step: planted.activations(step, 256), steps=600, lr=5e-3)
            codes = planted.codes(HELD_OUT, 4096)
            latents = sae.encode(codes @ planted.directions)
            column = (planted.directions[:4] @ sae.decoder.detach().T).argmax(1)
            both = (codes[:, :4] > 0) & (codes[:, 4:8] > 0)
            return (latents[:, column] <= 0.02)[both].float().mean().item()

        absorbed = holes({child: child - 4 for child in range(4, 8)}, 0.4)
        assert absorbed > 0.12
        assert holes({}, 0.08) < absorbed / 3

    def test_signs_count(self) -> None:
        assert recovery(-torch.eye(3), torch.eye(3)).mmcs == 0
        assert recovery(5 * torch.eye(3), torch.eye(3)).share() == 1


class TestTranscoder:
    @staticmethod
    def layer(seed: int) -> tuple[Planted, Any, Any]:
        """An MLP whose neurons each read one planted feature and write a direction of their own."""
        planted = Planted.draw(48, D, probability=0.05, seed=seed)
        generator = torch.Generator().manual_seed(seed + 77)
        write = torch.nn.functional.normalize(torch.randn(48, 40, generator=generator), dim=1)
        return planted, write, lambda x: torch.relu(x @ planted.directions.T - 0.4) @ write

    @pytest.mark.parametrize(("kind", "steps"), [("topk", 600), ("relu", 800)])
    def test_it_finds_what_each_neuron_reads_and_writes_and_nothing_where_nothing_is(
        self, kind: str, steps: int
    ) -> None:
        planted, write, mlp = self.layer(0)
        found = {}
        for name, shift in (("real", 0), ("other examples' outputs", 1)):
            transcoder = SparseAutoencoder(Options(D, 96, d_out=40, **SETTINGS[kind]))
            pairs = lambda step, by=shift: (x := planted.activations(step, 256), mlp(x).roll(by, 0))  # noqa: E731
            train_sae(transcoder, pairs, steps=steps, lr=5e-3)
            x = planted.activations(HELD_OUT, 4096)
            found[name] = (
                recovery(transcoder.directions, write).share(),
                recovery(transcoder.encoder.detach(), planted.directions).share(),
                measure(transcoder, [(x, mlp(x))]).explained_variance,
            )
        assert min(found["real"]) > 0.8
        assert max(found["other examples' outputs"]) < 0.05


class TestTheAutoencoder:
    @pytest.mark.parametrize("kind", list(SETTINGS))
    def test_latents_are_sparse_and_never_negative_and_decode_to_the_output(self, kind: str) -> None:
        sae = small(kind)
        x = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
        latents = sae.encode(x)
        assert latents.min() == 0
        if kind == "topk":
            assert (latents > 0).sum(1).max() <= 4
        torch.testing.assert_close(sae.decode(latents), sae(x), atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("kind", list(SETTINGS))
    def test_any_leading_axes_and_the_same_for_an_example_alone(self, kind: str) -> None:
        sae = small(kind)
        x = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(1))
        assert sae.encode(x).shape == (3, 5, 12)
        torch.testing.assert_close(sae(x)[1, 2], sae(x[1, 2]), atol=1e-6, rtol=1e-5)

    def test_decoding_the_kept_latents_has_the_gradients_of_decoding_all(self) -> None:
        sae = small("topk")
        x = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
        weights = list(sae.parameters())
        kept, every = (
            torch.autograd.grad((output - x).square().sum(), weights)
            for output in (sae(x), sae.decode(sae.encode(x)))
        )
        assert all(gradient.abs().sum() > 0 for gradient in kept)
        torch.testing.assert_close(kept, every, atol=1e-4, rtol=1e-4)

    def test_decoder_rows_have_unit_norm_after_training(self) -> None:
        _, sae = trained("topk")
        torch.testing.assert_close(sae.decoder.norm(dim=1), torch.ones(2 * FEATURES))
        torch.testing.assert_close(
            sae.directions.norm(dim=1), sae.scale_out.expand(2 * FEATURES), rtol=1e-5, atol=0
        )

    def test_an_autoencoder_starts_tied(self) -> None:
        sae = SparseAutoencoder(Options(6, 12))
        torch.testing.assert_close(sae.encoder, sae.decoder)

    def test_other_units_give_the_same_latents_and_the_output_in_those_units(self) -> None:
        planted = Planted.draw(20, 8, probability=0.1)
        plain, scaled = (SparseAutoencoder(Options(8, 20, k=3)) for _ in range(2))
        train_sae(plain, lambda step: planted.activations(step, 64), steps=30)
        train_sae(scaled, lambda step: 100 * planted.activations(step, 64) + 7, steps=30)
        x = planted.activations(HELD_OUT, 64)
        torch.testing.assert_close(scaled.encode(100 * x + 7), plain.encode(x), atol=2e-3, rtol=1e-2)
        torch.testing.assert_close(scaled(100 * x + 7), 100 * plain(x) + 7, atol=0.3, rtol=1e-2)

    def test_training_is_the_same_for_the_same_seed(self) -> None:
        planted = Planted.draw(20, 8, probability=0.1)
        pair = [SparseAutoencoder(Options(8, 20, k=3), seed=4) for _ in range(2)]
        for sae in pair:
            train_sae(sae, lambda step: planted.activations(step, 64), steps=20)
        assert torch.equal(pair[0].encoder, pair[1].encoder)

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"k": 0}, "k is 0: it must be 1 to 12"),
            ({"k": 13}, "k is 13"),
            ({"kind": "relu"}, "needs l1 > 0"),
            ({"kind": "gated"}, "choose from relu, topk, batchtopk"),
            ({"latents": 0}, "at least 1"),
            ({"d_out": 0}, "at least 1"),
        ],
    )
    def test_options_that_do_not_fit_are_refused(self, changes: dict[str, Any], says: str) -> None:
        with pytest.raises(ValueError, match=says):
            Options(**{"d_in": 6, "latents": 12, **changes})


class TestDeadLatents:
    def killed(self, kind: str, **changes: Any) -> tuple[Planted, SparseAutoencoder]:
        """Half of the latents can never fire: their bias is far below zero."""
        planted = Planted.draw(24, 12, probability=0.08)
        options = Options(12, 48, **{**SETTINGS[kind], "dead_after": 1000, **changes})
        sae = SparseAutoencoder(options)
        with torch.no_grad():
            sae.encoder_bias[24:] = -100.0
        return planted, sae

    def test_silent_latents_are_counted(self) -> None:
        planted, sae = self.killed("relu")
        history = train_sae(sae, lambda step: planted.activations(step, 100), steps=30)
        assert sae.dead[24:].all()
        assert not sae.dead[:24].all()
        assert history["dead"][0] == 0
        assert history["dead"][-1] >= 0.5

    def test_revived_latents_fire_on_what_was_explained_worst(self) -> None:
        planted, sae = self.killed("relu")
        x = planted.activations(0, 256)
        sae.fit_scale(x)
        sae.silent[24:] = 1000
        worst = (x - sae(x)).square().sum(1).argmax()
        assert revive(sae, x) == 24
        assert not sae.dead.any()
        assert (sae.encode(x)[worst, 24:] > 0).any()
        assert revive(sae, x) == 0

    def test_training_with_revivals_brings_them_back(self) -> None:
        alive = []
        for every in (None, 50):
            planted, sae = self.killed("relu")
            batches = lambda step, planted=planted: planted.activations(step, 128)  # noqa: E731
            train_sae(sae, batches, steps=300, lr=5e-3, revive_every=every)
            alive.append((sae.encode(planted.activations(HELD_OUT, 4096)) > 0).any(0)[24:].sum().item())
        assert alive[0] == 0
        assert alive[1] > 12

    def test_the_auxiliary_loss_trains_dead_latents_and_its_absence_does_not(self) -> None:
        moved = []
        for auxiliary in (1 / 32, 0.0):
            planted, sae = self.killed("topk", k=2, auxiliary=auxiliary)
            with torch.no_grad():
                sae.encoder_bias[24:] = 0.0
                sae.encoder_bias[:24] = 5.0  # so that the two chosen are always among these
            sae.silent[24:] = 10**6
            sae.fit_scale(planted.activations(0, 256))
            sae.loss(planted.activations(0, 256)).backward()
            moved.append(sae.decoder_rows.grad[24:].abs().sum().item())
        assert moved[0] > 0
        assert moved[1] == 0


class TestMeasures:
    def test_explained_variance_counts_a_wrong_mean_as_error(self) -> None:
        x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) + 3

        class Fixed(torch.nn.Module):
            def __init__(self, change: Any) -> None:
                super().__init__()
                self.change = change

            def forward(self, value: Any) -> Any:
                return self.change(value)

            encode = staticmethod(torch.relu)

        mean = x.mean(0)
        for change, share in (
            (lambda v: v, 1.0),
            (lambda v: mean.expand_as(v), 0.0),
            (lambda v: (v + mean) / 2, 0.75),
        ):
            assert measure(Fixed(change), x.split(100)).explained_variance == pytest.approx(share, abs=1e-5)
        assert measure(Fixed(lambda v: v + 10), [x]).explained_variance < 0

    def test_measures_over_batches_are_those_of_all_at_once(self) -> None:
        planted, sae = trained("topk")
        x = planted.activations(HELD_OUT, 1000)
        whole, parts = measure(sae, [x]), measure(sae, x.split(130))
        assert whole.explained_variance == pytest.approx(parts.explained_variance, abs=1e-6)
        assert torch.equal(whole.density, parts.density)
        active = sae.encode(x) > 0
        assert whole.l0 == pytest.approx(active.sum(1).float().mean().item(), rel=1e-5)
        assert whole.dead == pytest.approx((~active.any(0)).float().mean().item())

    def test_the_density_histogram_holds_every_live_latent_once(self) -> None:
        density = torch.tensor([0.0, 0.001, 0.01, 0.1, 0.5, 1.0])
        edges, counts = Quality(1.0, 1.0, density, 1000).density_histogram(3)
        assert edges.tolist() == pytest.approx([-3, -2, -1, 0])
        assert counts.tolist() == [2, 1, 2]


@pytest.fixture(scope="module")
def model() -> Any:
    """A model whose first MLP matters: its weights are scaled up."""
    config = TransformerBridgeConfig(
        n_layers=2, d_model=16, n_heads=2, d_head=8, d_vocab=30, n_ctx=12, act_fn="gelu", seed=0
    )
    model = TransformerBridge.boot_native(config).eval()
    torch.manual_seed(0)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return model


@pytest.fixture(scope="module")
def tokens(model: Any) -> Any:
    """The model's own favourite continuations, so that it predicts them well."""
    rows = torch.randint(0, 30, (16, 1), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for _ in range(11):
            rows = torch.cat([rows, model(rows)[:, -1].argmax(-1, keepdim=True)], 1)
    return rows


SITE = "blocks.0.hook_mlp_out"


class Instead(torch.nn.Module):
    """Stands in for a dictionary."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.change = change

    def forward(self, value: Any) -> Any:
        return self.change(value)


class TestInAModel:
    def test_a_perfect_dictionary_recovers_all_and_an_ablation_nothing(self, model: Any, tokens: Any) -> None:
        perfect = loss_recovered(model, tokens, SITE, Instead(lambda v: v))
        assert perfect.spliced == pytest.approx(perfect.clean, abs=1e-5)
        assert perfect.zero > perfect.clean + 0.1
        assert perfect.mean > perfect.clean + 0.01
        assert perfect.against_zero == pytest.approx(1, abs=1e-4)
        assert perfect.against_mean == pytest.approx(1, abs=1e-3)
        nothing = loss_recovered(model, tokens, SITE, Instead(torch.zeros_like))
        assert nothing.against_zero == pytest.approx(0, abs=1e-4)
        average = loss_recovered(model, tokens, SITE, Instead(lambda v: v.flatten(0, 1).mean(0).expand_as(v)))
        assert average.against_mean == pytest.approx(0, abs=1e-3)

    def test_the_clean_loss_is_the_models_own(self, model: Any, tokens: Any) -> None:
        found = loss_recovered(model, tokens, SITE, Instead(lambda v: v))
        assert found.clean == pytest.approx(model(tokens, return_type="loss").item(), abs=1e-4)

    def test_where_ablation_does_no_harm_there_is_nothing_to_recover(self, model: Any, tokens: Any) -> None:
        found = loss_recovered(
            model, tokens, SITE, Instead(lambda v: v), loss=lambda logits, _: logits.sum() * 0
        )
        assert math.isnan(found.against_zero)

    def test_a_transcoder_reads_one_site_and_writes_another(self, model: Any, tokens: Any) -> None:
        part = "layers.0._original_component.mlp._original_component"
        weights = {name.removeprefix(part): value for name, value in model.named_parameters()}
        first, bias, second, last = (
            weights[f".{layer}._original_component.{kind}"]
            for layer in ("fc_in", "fc_out")
            for kind in ("weight", "bias")
        )

        def mlp(value: Any) -> Any:
            hidden = torch.nn.functional.gelu(value @ first.T + bias)
            return hidden @ second.T + last

        source = "blocks.0.mlp.hook_in"
        with torch.no_grad():
            found = loss_recovered(model, tokens, SITE, Instead(mlp), source=source)
            wrong = loss_recovered(model, tokens, SITE, Instead(lambda v: v), source=source)
        assert found.spliced == pytest.approx(found.clean, abs=1e-4)
        assert wrong.spliced > wrong.clean + 0.1

    def test_a_dictionary_splices_into_the_model(self, model: Any, tokens: Any) -> None:
        sae = SparseAutoencoder(Options(16, 64, k=4))
        sae.fit_scale(torch.randn(100, 16))
        with torch.no_grad():
            _, cache = model.run_with_cache(tokens)
            kept: list[Any] = []
            hooks = [*splice(sae, SITE), ("blocks.0.hook_resid_post", lambda v, hook: kept.append(v))]
            model.run_with_hooks(tokens, fwd_hooks=hooks)
        torch.testing.assert_close(
            kept[0], cache["blocks.0.hook_resid_post"] - cache[SITE] + sae(cache[SITE]), atol=1e-3, rtol=1e-3
        )

    @pytest.mark.parametrize("make", [gpt2, llama])
    def test_other_architectures_are_spliced_and_steered_alike(self, make: Any, tmp_path: Path) -> None:
        bridge = make(tmp_path)
        tokens = torch.randint(0, 40, (4, 9), generator=torch.Generator().manual_seed(0))
        perfect = loss_recovered(bridge, tokens, "blocks.1.hook_mlp_out", Instead(lambda v: v))
        assert perfect.spliced == pytest.approx(perfect.clean, abs=1e-5)
        assert abs(perfect.zero - perfect.clean) > 1e-3
        push = torch.randn(bridge.cfg.d_model, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            pushed = bridge.run_with_hooks(tokens, fwd_hooks=[("blocks.1.hook_resid_post", add(push, 2.0))])
            moved = (pushed - bridge(tokens)).abs().amax(-1)
        assert moved.min() > 1e-3

    def test_latents_are_units_for_a_scan(self, model: Any, tokens: Any) -> None:
        sae = SparseAutoencoder(Options(16, 64, k=4)).eval()
        found = scan(model, tokens, {SITE: sae.encode}, k=3)
        with torch.no_grad():
            _, cache = model.run_with_cache(tokens)
            latents = sae.encode(cache[SITE]).flatten(0, 1)
        torch.testing.assert_close(found.sites[SITE].top, latents.topk(3, dim=0).values)

    def test_steering_raises_the_latents_of_that_direction_and_hardly_any_other(self) -> None:
        """Of that direction, since a wide dictionary may have a feature twice."""
        planted, sae = trained("relu")
        x = planted.activations(HELD_OUT, 1024)
        cosine = sae.decoder.detach() @ planted.directions[0]
        step, twins = 2.0, cosine > 0.9
        steered = add(sae.directions[cosine.argmax()], step)(x)
        rise = (sae.encode(steered) - sae.encode(x)).detach()
        on = (sae.encode(x)[:, twins] > 0).any(1)  # elsewhere the encoder's threshold takes its part
        assert rise[on][:, twins].sum(1).mean() == pytest.approx(step, rel=0.2)
        assert rise.mean(0)[~twins].abs().max() < step / 5


@pytest.mark.parametrize(
    "name", ["probes", "sae", "sae_training", "dictionary_metrics", "planted", "directions"]
)
def test_a_repo_gets_every_module_that_one_of_these_imports(name: str) -> None:
    files = lab_files(Experiment("any", "any", {"lab": [name]}, Script("", ()), {}))
    for path, content in files.items():
        for node in ast.walk(ast.parse(content)):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                assert f"lab/{node.module}.py" in files, f"{path} imports {node.module}"
            assert not (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mihack"))
    assert f"lab/{name}.py" in files


class TestOnDisk:
    @given(
        st.sampled_from(list(SETTINGS)),
        st.integers(1, 9),
        st.integers(4, 20),
        st.none() | st.integers(1, 9),
        st.integers(0, 100),
    )
    @settings(max_examples=40, deadline=None)
    def test_what_is_read_is_what_was_written(
        self, kind: str, d_in: int, latents: int, d_out: int | None, seed: int
    ) -> None:

        sae = small(kind, seed, d_in=d_in, latents=latents, d_out=d_out)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "deep" / "er" / "sae.safetensors"
            sae.save(path)
            again = SparseAutoencoder.load(path)
            assert list(path.parent.iterdir()) == [path]
        assert asdict(again.options) == asdict(sae.options)
        assert not again.training
        for name, tensor in sae.state_dict().items():
            assert torch.equal(again.state_dict()[name], tensor)
        x = torch.randn(5, d_in)
        assert torch.equal(again.encode(x), sae.encode(x))

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "sae.safetensors"
        small().save(path)
        return path

    @given(st.integers(0, 10_000))
    @settings(max_examples=30, deadline=None)
    def test_a_truncated_file_is_named(self, cut: int) -> None:

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "sae.safetensors"
            small().save(path)
            content = path.read_bytes()
            path.write_bytes(content[: cut % len(content)])
            with pytest.raises(ValueError, match="sae\\.safetensors is not a sparse autoencoder"):
                SparseAutoencoder.load(path)

    def test_a_file_of_other_tensors_or_shapes_is_named(self, path: Path) -> None:
        from safetensors import safe_open

        with safe_open(str(path), framework="pt") as file:
            about = file.metadata()
        tensors = load_file(str(path))
        for changed, metadata in (
            (tensors, None),
            (tensors, {"sae": "{"}),
            (tensors, {"sae": "[]"}),
            (tensors, {"sae": '{"d_in": 6, "latents": 12, "colour": 1}'}),
            (tensors, {"sae": '{"d_in": 6, "latents": 1000000000000}'}),
            ({**tensors, "more": torch.zeros(1)}, about),
            ({**tensors, "decoder_rows": torch.zeros(12, 5)}, about),
            ({**tensors, "encoder": torch.zeros(6, 12)}, about),
            ({name: tensor for name, tensor in tensors.items() if name != "encoder"}, about),
        ):
            save_file(changed, str(path), metadata=metadata)
            with pytest.raises(ValueError, match="sae\\.safetensors is not a sparse autoencoder"):
                SparseAutoencoder.load(path)

    def test_a_missing_file_is_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            SparseAutoencoder.load(tmp_path / "none.safetensors")

    def test_a_write_that_fails_leaves_the_old_file(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = path.read_bytes()

        def fails(*_: Any) -> None:
            raise OSError("no space left")

        with monkeypatch.context() as patch:
            patch.setattr("os.replace", fails)
            with pytest.raises(OSError, match="no space"):
                small(seed=9).save(path)
        assert path.read_bytes() == before
