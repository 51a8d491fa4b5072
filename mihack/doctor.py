"""Is this machine ready, and does its device compute correctly?

    python check_gpu.py              one line per check: green, yellow or red, and what to do
    python check_gpu.py --json       the same for programs, with every fact behind it
    python check_gpu.py --offline    ask nothing of the network

In a notebook: ``import check_gpu; check_gpu.main([])``.  Exit code 1 if a line is red, else 0.

``probe`` looks at the machine and ``judge`` decides, so that every combination of driver, build
and failure can be tried without having it.  The file needs nothing but Python, since it must also
run where packages are missing or broken.  It is the same file as ``mihack doctor``.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

GREEN, YELLOW, RED = "green", "yellow", "red"
Version = tuple[int, ...]

PYTHON = ((3, 10), (3, 14))
# package: (from, below)
RANGES: dict[str, tuple[Version, Version]] = {
    "torch": ((2, 6), (3,)),
    "transformer-lens": ((4, 3), (5,)),
    "numpy": ((1, 26), (3,)),
    "matplotlib": ((3, 8), (4,)),
}
# CUDA of a torch build: the oldest driver that runs it.  NVIDIA, CUDA Compatibility, table 1:
# https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
# The newest torch build that a driver runs: (driver, index of wheels, torch).  CUDA 12.6 runs on
# any driver from 525 (minor-version compatibility); GPUs newer than it come with driver 570 or more.
WHEELS = (
    (580, "cu130", "torch>=2.9,<3"),
    (570, "cu128", "torch>=2.7,<3"),
    (525, "cu126", "torch>=2.6,<3"),
    (450, "cu118", "torch>=2.6,<2.8"),
)
WHEEL_INDEX = "https://download.pytorch.org/whl/"
MPS_ISSUE = "https://github.com/TransformerLensOrg/TransformerLens/issues/1178"

# Largest error, as a share of the largest value.  float32 gives about 1e-6 on a CPU; TF32 keeps 10
# bits of each factor, so about 1e-3.
TOLERANCE, TOLERANCE_TF32 = 1e-4, 1e-2

GB = 10**9
# name: parameters, layers, width, heads, MLP width, vocabulary
MODELS = {
    "gpt2": (124e6, 12, 768, 12, 3072, 50257),
    "pythia-1.4b": (1.41e9, 24, 2048, 16, 8192, 50304),
    "gemma-2-2b": (2.61e9, 26, 2304, 8, 9216, 256000),
    "llama-3-8b": (8.03e9, 32, 4096, 32, 14336, 128256),
}
TOKENS = 256  # of the one prompt whose activations are all kept
OVERHEAD = 0.7 * GB  # what torch takes for itself (ours, rough)


@dataclass
class Machine:
    """What was found.  The defaults describe a healthy laptop without a GPU."""

    python: Version = (3, 11, 0)
    system: str = "Linux"
    packages: dict[str, str | None] = field(default_factory=dict)  # None: not installed
    broken: dict[str, str] = field(default_factory=dict)  # package: why it cannot be imported
    built_for_cuda: str | None = None  # CUDA version of the torch build
    built_for_rocm: str | None = None
    gpu_usable: bool = False  # torch.cuda.is_available()
    gpu: str | None = None
    gpu_hidden: bool = False  # by CUDA_VISIBLE_DEVICES
    driver: str | None = None
    driver_cuda: Version | None = None  # newest CUDA that the driver itself speaks
    mps: bool = False
    mps_allowed: bool = False  # TRANSFORMERLENS_ALLOW_MPS=1
    device: str = "cpu"  # what an experiment would use
    errors: dict[str, float] | None = None  # self-test: part -> error; None: not run
    self_test_failure: str = ""
    tf32: bool = False
    memory: int | None = None  # bytes; a container's limit where there is one
    memory_free: int | None = None
    gpu_memory: int | None = None
    gpu_memory_free: int | None = None
    hub: str = "reached"  # or "not asked", or why not
    token: bool = False  # whether there is one; its text is never read out
    cache: str = ""
    cache_bytes: int | None = None  # None: too large to count quickly, or not there
    cache_writable: bool = True
    disk_free: int | None = None


@dataclass(frozen=True)
class Line:
    """One check's answer."""

    name: str
    state: str  # green: fine; yellow: works, with less; red: fix this first
    found: str
    fix: str = ""


