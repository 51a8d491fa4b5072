"""A user's own catalogue folder: checked, built, and kept in a cache by its content."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mihack import __version__
from mihack.catalog.index import FORMAT
from mihack.errors import MihackError
from mihack.shipped import index_path, texts_path

SHOWN = 5
KEPT = 20


def read_layer(folder: str, *, cache: bool) -> dict[str, Any]:
    """The index of ``folder`` alone; an error that lists its first faults if it has any."""
    root = Path(folder)
    if not root.is_dir():
        hint = "--catalog and MIHACK_CATALOG name folders with problems/, areas/ and so on."
        raise MihackError(f"There is no catalogue folder {folder}.", hint=hint)
    if not cache:
        return _build(root)
    try:
        kept = cache_dir() / f"layer-{fingerprint(root)}.json"
    except OSError:  # something there cannot be read; the check says what
        return _build(root)
    with contextlib.suppress(OSError, ValueError):
        stored: dict[str, Any] = json.loads(kept.read_text("utf-8"))
        return stored
    layer = _build(root)
    with contextlib.suppress(OSError):  # a read-only home is no reason to fail
        _keep(kept, layer)
    return layer


def cache_dir() -> Path:
    """XDG_CACHE_HOME/mihack, or ~/.cache/mihack."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    return Path(base) / "mihack"


def fingerprint(root: Path) -> str:
    """A hash of everything that decides the result: the cards, the shipped index, this version."""
    digest = hashlib.sha256(f"{FORMAT} {__version__}".encode())
    digest.update(index_path().read_bytes() + texts_path().read_bytes())
    for path in _everything(root):
        info = path.lstat()
        # What is larger is a fault, whatever is in it.
        readable = stat.S_ISREG(info.st_mode) and info.st_size <= 2**20
        content = path.read_bytes() if readable else b""
        name = str(path.relative_to(root)).encode("utf-8", "surrogateescape")
        # Lengths keep two files from hashing like one.
        facts = f"{stat.S_IFMT(info.st_mode)} {info.st_size} {len(name)} {len(content)}\n"
        digest.update(facts.encode() + name + content)
    return digest.hexdigest()[:32]


def _everything(root: Path) -> Iterator[Path]:
    """All that a check could look at, found without the modules that a check needs."""
    yield from sorted(root.glob("*.y*ml"))
    for name in ("areas", "concepts", "problems"):
        if (root / name).is_symlink():
            yield root / name  # os.walk would follow this one
            continue
        for folder, folders, files in os.walk(root / name, followlinks=False):
            folders.sort()
            yield from (Path(folder, entry) for entry in sorted([*folders, *files]))


def _build(root: Path) -> dict[str, Any]:
    from mihack.catalog.build import build
    from mihack.catalog.check import check_layer

    catalog = check_layer(root)
    if not catalog.faults:
        return {**build(catalog), "starters": {}}
    lines = [str(fault) for fault in catalog.faults[:SHOWN]]
    if len(catalog.faults) > SHOWN:
        lines.append(f"... and {len(catalog.faults) - SHOWN} more")
    message = f"The catalogue {root} has {len(catalog.faults)} faults:\n" + "\n".join(lines)
    raise MihackError(message, hint=f"`mihack check {root}` lists all of them.")


def _keep(kept: Path, layer: dict[str, Any]) -> None:
    """Write through a temporary file, so that nobody ever reads half of one."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=kept.parent, prefix="writing-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(layer, file)
        os.replace(temporary, kept)  # noqa: PTH105
    except BaseException:
        os.unlink(temporary)  # noqa: PTH108
        raise
    layers = sorted(kept.parent.glob("layer-*.json"), key=lambda path: path.stat().st_mtime)
    for old in layers[:-KEPT]:
        old.unlink(missing_ok=True)
