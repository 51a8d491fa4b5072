"""What the doctor says about machines that we do not have: every fact is made up here."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from mihack import doctor
from mihack.doctor import GREEN, RED, YELLOW, Line, Machine

PACKAGES = {"torch": "2.13.0", "transformer-lens": "4.3.0", "numpy": "2.4.6", "matplotlib": "3.11.2"}
FINE = {"matmul": 3e-7, "attention": 5e-7, "gradients": 6e-7}


def machine(**changes: Any) -> Machine:
    """A healthy laptop without a GPU, with changes."""
    facts: dict[str, Any] = {
        "packages": dict(PACKAGES),
        "errors": dict(FINE),
        "memory": 16 * doctor.GB,
        "memory_free": 9 * doctor.GB,
        "disk_free": 80 * doctor.GB,
        "cache": "/home/ada/.cache/huggingface/hub",
    }
    return Machine(**{**facts, **changes})


def rented(driver: str | None, built: str | None, **changes: Any) -> Machine:
    """A rented box with a GPU."""
    return machine(**{"gpu": "NVIDIA A10G", "driver": driver, "built_for_cuda": built, **changes})


def line(name: str, found: Machine, **how: bool) -> Line:
    (answer,) = [line for line in doctor.judge(found, **how) if line.name == name]
    return answer


def test_a_healthy_laptop_is_all_green() -> None:
    lines = doctor.judge(machine())
    assert [line for line in lines if line.state != GREEN] == []
    assert doctor.report(lines).splitlines()[-1] == "Ready."


def test_every_check_has_its_own_line() -> None:
    names = [line.name for line in doctor.judge(machine())]
    assert len(names) == len(set(names))
    assert {"python", "torch", "gpu", "mps", "numbers", "memory", "models", "hub", "disk"} < set(names)


@pytest.mark.parametrize(
    ("version", "state"),
    [((3, 9, 18), RED), ((3, 10, 0), GREEN), ((3, 13, 9), GREEN), ((3, 14, 0), YELLOW)],
)
def test_python(version: tuple[int, ...], state: str) -> None:
    assert line("python", machine(python=version)).state == state


@pytest.mark.parametrize(
    ("name", "version", "state"),
    [
        ("torch", "2.5.1+cu121", RED),
        ("torch", "2.6.0", GREEN),
        ("torch", "3.0.0", RED),
        ("transformer-lens", "2.16.1", RED),
        ("transformer-lens", "4.2.9", RED),
        ("transformer-lens", "4.3.0", GREEN),
        ("transformer-lens", "5.0.0", RED),
        ("numpy", "1.26.4", GREEN),
        ("matplotlib", "3.7.5", RED),
    ],
)
def test_package_versions(name: str, version: str, state: str) -> None:
    answer = line(name, machine(packages={**PACKAGES, name: version}))
    assert (answer.state, version in answer.found) == (state, True)
    assert state == GREEN or answer.fix.startswith("pip install '")


# The rented-box matrix: (driver, CUDA of the build, does torch see it) -> state, what to install.
@pytest.mark.parametrize(
    ("driver", "built", "usable", "state", "index"),
    [
        ("580.65.06", "13.0", True, GREEN, ""),
        ("535.104.05", "12.6", True, GREEN, ""),
        ("525.60.13", "12.8", True, GREEN, ""),
        ("570.86.10", "13.0", False, RED, "cu128"),
        ("565.57.01", "13.0", False, RED, "cu126"),
        ("550.127.05", "13.0", False, RED, "cu126"),
        ("525.60.13", "13.0", False, RED, "cu126"),
        ("470.82.01", "12.6", False, RED, "cu118"),
        ("470.82.01", "13.0", False, RED, "cu118"),
        ("390.157", "12.6", False, RED, "Update the NVIDIA driver"),
        ("580.65.06", None, False, YELLOW, "cu130"),
        ("550.127.05", None, False, YELLOW, "cu126"),
        ("580.65.06", "13.0", False, RED, "CUDA_VISIBLE_DEVICES"),
        ("535.104.05", "12.6", False, RED, "--gpus all"),
    ],
)
def test_driver_against_build(driver: str, built: str | None, usable: bool, state: str, index: str) -> None:
    answer = line("gpu", rented(driver, built, gpu_usable=usable))
    assert answer.state == state
    assert driver in answer.found
    assert index in answer.fix
    # pip would keep a build whose version number is good enough
    assert ("whl/" in answer.fix) == ("pip uninstall -y torch && pip install" in answer.fix)


def test_the_message_about_an_old_driver_names_both_numbers() -> None:
    answer = line("gpu", rented("535.104.05", "13.0"))
    assert "built for CUDA 13.0 (needs driver 580 or newer)" in answer.found
    assert answer.fix.endswith(
        "pip install 'torch>=2.6,<3' --index-url https://download.pytorch.org/whl/cu126"
    )


def test_the_oldest_wheels_come_with_a_torch_that_has_them() -> None:
    command = doctor.wheel_command("470.82.01")
    assert command == "pip install 'torch>=2.6,<2.8' --index-url https://download.pytorch.org/whl/cu118"


@pytest.mark.parametrize(
    ("speaks", "built", "state", "index"),
    [
        ((12, 2), "13.0", RED, "cu126"),
        ((12, 8), "13.0", RED, "cu128"),
        ((11, 4), "12.6", RED, "cu118"),
        ((10, 2), "12.6", RED, "Update the NVIDIA driver"),
        ((13, 0), "13.0", RED, "--gpus all"),
        ((13, 1), None, YELLOW, "cu130"),
    ],
)
def test_a_driver_known_only_by_its_cuda(
    speaks: tuple[int, ...], built: str | None, state: str, index: str
) -> None:
    answer = line("gpu", rented(None, built, gpu=None, driver_cuda=speaks))
    assert (answer.state, index in answer.fix) == (state, True)
    assert f"a driver for CUDA {speaks[0]}.{speaks[1]}" in answer.found


def test_forward_compatible_driver_is_believed_when_torch_can_use_it() -> None:
    assert line("gpu", rented("535.104.05", "13.0", gpu_usable=True)).state == GREEN


def test_a_cuda_build_without_a_gpu_is_no_fault() -> None:
    assert line("gpu", machine(built_for_cuda="13.0")).state == GREEN


def test_rocm_is_yellow_since_nobody_tried() -> None:
    amd = machine(built_for_rocm="6.4", gpu_usable=True, gpu="AMD Instinct MI300X", device="cuda")
    assert line("gpu", amd).state == YELLOW


def test_mps_is_off_unless_asked_for() -> None:
    there = {"mps": True, "system": "Darwin"}
    off = line("mps", machine(**there))
    assert off.state == GREEN
    assert "issues/1178" in off.found
    on = line("mps", machine(**there, mps_allowed=True, device="mps"))
    assert on.state == YELLOW
    assert "--device cpu" in on.fix
    broken = machine(**there, mps_allowed=True, packages={**PACKAGES, "torch": "2.8.0"})
    assert line("mps", broken).state == RED
    assert line("mps", machine(**there, packages={**PACKAGES, "torch": "2.8.0"})).state == GREEN


@pytest.mark.parametrize(("needs", "state"), [(True, RED), (False, YELLOW)])
def test_no_torch(needs: bool, state: str) -> None:
    bare = machine(packages=dict.fromkeys(PACKAGES), errors=None)
    answer = line("torch", bare, needs_torch=needs)
    assert answer.state == state
    assert "whl/cpu" in answer.fix
    assert line("numbers", bare, needs_torch=needs).state == YELLOW
    on_gpu = rented("550.127.05", None, packages=dict.fromkeys(PACKAGES), errors=None)
    assert "whl/cu126" in line("torch", on_gpu, needs_torch=needs).fix
    assert "whl" not in line("torch", machine(system="Darwin", packages={}, errors=None)).fix


def test_numpy_built_for_the_other_numpy() -> None:
    why = "ValueError: numpy.dtype size changed, may indicate binary incompatibility. Expected 96, got 88"
    for name in ("numpy", "torch"):
        answer = line(name, machine(broken={name: why}, errors=None))
        assert answer.state == RED
        assert "--force-reinstall 'numpy" in answer.fix
        assert "restart the runtime" in answer.fix


def test_a_torch_that_cannot_be_loaded() -> None:
    why = "OSError: libcudart.so.13: cannot open shared object file"
    found = rented("580.1", None, broken={"torch": why}, errors=None)
    assert line("torch", found).state == RED
    assert why in line("torch", found).found
    assert line("gpu", found).state == YELLOW


@pytest.mark.parametrize("wrong", [3e-4, 0.5, math.inf, math.nan])
def test_wrong_numbers_are_red_and_say_which(wrong: float) -> None:
    answer = line("numbers", machine(device="mps", errors={**FINE, "linear": wrong}))
    assert answer.state == RED
    assert "linear" in answer.found
    assert "matmul" not in answer.found
    assert "--device cpu" in answer.fix


def test_nan_is_red_wherever_it_stands() -> None:
    for part in FINE:
        assert line("numbers", machine(errors={**FINE, part: math.nan})).state == RED


def test_tf32_is_said_and_allowed_more() -> None:
    coarse = {**FINE, "matmul": 8e-4}
    assert line("numbers", machine(device="cuda", errors=coarse)).state == RED
    answer = line("numbers", machine(device="cuda", errors=coarse, tf32=True))
    assert answer.state == GREEN
    assert "TF32 is on" in answer.found


def test_a_self_test_that_crashes_is_red() -> None:
    why = "RuntimeError: CUDA error: no kernel image is available for execution on the device"
    answer = line("numbers", rented("580.1", "13.0", gpu_usable=True, device="cuda", self_test_failure=why))
    assert answer.state == RED
    assert why in answer.found


@pytest.mark.parametrize(
    ("hub", "state"), [("reached", GREEN), ("not asked", GREEN), ("URLError: timed out", YELLOW)]
)
def test_no_network_is_never_red(hub: str, state: str) -> None:
    assert line("hub", machine(hub=hub)).state == state


def test_a_cache_that_cannot_be_written() -> None:
    answer = line("cache", machine(cache="/shared/hub", cache_writable=False, cache_bytes=3 * doctor.GB))
    assert answer.state == YELLOW
    assert "/shared/hub cannot be written, holds 3.0 GB" in answer.found
    assert "HF_HOME" in answer.fix


@pytest.mark.parametrize(("free", "state"), [(0.1, RED), (2, YELLOW), (9, GREEN), (None, YELLOW)])
def test_disk(free: float | None, state: str) -> None:
    there = None if free is None else int(free * doctor.GB)
    assert line("disk", machine(disk_free=there)).state == state


def test_memory_that_is_unknown_is_not_called_free() -> None:
    assert "free" not in line("memory", machine(memory_free=None)).found
    assert line("memory", machine(memory=None, memory_free=None)).state == YELLOW
    assert line("memory", machine(memory_free=doctor.GB)).state == YELLOW


def test_models_that_fit_are_labelled_as_our_estimate() -> None:
    small = line("models", machine(memory_free=5 * doctor.GB)).found
    assert "our estimate" in small
    assert "gpt2 f32/bf16" in small
    assert "pythia-1.4b bf16" in small
    assert "llama-3-8b no" in small
    gpu = rented("580.1", "13.0", device="cuda", gpu_memory=24 * doctor.GB, gpu_memory_free=23 * doctor.GB)
    assert "llama-3-8b bf16" in line("models", gpu).found
    assert "fit on cuda" in line("models", gpu).found


def test_footprint_is_more_than_the_weights_and_not_much_more() -> None:
    for name, (parameters, *_) in doctor.MODELS.items():
        for bytes_each in (2, 4):
            extra = doctor.footprint(name, bytes_each) - parameters * bytes_each
            assert 0.7 * doctor.GB < extra < 4.5 * doctor.GB


def test_report_has_one_line_a_check_and_a_fix_where_one_is_needed() -> None:
    lines = doctor.judge(rented("535.104.05", "13.0", hub="URLError: timed out"))
    text = doctor.report(lines).splitlines()
    assert text[-1] == "Not ready: 1 red, 1 yellow."
    assert [row.split()[1] for row in text if row.split()[0] in {GREEN, YELLOW, RED}] == [
        line.name for line in lines
    ]
    assert max(map(len, text)) <= 80
    # each command whole and alone, to be copied
    assert {"pip uninstall -y torch", doctor.wheel_command("535.104.05")} <= set(text)
    assert "\033" not in "\n".join(text)
    assert "\033[31mred" in doctor.report(lines, colour=True)


@pytest.mark.parametrize(
    "found",
    [
        machine(packages={}, errors=None),
        machine(broken={"numpy": "ImportError: numpy.core.multiarray failed to import"}),
        rented("470.82.01", "13.0"),
        rented("390.157", "12.6"),
        machine(mps=True, mps_allowed=True),
        machine(mps=True, mps_allowed=True, packages={**PACKAGES, "torch": "2.8.0"}),
    ],
)
def test_a_fix_fits_80_columns_and_its_command_can_be_copied(found: Machine) -> None:
    text = doctor.report(doctor.judge(found)).splitlines()
    # the one command that is longer names the last torch with CUDA 11.8
    assert max(len(row) for row in text if "cu118" not in row) <= 80
    commands = [row for row in text if row.startswith("pip ")]
    assert all("(" not in row and "restart" not in row and " or " not in row for row in commands)


def test_report_is_plain_ascii_for_any_terminal() -> None:
    assert doctor.report(doctor.judge(rented("535.1", "13.0", packages={}, errors=None))).isascii()


def test_json_is_json_even_with_infinite_errors() -> None:
    found = machine(errors={**FINE, "matmul": math.inf, "logits": math.nan})
    data = json.loads(doctor.as_json(found, doctor.judge(found)), parse_constant=pytest.fail)
    assert data["ready"] is False
    assert data["facts"]["errors"]["matmul"] == "infinite"
    assert {check["state"] for check in data["checks"]} == {GREEN, RED}
    assert data["facts"].keys() == {item.name for item in dataclasses.fields(Machine)}