# ---- judge: facts to lines, nothing else ----


def judge(machine: Machine, *, needs_torch: bool = True) -> list[Line]:
    """Every check's line.  ``needs_torch=False``: torch and its friends are for later."""
    lines = [python_line(machine.python)]
    lines += [package_line(name, machine, needs_torch) for name in RANGES]
    lines += [cuda_line(machine), mps_line(machine), numbers_line(machine)]
    lines += [memory_line(machine), models_line(machine), hub_line(machine), token_line(machine)]
    return [*lines, cache_line(machine), disk_line(machine)]


def python_line(version: Version) -> Line:
    """Python in the supported range."""
    found = show(version)
    low, below = PYTHON
    if version < low:
        return Line("python", RED, f"{found} is too old", f"Use Python {show(low)} to 3.13.")
    if version >= below:
        fix = "If a package fails to install or import, use Python 3.13."
        return Line("python", YELLOW, f"{found} is newer than what was tested (to 3.13)", fix)
    return Line("python", GREEN, found)


def package_line(name: str, machine: Machine, needed: bool) -> Line:
    """A package installed, importable and in its range."""
    low, below = RANGES[name]
    wanted = f"{name}>={show(low)},<{show(below)}"
    found = machine.packages.get(name)
    install = f"pip install '{wanted}'"
    if name == "torch" and not (machine.gpu or machine.gpu_usable) and machine.system != "Darwin":
        install += f" --index-url {WHEEL_INDEX}cpu   (CPU build; with a GPU leave the index out)"
    elif name == "torch":
        install = wheel_command(at_least(machine))
    if found is None:
        return Line(name, RED if needed else YELLOW, "not installed; experiments need it", install)
    if name in machine.broken:
        return Line(name, RED, f"{found} cannot be imported: {machine.broken[name]}", repair(name, machine))
    version = parse(found)
    if version < low:
        return Line(name, RED, f"{found} is older than {show(low)}", install)
    if version >= below:
        return Line(name, RED, f"{found} is newer than supported (below {show(below)})", install)
    return Line(name, GREEN, found)


def repair(name: str, machine: Machine) -> str:
    """What to do about a package that is there and does not import."""
    why = machine.broken[name].lower()
    if name == "numpy" or "numpy" in why or "dtype size" in why:
        # one half was built for numpy 1, the other for numpy 2; a running process keeps the old one
        again = "pip install --force-reinstall 'numpy>=1.26,<3' matplotlib"
        return f"{again}, then restart Python (in a notebook: restart the runtime)."
    return f"pip install --force-reinstall '{name}=={machine.packages[name]}', then restart Python."


