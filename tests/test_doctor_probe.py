"""The doctor on this machine, and on it with one thing faked at a time."""

from __future__ import annotations

import ctypes
import email.message
import json
import os
import runpy
import subprocess
import sys
import threading
import time
import types
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from mihack import cli, doctor
from mihack.doctor import RED, YELLOW

SCRIPT = Path(doctor.__file__)


@pytest.fixture
def lonely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, no hub variables, and a network that nobody may ask."""
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING_FACE"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return tmp_path


def states(lines: list[doctor.Line]) -> dict[str, str]:
    return {line.name: line.state for line in lines}


def hide(monkeypatch: pytest.MonkeyPatch, broken: dict[str, Exception]) -> None:
    """Make imports fail, as a broken installation does."""
    real = doctor.importlib.import_module

    def fail(name: str, package: str | None = None) -> types.ModuleType:
        if name in broken:
            raise broken[name]
        return real(name, package)

    monkeypatch.setattr(doctor.importlib, "import_module", fail)


def test_this_machine_offline(lonely: Path) -> None:
    machine = doctor.probe(offline=True)
    assert machine.python == sys.version_info[:3]
    assert machine.hub == "not asked"
    assert machine.memory
    assert machine.memory_free
    assert machine.memory_free <= machine.memory
    assert list(lonely.iterdir()) == []


def test_the_self_test_passes_here_and_covers_every_part() -> None:
    torch = pytest.importorskip("torch")
    want, got = (doctor.compute(torch, "cpu", kind) for kind in (torch.float64, torch.float32))
    errors = doctor.compare(want, got)
    assert errors.keys() == {"matmul", "linear", "layernorm", "attention", "logits", "gradients"}
    assert 0 < max(errors.values()) < doctor.TOLERANCE / 10


def test_the_self_test_does_not_disturb_the_users_random_numbers() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    doctor.compute(torch, "cpu", torch.float32)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("function", "parts"),
    [
        ("linear", {"linear"}),
        ("layer_norm", {"layernorm", "logits", "gradients"}),
        ("gelu", {"logits", "gradients"}),
    ],
)
def test_a_device_that_is_wrong_by_a_thousandth_is_caught(
    function: str, parts: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    want = doctor.compute(torch, "cpu", torch.float64)
    right = getattr(torch.nn.functional, function)
    monkeypatch.setattr(torch.nn.functional, function, lambda *a, **k: right(*a, **k) * 1.001)
    errors = doctor.compare(want, doctor.compute(torch, "cpu", torch.float32))
    assert {name for name, error in errors.items() if error > doctor.TOLERANCE} == parts


def test_a_lost_mask_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    want = doctor.compute(torch, "cpu", torch.float64)
    monkeypatch.setattr(torch.Tensor, "masked_fill", lambda self, mask, value: self)
    errors = doctor.compare(want, doctor.compute(torch, "cpu", torch.float32))
    assert {name for name, error in errors.items() if error > 0.01} == {"attention", "logits", "gradients"}


def test_not_a_number_counts_as_infinite() -> None:
    torch = pytest.importorskip("torch")
    one = {"matmul": torch.ones(2)}
    assert doctor.compare(one, {"matmul": torch.tensor([1.0, float("nan")])}) == {"matmul": float("inf")}


def test_a_device_that_raises_is_reported_not_raised(lonely: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")

    def crash(*_: Any) -> Any:
        raise RuntimeError("CUDA error: no kernel image is available\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(doctor, "compute", crash)
    machine = doctor.probe(offline=True)
    failure = "RuntimeError: CUDA error: no kernel image is available Compile with TORCH_USE_CUDA_DSA"
    assert machine.self_test_failure == failure
    assert states(doctor.judge(machine))["numbers"] == RED


def fake_torch(**facts: Any) -> Any:
    """As much of torch as the doctor looks at, for a machine with other devices."""
    mps = types.SimpleNamespace(is_available=lambda: facts.get("mps", False))
    cuda = types.SimpleNamespace(
        is_available=lambda: facts.get("cuda", False),
        get_device_name=lambda number: "NVIDIA H100",
        mem_get_info=lambda: (70 * doctor.GB, 80 * doctor.GB),
    )
    return types.SimpleNamespace(
        version=types.SimpleNamespace(cuda=facts.get("built"), hip=None),
        cuda=cuda,
        backends=types.SimpleNamespace(mps=mps),
        get_float32_matmul_precision=lambda: facts.get("precision", "highest"),
        float32="float32",
        float64="float64",
    )


@pytest.mark.parametrize(
    ("facts", "allow", "device", "tf32"),
    [
        ({}, None, "cpu", False),
        ({"cuda": True, "built": "13.0"}, None, "cuda", False),
        ({"cuda": True, "built": "13.0", "precision": "high"}, None, "cuda", True),
        ({"mps": True}, None, "cpu", False),
        ({"mps": True}, "0", "cpu", False),
        ({"mps": True}, "1", "mps", False),
        ({"mps": True, "cuda": True, "built": "12.6"}, "1", "cuda", False),
    ],
)
def test_which_device_is_tested(
    facts: dict[str, Any], allow: str | None, device: str, tf32: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRANSFORMERLENS_ALLOW_MPS", raising=False)
    if allow is not None:
        monkeypatch.setenv("TRANSFORMERLENS_ALLOW_MPS", allow)
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(doctor, "compute", lambda torch, where, kind: asked.append((where, kind)) or {})
    machine = doctor.Machine()
    doctor.look_at_torch(machine, fake_torch(**facts))
    assert (machine.device, machine.tf32) == (device, tf32)
    # MPS has no float64, so the reference must come from the CPU
    assert asked == [("cpu", "float64"), (device, "float32")]
    assert machine.gpu_memory_free == (70 * doctor.GB if device == "cuda" else None)


def test_no_torch(lonely: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.installed
    monkeypatch.setattr(doctor, "installed", lambda name: None if name == "torch" else real(name))
    hide(monkeypatch, {"torch": AssertionError("torch was imported")})
    machine = doctor.probe(offline=True)
    assert states(doctor.judge(machine))["torch"] == RED
    assert states(doctor.judge(machine, needs_torch=False))["torch"] == YELLOW


def test_broken_numpy(lonely: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed", lambda name: {"torch": "2.13.0", "numpy": "2.4.6"}.get(name))
    size = ValueError("numpy.dtype size changed, may indicate binary incompatibility. Expected 96, got 88")
    hide(monkeypatch, {"numpy": size, "torch": size})
    found = {line.name: line for line in doctor.judge(doctor.probe(offline=True))}
    assert found["numpy"].state == found["torch"].state == RED
    assert "restart the runtime" in found["torch"].fix


def test_torch_that_cannot_talk_to_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Zeros:
        def numpy(self) -> None:
            raise RuntimeError("Numpy is not available")

    torch = types.SimpleNamespace(zeros=lambda count: Zeros())
    monkeypatch.setattr(doctor.importlib, "import_module", lambda name: torch)
    assert doctor.load("torch") == (None, "RuntimeError: Numpy is not available")


def smi(text: str, code: int = 0) -> Any:
    return lambda *_, **__: subprocess.CompletedProcess([], code, text, "")


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (smi("NVIDIA A10G, 535.104.05\n"), ("NVIDIA A10G", "535.104.05")),
        (smi("NVIDIA H100, 580.1\nNVIDIA H100, 580.1\n"), ("NVIDIA H100", "580.1")),
        (smi("Odd, name, 580.1\n"), ("Odd, name", "580.1")),
        (smi("Failed to initialize NVML: Driver/library version mismatch\n", 18), (None, None)),
        (smi(""), (None, None)),
    ],
)
def test_nvidia_smi(
    answer: Any, found: tuple[str | None, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.subprocess, "run", answer)
    assert doctor.nvidia_smi() == found


@pytest.mark.parametrize("error", [FileNotFoundError(), subprocess.TimeoutExpired("nvidia-smi", 15)])
def test_no_nvidia_smi(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(doctor.subprocess, "run", fail)
    assert doctor.nvidia_smi() == (None, None)


@pytest.mark.parametrize(
    ("init", "count", "version", "found"),
    [
        (0, 1, 12040, (12, 4)),
        (0, 8, 13010, (13, 1)),
        (0, 0, 12040, None),  # an image for CUDA on a machine without a GPU
        (100, 0, 12040, None),
    ],
)
def test_the_driver_is_asked_for_its_cuda(
    init: int, count: int, version: int, found: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(value: int) -> Any:
        def set_it(pointer: Any) -> int:
            pointer._obj.value = value
            return 0

        return set_it

    library = types.SimpleNamespace(
        cuInit=lambda flags: init, cuDeviceGetCount=put(count), cuDriverGetVersion=put(version)
    )
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    assert doctor.driver_cuda() == found


def test_a_containers_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/meminfo": "MemTotal: 64000000 kB\nMemFree: 1 kB\nMemAvailable: 50000000 kB\n",
        "/sys/fs/cgroup/memory.max": "8000000000\n",
        "/sys/fs/cgroup/memory.current": "3000000000\n",
    }
    monkeypatch.setattr(Path, "read_text", lambda self, **_: files[str(self)])
    assert doctor.memory() == (8 * doctor.GB, 5 * doctor.GB)
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert doctor.memory() == (64000000 * 1024, 50000000 * 1024)


def test_hub_reached_refused_and_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, float]] = []

    class Answer:
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    def answer(request: urllib.request.Request, timeout: float) -> Answer:
        asked.append((request.full_url, request.get_method(), timeout))
        return Answer()

    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    monkeypatch.setattr(urllib.request, "urlopen", answer)
    assert doctor.ask_hub() == "reached"
    ((address, method, timeout),) = asked
    assert (address, method) == ("https://mirror.example", "HEAD")
    assert timeout <= 5

    def fail_with(error: Exception) -> None:
        def fail(*_: Any, **__: Any) -> Any:
            raise error

        monkeypatch.setattr(urllib.request, "urlopen", fail)

    fail_with(urllib.error.HTTPError("https://mirror.example", 403, "no", email.message.Message(), None))
    assert doctor.ask_hub() == "reached"
    fail_with(TimeoutError("timed out"))
    assert doctor.ask_hub() == "TimeoutError"
    fail_with(urllib.error.HTTPError("https://mirror.example", 503, "no", email.message.Message(), None))
    assert doctor.ask_hub() == "status 503"


@pytest.mark.parametrize("address", ["http://ada:s3cret@/", "http://ada:x@host:s3cret/", "s3cret"])
def test_a_password_in_the_hubs_address_is_never_shown(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    answer = doctor.ask_hub()
    assert answer != "reached"
    assert "s3cret" not in answer


def test_a_name_server_that_never_answers_does_not_hold_the_check_up(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: release.wait(20))
    begin = time.monotonic()
    assert doctor.ask_hub(seconds=0.1) == "no answer in 0.1 s"
    assert time.monotonic() - begin < 5
    release.set()


def test_a_numpy_that_pandas_was_not_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    why = "ValueError: numpy.dtype size changed, may indicate binary incompatibility"
    monkeypatch.setattr(doctor, "load", lambda name: (None, why) if name == "pandas" else (object(), ""))
    monkeypatch.setattr(doctor, "installed", lambda name: "2.2.0")
    found = doctor.Machine(packages={"numpy": "1.26.4"})
    monkeypatch.setitem(sys.modules, "numpy", types.SimpleNamespace(__version__="1.26.4"))
    doctor.look_at_numpy(found)
    assert found.broken == {"numpy": f"pandas says {why}"}
    (line,) = [line for line in doctor.judge(found) if line.name == "numpy"]
    assert line.state == doctor.RED
    assert "restart" in line.fix


def test_a_numpy_replaced_while_it_was_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", types.SimpleNamespace(__version__="1.26.4"))
    found = doctor.Machine(packages={"numpy": "2.2.0"})
    doctor.look_at_numpy(found)
    assert found.broken == {"numpy": "numpy 1.26.4 is still loaded"}


def test_a_gpu_hidden_on_purpose_is_a_note() -> None:
    found = doctor.Machine(
        packages={"torch": "2.13.0"}, built_for_cuda="12.8", driver="580.65", gpu="A10G", gpu_hidden=True
    )
    (line,) = [line for line in doctor.judge(found) if line.name == "gpu"]
    assert line.state == doctor.YELLOW
    assert "CUDA_VISIBLE_DEVICES" in line.found


@pytest.mark.parametrize("how", ["variable", "file"])
def test_a_token_is_seen_and_never_shown(
    how: str, lonely: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.has_token() is False
    secret = "not-a-real-token-7391"
    if how == "variable":
        monkeypatch.setenv("HF_TOKEN", secret)
    else:
        place = lonely / ".cache" / "huggingface"
        place.mkdir(parents=True)
        (place / "token").write_text(secret)
    assert doctor.has_token() is True
    for words in (["--offline"], ["--offline", "--json"]):
        doctor.main(words)
        out, err = capsys.readouterr()
        assert secret not in out + err
    assert json.loads(out)["facts"]["token"] is True


def test_cache_place_and_size(lonely: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.cache_folder() == lonely / ".cache" / "huggingface" / "hub"
    monkeypatch.setenv("HF_HOME", str(lonely / "here"))
    folder = doctor.cache_folder()
    assert folder == lonely / "here" / "hub"
    assert doctor.folder_bytes(folder) is None
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs" / "a").write_bytes(b"x" * 1000)
    assert doctor.folder_bytes(folder) == 1000
    assert doctor.folder_bytes(folder, seconds=-1) is None
    assert doctor.writable(folder)
    assert sorted(path.name for path in folder.rglob("*")) == ["a", "blobs"]


def test_a_cache_that_cannot_be_written(lonely: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dir: Path) -> Any:
        raise OSError(30, "Read-only file system", str(dir))

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    machine = doctor.probe(offline=True)
    assert machine.cache_writable is False
    assert states(doctor.judge(machine))["cache"] == YELLOW


def test_main_never_ends_the_process(lonely: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--help"]) == 0
    assert doctor.main(["--nonsense"]) == 2
    capsys.readouterr()
    assert doctor.main(["--offline", "--json"]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["facts"]["hub"] == "not asked"


def test_the_exit_code_says_whether_something_is_red(
    lonely: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    healthy = doctor.Machine(
        packages={name: doctor.show(low) for name, (low, _) in doctor.RANGES.items()},
        errors={"matmul": 0.0}, memory=16 * doctor.GB, disk_free=50 * doctor.GB, cache="/c",
    )  # fmt: skip
    monkeypatch.setattr(doctor, "probe", lambda offline: healthy)
    assert doctor.main() == 0
    assert cli.run(["doctor"]) == 0
    healthy.packages["torch"] = None
    assert doctor.main() == 1
    assert cli.run(["doctor"]) == 0
    healthy.errors = {"matmul": 0.1}
    assert cli.run(["doctor", "--json"]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_it_stands_alone(tmp_path: Path) -> None:
    """Copied into an empty folder, with no site-packages: still an answer, and red for what is missing."""
    copy = tmp_path / "check_gpu.py"
    copy.write_bytes(SCRIPT.read_bytes())
    command = [sys.executable, "-I", "-S", "check_gpu.py", "--offline", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"HOME": str(tmp_path)})
    assert done.stderr == ""
    assert done.returncode == 1
    checks = {check["name"]: check["state"] for check in json.loads(done.stdout)["checks"]}
    assert checks["torch"] == RED
    assert [path.name for path in tmp_path.iterdir()] == ["check_gpu.py"]


def test_importing_it_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    names = runpy.run_path(str(SCRIPT), run_name="check_gpu")
    assert callable(names["main"])
    assert capsys.readouterr().out == ""


def test_colour_only_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "probe", lambda offline: doctor.Machine())
    doctor.run(offline=True, json_wanted=False)
    assert "\033" not in capsys.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    doctor.run(offline=True, json_wanted=False)
    assert "\033[31mred" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    doctor.run(offline=True, json_wanted=False)
    assert "\033" not in capsys.readouterr().out


def test_hf_hub_offline_is_obeyed(lonely: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(doctor, "installed", lambda name: None)
    assert doctor.probe().hub == "not asked"
