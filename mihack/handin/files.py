"""The files of a hand-in, and what must not be among them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

LARGE = 20_000_000  # bytes
LEFT_OUT = {".git", ".venv", "venv", "__pycache__", ".ipynb_checkpoints", ".pytest_cache", ".ruff_cache"}
LEFT_OUT |= {".mypy_cache", "node_modules", "results", ".DS_Store"}
PICKLES = {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".bin"}
ALLOWED = b"not-a-secret"  # on a line that only looks like one
_SECRETS = {
    "a private key": rb"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a GitHub token": rb"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60,})",
    "a Hugging Face token": rb"\bhf_[A-Za-z0-9]{30,}",
    "an API key": rb"\bsk-[A-Za-z0-9_-]{32,}",
    "an AWS key": rb"\bAKIA[0-9A-Z]{16}\b",
    "a Google key": rb"\bAIza[0-9A-Za-z_-]{35}",
    "a Slack token": rb"\bxox[abprs]-[A-Za-z0-9-]{20,}",
    "a secret": rb"(?i)\b\w*(?:api_?key|token|password|secret)\"?\s*[=:]\s*[\"'][A-Za-z0-9+/_=-]{20,}[\"']",
}
SECRETS = {name: re.compile(pattern) for name, pattern in _SECRETS.items()}


def listed(root: Path) -> list[str]:
    """Relative paths, sorted: what git would add (if the repo is in git), without caches and runs."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=60)
        names = os.fsdecode(done.stdout).split("\0") if done.returncode == 0 else list(_walk(root))
    except (OSError, subprocess.TimeoutExpired):
        names = list(_walk(root))
    return sorted({name for name in names if name and _belongs(name) and os.path.lexists(root / name)})


def _walk(root: Path) -> Iterator[str]:
    for folder, inside, names in os.walk(root):
        inside[:] = [name for name in inside if name not in LEFT_OUT]
        linked = [name for name in inside if (Path(folder) / name).is_symlink()]
        yield from ((Path(folder) / name).relative_to(root).as_posix() for name in [*names, *linked])


def _belongs(name: str) -> bool:
    parts = name.split("/")
    return not LEFT_OUT & set(parts) and not any(part.endswith((".egg-info", ".pyc")) for part in parts)


def faults(root: Path, names: list[str]) -> Iterator[str]:
    """What must not be handed in, each as ``file:line: what it is. What to do``."""
    if not any(name.upper().startswith(("LICENSE", "LICENCE")) for name in names):
        yield "LICENSE:1: missing: nobody may use your work. Add one, such as MIT"
    for name in names:
        path = root / name
        if path.is_symlink() or not path.is_file():
            yield f"{name}:1: no plain file (a link?), not for an archive. Put the file itself there"
        elif path.stat().st_size > LARGE:
            size = path.stat().st_size / 1e6
            yield f"{name}:1: {size:.0f} MB, over {LARGE / 1e6:.0f} MB. Leave it out (.gitignore)"
        else:
            yield from _content(name, path.read_bytes())


def _content(name: str, content: bytes) -> Iterator[str]:
    pickled = content[:1] == b"\x80" and content[1:2] in b"\x02\x03\x04\x05" and content[-1:] == b"."
    zipped = content[:2] == b"PK" and b"data.pkl" in content
    if pickled or zipped or Path(name).suffix.lower() in PICKLES:
        yield f"{name}:1: pickled weights run code when they are loaded. Save them as safetensors"
    for kind, pattern in SECRETS.items():
        for found in pattern.finditer(content):
            start, end = content.rfind(b"\n", 0, found.start()) + 1, content.find(b"\n", found.end())
            if ALLOWED not in content[start : end if end >= 0 else None]:
                line = content.count(b"\n", 0, found.start()) + 1
                unless = f"If it is none, write {ALLOWED.decode()} on its line"
                yield f"{name}:{line}: looks like {kind}. Take it out and revoke it. {unless}"