def cuda_line(machine: Machine) -> Line:
    """The driver against the CUDA that torch was built for."""
    driver, built = at_least(machine), machine.built_for_cuda
    named = f"driver {machine.driver or 'unknown'}"
    if machine.driver_cuda and not machine.driver:
        named = f"a driver for CUDA {show(machine.driver_cuda)}"
    card = machine.gpu or "an NVIDIA GPU"
    if machine.built_for_rocm and machine.gpu_usable:
        fix = "Trust the self-test below; nobody of us has tried ROCm."
        return Line("gpu", YELLOW, f"{machine.gpu or 'AMD GPU'}, ROCm {machine.built_for_rocm}", fix)
    if machine.gpu_usable:
        return Line("gpu", GREEN, f"{card}, {named}, torch built for CUDA {built}")
    if not machine.gpu and not driver:
        return Line("gpu", GREEN, "no NVIDIA GPU; every experiment's default size runs on the CPU")
    seen = f"{card}, {named}"
    if machine.packages.get("torch") is None or "torch" in machine.broken:
        return Line("gpu", YELLOW, f"{seen}; torch is not there to use it", wheel_command(driver))
    if built is None:
        return Line("gpu", YELLOW, f"{seen}, but torch is a CPU-only build", swap_command(driver))
    if too_old(machine):
        oldest = OLDEST_DRIVER.get(int(built.split(".")[0]), 580)
        found = f"{seen} is too old for torch built for CUDA {built} (needs driver {oldest} or newer)"
        return Line("gpu", RED, found, f"Update the driver, or: {swap_command(driver)}")
    if machine.gpu_hidden:
        return Line("gpu", YELLOW, f"{seen}, hidden by CUDA_VISIBLE_DEVICES", "Unset it to use the GPU.")
    fix = "Is CUDA_VISIBLE_DEVICES wrong? In a container, start it with --gpus all. Else restart the machine."
    return Line("gpu", RED, f"{seen} fits CUDA {built}, yet torch cannot use the GPU", fix)


def at_least(machine: Machine) -> str | None:
    """The driver's version, or the oldest that speaks the CUDA that it speaks."""
    cuda = machine.driver_cuda
    if machine.driver or cuda is None:
        return machine.driver
    return "570" if (12, 8) <= cuda < (13,) else str(OLDEST_DRIVER.get(cuda[0], 580 if cuda > (13,) else 0))


def too_old(machine: Machine) -> bool:
    """Whether the driver cannot run what torch was built for."""
    major = int((machine.built_for_cuda or "0").split(".")[0])
    driver = at_least(machine)
    return driver is not None and parse(driver) < (OLDEST_DRIVER.get(major, 580 if major > 13 else 0),)


def wheel_command(driver: str | None) -> str:
    """How to install the newest torch that this driver runs.

    >>> wheel_command("535.104.05")
    "pip install 'torch>=2.6,<3' --index-url https://download.pytorch.org/whl/cu126"
    """
    if driver is None:
        return "pip install 'torch>=2.6,<3'"
    for oldest, index, torch in WHEELS:
        if parse(driver) >= (oldest,):
            return f"pip install '{torch}' --index-url {WHEEL_INDEX}{index}"
    return "Update the NVIDIA driver to 525 or newer (580 for the default torch)."


def swap_command(driver: str | None) -> str:
    """The same where another build is in the way: pip would call its version good enough."""
    command = wheel_command(driver)
    return f"pip uninstall -y torch && {command}" if command.startswith("pip") else command


def mps_line(machine: Machine) -> Line:
    """Apple's GPU is opt-in: it has given wrong results without an error."""
    if not machine.mps:
        return Line("mps", GREEN, "no Apple GPU")
    if not machine.mps_allowed:
        found = f"Apple GPU present and not used, since results on it have been wrong ({MPS_ISSUE})"
        return Line("mps", GREEN, found)
    if parse(machine.packages.get("torch") or "0")[:2] == (2, 8):
        found = "torch 2.8 computes linear layers wrongly on MPS (pytorch issue 161640)"
        return Line("mps", RED, found, "pip install 'torch>=2.9,<3', or unset TRANSFORMERLENS_ALLOW_MPS.")
    fix = f"Repeat what matters with --device cpu. See {MPS_ISSUE}"
    return Line("mps", YELLOW, "opted in by TRANSFORMERLENS_ALLOW_MPS=1; it has been silently wrong", fix)


