"""Write a site to disk: stage it beside the target, then swap it in by renaming.

An earlier site there is replaced, if it is ours and as we left it: the list of its files, with
their hashes, lies in it.  Any other folder that is not empty is refused, and nothing in it is touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mihack.errors import MihackError
from mihack.scaffold.write import signals_raise

MARKER = ".mihack-site.json"
SHOWN = 4


def write(pages: Mapping[str, bytes], target: Path) -> None:
    """Make ``target`` hold exactly ``pages``, or raise MihackError and leave it as it was."""
    target = Path(os.path.abspath(target))  # noqa: PTH100 (resolve would follow a link at the end)
    refuse(target)
    with signals_raise():
        staged = Path(tempfile.mkdtemp(prefix=".mihack-site-", dir=target.parent))
        try:
            _fill(staged / "new", {**pages, MARKER: _marker(pages)})
            _swap(staged, target)
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def refuse(target: Path) -> None:
    """Raise MihackError if ``write`` would not put a site there."""
    if not target.parent.is_dir():
        raise MihackError(
            f"There is no folder {target.parent}.", hint="Make it first, or name another place."
        )
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise MihackError(f"{target} exists and is no folder.", hint="Name another place.")
    if not target.is_dir():
        return
    if Path.cwd().is_relative_to(target.resolve()):
        hint = "Go up, and name the folder from there: it is replaced as a whole."
        raise MihackError(f"{target} is the folder in which you are.", hint=hint)
    _refuse_foreign(target)


def _refuse_foreign(target: Path) -> None:
    """Refuse a folder with anything in it that an earlier build did not leave just so."""
    found = {path.relative_to(target).as_posix(): path for path in _files(target)}
    if not found:
        return
    ours = _hashes_in(target / MARKER)
    foreign = [name for name in found if name not in ours and name != MARKER]
    edited = [name for name in ours if name in found and _digest(found[name].read_bytes()) != ours[name]]
    if not ours or foreign or edited:
        what = "was changed by hand" if ours and not foreign else "is not from mihack"
        names = sorted(foreign or edited or found)
        listed = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
        hint = "Nothing was changed. Name a folder that does not exist yet."
        raise MihackError(f"{target} holds something that {what}: {listed}", hint=hint)


def _files(folder: Path) -> list[Path]:
    """Everything below ``folder`` but real folders; links are not followed."""
    return [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]


def _hashes_in(marker: Path) -> dict[str, str]:
    """What the marker says: path -> hash; nothing if it is not there or is no marker."""
    try:
        files = json.loads(marker.read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return files if isinstance(files, dict) else {}


def _marker(pages: Mapping[str, bytes]) -> bytes:
    files = {path: _digest(pages[path]) for path in sorted(pages)}
    what = "Made by `mihack site build`, which replaces these files if they are as it left them."
    return (json.dumps({"what": what, "files": files}, indent=1) + "\n").encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _fill(folder: Path, pages: Mapping[str, bytes]) -> None:
    folder.mkdir()
    for place in sorted({(folder / path).parent for path in pages}):
        place.mkdir(parents=True, exist_ok=True)
    for path, content in pages.items():
        (folder / path).write_bytes(content)


def _swap(staged: Path, target: Path) -> None:
    """The old site out, the new one in; if that fails, the old one back."""
    if not target.exists():
        (staged / "new").rename(target)
        return
    target.rename(staged / "old")
    try:
        (staged / "new").rename(target)
    except BaseException:
        (staged / "old").rename(target)
        raise