def numbers_line(machine: Machine) -> Line:
    """The self-test: the device in float32 against the CPU in float64."""
    name = "numbers"
    if machine.self_test_failure:
        fix = "Use --device cpu. On a GPU: does its architecture fit this torch build, is another job on it?"
        return Line(name, RED, f"{machine.device}: self-test failed: {machine.self_test_failure}", fix)
    if machine.errors is None:
        return Line(name, YELLOW, "not tested: torch is not there", "Install torch, then run this again.")
    limit = TOLERANCE_TF32 if machine.tf32 else TOLERANCE
    wrong = {part: error for part, error in machine.errors.items() if not error <= limit}  # also nan
    tf32 = " (TF32 is on: 10 bits per factor)" if machine.tf32 else ""
    if wrong:
        parts = ", ".join(f"{part} {error:.1e}" for part, error in wrong.items())
        found = f"{machine.device} computes wrongly: {parts}; allowed {limit:.0e}{tf32}"
        return Line(name, RED, found, "Do not trust results from this device: use --device cpu.")
    found = f"{machine.device} agrees with float64 on the CPU to {max(machine.errors.values()):.1e}"
    return Line(name, GREEN, f"{found} (allowed {limit:.0e}){tf32}")


def memory_line(machine: Machine) -> Line:
    """Memory there is, and memory that is free."""
    if machine.memory is None:
        return Line("memory", YELLOW, "could not be read", "Keep an eye on it yourself.")
    free = machine.memory_free
    found = size(machine.memory) if free is None else f"{size(free)} of {size(machine.memory)} free"
    if machine.gpu_memory:
        found += f"; GPU {size(machine.gpu_memory_free or 0)} of {size(machine.gpu_memory)} free"
    if (machine.memory if free is None else free) < 1.5 * GB:
        return Line("memory", YELLOW, found, "Close other programs: an experiment takes about 1 GB.")
    return Line("memory", GREEN, found)


def models_line(machine: Machine) -> Line:
    """Which well-known models fit into the free memory of the device."""
    free = machine.gpu_memory_free if machine.device == "cuda" else machine.memory_free or machine.memory
    if free is None:
        return Line("models", GREEN, "no estimate: free memory is unknown")
    words = []
    for name in MODELS:
        kinds = [
            kind for kind, bytes_each in (("f32", 4), ("bf16", 2)) if footprint(name, bytes_each) <= free
        ]
        words.append(f"{name} {'/'.join(kinds) or 'no'}")
    found = f"fit on {machine.device} with {TOKENS} tokens' activations (our estimate): {', '.join(words)}"
    return Line("models", GREEN, found)


def footprint(name: str, bytes_each: int) -> float:
    """Bytes to hold a model and every activation of one prompt (our estimate).

    Activations per layer and token: about 12 vectors of the model's width, 3 of the MLP's, and two
    rows of attention scores per head; then the logits in float32.
    """
    parameters, layers, width, heads, mlp, vocabulary = MODELS[name]
    activations = layers * TOKENS * (12 * width + 3 * mlp + 2 * heads * TOKENS)
    return (parameters + activations) * bytes_each + 4 * TOKENS * vocabulary + OVERHEAD


def hub_line(machine: Machine) -> Line:
    """The model hub.  Everything starts offline, so it is never red."""
    if machine.hub == "reached":
        return Line("hub", GREEN, "reached")
    if machine.hub == "not asked":
        return Line("hub", GREEN, "not asked; experiments start offline")
    fix = "Only needed for --model NAME from the hub; a local folder works too."
    return Line("hub", YELLOW, f"not reached: {machine.hub}", fix)


def token_line(machine: Machine) -> Line:
    """Whether there is a token for gated models."""
    found = "there is one (not shown)" if machine.token else "none; only gated models (gemma, llama) need one"
    return Line("token", GREEN, found)


def cache_line(machine: Machine) -> Line:
    """Where downloaded models go."""
    held = f", holds {size(machine.cache_bytes)}" if machine.cache_bytes is not None else ""
    if machine.cache_writable:
        return Line("cache", GREEN, f"{machine.cache}{held}")
    fix = "Point HF_HOME at a folder that you can write."
    return Line("cache", YELLOW, f"{machine.cache} cannot be written{held}", fix)


def disk_line(machine: Machine) -> Line:
    """Room for results; a model needs more."""
    if machine.disk_free is None:
        return Line("disk", YELLOW, "free space could not be read", "Keep an eye on it yourself.")
    found = f"{size(machine.disk_free)} free here"
    if machine.disk_free < 0.2 * GB:
        return Line("disk", RED, found, "Free some: results and figures need room.")
    if machine.disk_free < 5 * GB:
        return Line("disk", YELLOW, found, "Enough for the experiment, not for larger models.")
    return Line("disk", GREEN, found)


def parse(text: str) -> Version:
    """The leading numbers of a version: ``2.13.0+cpu`` is (2, 13, 0)."""
    numbers = []
    for part in text.split("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers)


def show(version: Version) -> str:
    """(3, 11, 7) as 3.11.7."""
    return ".".join(map(str, version))


def size(count: float) -> str:
    """Bytes for people."""
    return f"{count / GB:.1f} GB" if count >= 0.1 * GB else f"{count / 10**6:.0f} MB"


# ---- probe: look at the machine; no failure gets out ----


def probe(*, offline: bool = False, tell: Callable[[int, str], None] = lambda done, next_up: None) -> Machine:
    """Everything that can be found out here, in a few seconds; ``tell`` hears of each of STEPS."""
    tell(0, STEPS[0])
    machine = Machine(python=tuple(sys.version_info[:3]), system=platform.system())
    machine.packages = {name: installed(name) for name in RANGES}
    machine.gpu, machine.driver, machine.driver_cuda = nvidia()
    machine.memory, machine.memory_free = memory()
    for done, name in enumerate(("numpy", "torch"), 1):
        tell(done, STEPS[done])
        if machine.packages[name] is not None:
            module, why = load(name)
            if why:
                machine.broken[name] = why
            elif name == "torch":
                look_at_torch(machine, module)
    look_at_numpy(machine)
    tell(3, STEPS[3])
    machine.hub = "not asked" if offline or os.environ.get("HF_HUB_OFFLINE") == "1" else ask_hub()
    machine.token = has_token()
    tell(4, STEPS[4])
    folder = cache_folder()
    machine.cache, machine.cache_bytes = str(folder), folder_bytes(folder)
    machine.cache_writable = writable(folder)
    machine.disk_free = attempt(lambda: shutil.disk_usage(Path.cwd()).free)
    return machine


STEPS = ("driver and memory", "numpy", "torch and its arithmetic", "the hub", "cache and disk")


def step_shown(done: int, next_up: str) -> None:
    """Which step of how many is under way: one line on stderr, each in place of the last."""
    text = f"{done + 1} of {len(STEPS)}: {next_up}" if next_up else ""
    print(f"\r{text:<40}" + ("" if next_up else "\r"), end="", file=sys.stderr, flush=True)


def attempt(ask: Callable[[], Any]) -> Any:
    """The answer, or None if asking fails in whatever way: a check must not be what crashes."""
    try:
        return ask()
    except Exception:
        return None


def installed(name: str) -> str | None:
    """The version of a package, without importing it."""
    return attempt(lambda: importlib.metadata.version(name))  # type: ignore[no-any-return]


def load(name: str) -> tuple[Any, str]:
    """(module, "") or (None, why it cannot be imported)."""
    try:
        module = importlib.import_module(name)
        if name == "torch":
            module.zeros(1).numpy()  # fails where torch and numpy were built for each other's rivals
    except Exception as error:
        return None, first_line(error)
    return module, ""


def look_at_numpy(machine: Machine) -> None:
    """A numpy that others were not built for, or that pip replaced while it was loaded."""
    wanted = machine.packages["numpy"]
    loaded = getattr(sys.modules.get("numpy"), "__version__", wanted)
    if wanted is None or "numpy" in machine.broken:
        return
    if loaded != wanted:
        machine.broken["numpy"] = f"numpy {loaded} is still loaded"
    elif installed("pandas") is not None:  # TransformerLens imports it; compiled against numpy
        why = load("pandas")[1]
        machine.broken.update({"numpy": f"pandas says {why}"} if why else {})


def first_line(error: BaseException) -> str:
    """An error in one line of reasonable length."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:160]}"


def nvidia() -> tuple[str | None, str | None, Version | None]:
    """(name of the first GPU, driver version, CUDA version of the driver), as far as known."""
    return (*nvidia_smi(), driver_cuda())


def nvidia_smi() -> tuple[str | None, str | None]:
    """Name and driver as nvidia-smi gives them."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    done = attempt(lambda: subprocess.run(query, capture_output=True, text=True, timeout=15))
    if done is None or done.returncode != 0 or "," not in done.stdout:
        return None, None
    name, _, driver = done.stdout.splitlines()[0].rpartition(",")
    return name.strip() or None, driver.strip() or None


def driver_cuda() -> Version | None:
    """The newest CUDA that the driver speaks, asked of the driver itself; None without a GPU."""
    number = ctypes.c_int(0)

    def ask() -> bool:
        cuda = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        # images for CUDA bring this library along on machines that have no GPU
        there = cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(number)) == 0 and number.value > 0
        return there and cuda.cuDriverGetVersion(ctypes.byref(number)) == 0

    return (number.value // 1000, number.value % 1000 // 10) if attempt(ask) else None


def look_at_torch(machine: Machine, torch: Any) -> None:
    """Devices, the choice among them, and the self-test on it."""
    machine.built_for_cuda = torch.version.cuda
    machine.built_for_rocm = getattr(torch.version, "hip", None)
    machine.gpu_hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1")
    machine.gpu_usable = bool(attempt(torch.cuda.is_available))
    machine.mps = bool(attempt(torch.backends.mps.is_available))
    machine.mps_allowed = os.environ.get("TRANSFORMERLENS_ALLOW_MPS") == "1"
    if machine.gpu_usable:
        machine.device = "cuda"
        machine.gpu = attempt(lambda: torch.cuda.get_device_name(0)) or machine.gpu
        memory_pair = attempt(torch.cuda.mem_get_info) or (None, None)
        machine.gpu_memory_free, machine.gpu_memory = memory_pair
        machine.tf32 = attempt(torch.get_float32_matmul_precision) != "highest"
    elif machine.mps and machine.mps_allowed:
        machine.device = "mps"
    try:
        want = compute(torch, "cpu", torch.float64)
        machine.errors = compare(want, compute(torch, machine.device, torch.float32))
    except Exception as error:
        machine.self_test_failure = first_line(error)


def compute(torch: Any, device: str, dtype: Any) -> dict[str, Any]:
    """The same small sums on any device: what a transformer is made of, forward and backward."""
    draw = torch.Generator().manual_seed(0)  # on the CPU, so that every device gets the same numbers

    def random(*shape: int) -> Any:
        return torch.randn(*shape, generator=draw).to(device=device, dtype=dtype)

    functional = torch.nn.functional
    batch, length, heads, head, width = 2, 32, 4, 16, 64
    a, b, x, w = random(256, 256), random(256, 256), random(batch, length, width), random(width, width)
    parts = {"matmul": a @ b}
    # a transposed, non-contiguous input: torch 2.8 on MPS got this one wrong
    parts["linear"] = functional.linear(x.transpose(0, 1), w)
    parts["layernorm"] = functional.layer_norm(x, (width,))

    def attend(q: Any, k: Any, v: Any) -> Any:
        q, k, v = (t.view(batch, length, heads, head).transpose(1, 2) for t in (q, k, v))
        later = torch.ones(length, length, dtype=torch.bool, device=device).triu(1)
        scores = (q @ k.transpose(-1, -2) / head**0.5).masked_fill(later, -math.inf)
        return (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width)

    parts["attention"] = attend(x, x @ w / width**0.5, x.flip(1))
    shapes = [(50, width), *[(width, width)] * 4, (width, 4 * width), (4 * width, width), (width, 50)]
    weights = [(random(*shape) / shape[0] ** 0.5).requires_grad_() for shape in shapes]
    embed, q, k, v, o, up, down, unembed = weights
    tokens = torch.randint(0, 50, (batch, length + 1), generator=draw).to(device)
    stream = embed[tokens[:, :-1]]
    normed = functional.layer_norm(stream, (width,))
    stream = stream + attend(normed @ q, normed @ k, normed @ v) @ o
    stream = stream + functional.gelu(functional.layer_norm(stream, (width,)) @ up) @ down
    parts["logits"] = logits = stream @ unembed
    functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    parts["gradients"] = torch.cat([weight.grad.flatten() for weight in weights])
    return {name: part.detach().cpu().double() for name, part in parts.items()}


def compare(want: dict[str, Any], got: dict[str, Any]) -> dict[str, float]:
    """Per part the largest error, as a share of the largest value; infinite if it is not a number."""
    errors = {}
    for name, right in want.items():
        error = float((got[name] - right).abs().max() / right.abs().max())
        errors[name] = error if math.isfinite(error) else math.inf
    return errors


def memory() -> tuple[int | None, int | None]:
    """(total, free) bytes of memory; a container's limit counts, if it is lower."""
    total, free = system_memory()
    limit = attempt(lambda: int(Path("/sys/fs/cgroup/memory.max").read_text()))
    used = attempt(lambda: int(Path("/sys/fs/cgroup/memory.current").read_text()))
    if limit and used is not None and total and limit < total:
        return limit, min(limit - used, free if free is not None else limit)
    return total, free


def system_memory() -> tuple[int | None, int | None]:
    """(total, free) by the system's own means."""
    text = attempt(lambda: Path("/proc/meminfo").read_text())
    if text:
        rows = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in text.splitlines() if ":" in line}
        return rows.get("MemTotal"), rows.get("MemAvailable")
    if os.name == "nt":
        return attempt(windows_memory) or (None, None)
    total = attempt(lambda: os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return total, None


def windows_memory() -> tuple[int, int]:
    """GlobalMemoryStatusEx: its length, the load, then total and free bytes and five more."""
    status = (ctypes.c_uint64 * 8)(64)
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined,unused-ignore]
    return int(status[1]), int(status[2])


def ask_hub(seconds: float = 4) -> str:
    """``reached``, or why not."""
    address = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    answer = [f"no answer in {seconds:g} s"]

    def ask() -> None:
        try:
            request = urllib.request.Request(address, method="HEAD")
            with urllib.request.urlopen(request, timeout=seconds):
                answer[0] = "reached"
        except urllib.error.HTTPError as error:  # it answered; 407 is a proxy that wants a password
            answer[0] = f"status {error.code}" if error.code >= 500 or error.code == 407 else "reached"
        except Exception as error:
            # only the kind of error: its text may quote the address, which may hold a password
            answer[0] = type(getattr(error, "reason", error)).__name__

    # a thread, since the time limit does not cover a name server that never answers
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds + 0.5)
    return answer[0]


def hub_home() -> Path:
    """Where the hub's client keeps token and cache."""
    home = os.environ.get("HF_HOME")
    return Path(home).expanduser() if home else Path("~/.cache/huggingface").expanduser()


def has_token() -> bool:
    """Whether a token is set or stored."""
    if os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN"):
        return True
    path = Path(os.environ.get("HF_TOKEN_PATH") or hub_home() / "token")
    return bool(attempt(lambda: path.stat().st_size))


def cache_folder() -> Path:
    """Where downloaded models go."""
    return Path(os.environ.get("HF_HUB_CACHE") or hub_home() / "hub")


def folder_bytes(folder: Path, seconds: float = 2) -> int | None:
    """Bytes in a folder; None if it is not there or takes too long to add up."""
    if not attempt(folder.is_dir):
        return None
    stop, total = time.monotonic() + seconds, 0
    for parent, _, names in os.walk(folder):
        # a link counts as itself: the cache links each snapshot to its blobs
        found = [attempt(Path(parent, name).lstat) for name in names]
        total += sum(status.st_size for status in found if status)
        if time.monotonic() > stop:
            return None
    return total


def writable(folder: Path) -> bool:
    """Whether a file could be put there; nothing is left behind."""
    place = folder
    while not attempt(place.exists) and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            return True
    except OSError:
        return False


# ---- say it ----


def report(lines: Sequence[Line], *, colour: bool = False, columns: int = 80) -> str:
    """One line per check, and what to do under those that need it."""
    width = min(columns, 80) - 1
    codes = {GREEN: "32", YELLOW: "33", RED: "31"}
    out = []
    for line in lines:
        text = wrap(f"{line.state:<6}  {line.name:<16}  {line.found}", " " * 8, width)
        if colour:
            text[0] = f"\033[{codes[line.state]}m{text[0][:6]}\033[0m{text[0][6:]}"
        out += text
        if line.fix and line.state != GREEN:
            out += advice(line.fix, width)
    count = {state: sum(line.state == state for line in lines) for state in (RED, YELLOW)}
    end = f"Ready, with {count[YELLOW]} yellow." if count[YELLOW] else "Ready."
    out.append(f"Not ready: {count[RED]} red, {count[YELLOW]} yellow." if count[RED] else end)
    return "\n".join(out)


def wrap(text: str, indent: str, width: int = 79) -> list[str]:
    """Lines that fit, broken between words only."""
    rule = textwrap.TextWrapper(
        width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return rule.wrap(text)


def advice(fix: str, width: int = 79) -> list[str]:
    """What to do; each command on a line of its own, whole, so that it can be copied."""
    words, pip, commands = fix.partition("pip ")
    lines = wrap(f"{' ' * 8}-> {words.strip()}", " " * 11, width) if words.strip() else []
    # behind a command may stand ", then do this" or "   (a remark)"
    command, rest = [*re.split(r", |   ", f"{pip}{commands}", maxsplit=1), ""][:2]
    lines += command.split(" && ") if command else []
    return lines + (wrap(f"{' ' * 8}-> {rest}", " " * 11, width) if rest else [])


def as_json(machine: Machine, lines: Sequence[Line]) -> str:
    """Every check and every fact behind it."""
    ready = all(line.state != RED for line in lines)
    data = {
        "ready": ready,
        "device": machine.device,
        "checks": list(map(asdict, lines)),
        "facts": asdict(machine),
    }
    return json.dumps(finite(data), indent=2)


def finite(data: Any) -> Any:
    """The same with text in place of infinity, which JSON does not have."""
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    return "infinite" if isinstance(data, float) and not math.isfinite(data) else data


def run(*, offline: bool, json_wanted: bool, needs_torch: bool = True, plain: bool = False) -> int:
    """Look, judge and print; 1 if something is red."""
    watched = sys.stderr.isatty() and not plain
    machine = probe(offline=offline, **({"tell": step_shown} if watched else {}))
    if watched:
        step_shown(len(STEPS), "")
    lines = judge(machine, needs_torch=needs_torch)
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and not plain
    columns = shutil.get_terminal_size().columns
    print(as_json(machine, lines) if json_wanted else report(lines, colour=colour, columns=columns))
    return int(any(line.state == RED for line in lines))


def main(arguments: Sequence[str] = ()) -> int:
    """Run the check with command-line words and return the exit code; never ends the process."""
    parser = argparse.ArgumentParser(prog="check_gpu.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--offline", action="store_true", help="ask nothing of the network")
    try:
        options = parser.parse_args(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return run(offline=options.offline, json_wanted=options.json)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
