"""A user's own catalogue folder: checked, built, and kept in a cache by its content."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from mihack import __version__
from mihack.catalog.index import FORMAT, Index
from mihack.errors import MihackError
from mihack.shipped import index_path, texts_path

SHOWN = 5
KEPT = 20
# Fewer files than these are read so soon that neither progress nor a record of them pays.
MANY = 1000
SOON = 1.0  # seconds after which somebody at a terminal wants to know how far it is
# Times of files are this coarse on some systems: what was just written is read again.
COARSE = 2 * 10**9
FOLDERS = ("areas", "concepts", "problems")
FACTS = 5
MASK = 2**63 - 1  # some systems number files beyond what 64 bits with a sign hold


class Layer(NamedTuple):
    """A checked folder: what ``list`` reads of it, the rest on demand, and a key for its content."""

    listed: dict[str, Any]
    rest: Callable[[], dict[str, Any]]
    key: str


def read_layer(folder: str, below: Index, *, cache: bool) -> Layer:
    """A folder's entries, checked over ``below``; an error that lists its first faults if it has any."""
    root = Path(folder)
    if not root.is_dir():
        hint = "--catalog and MIHACK_CATALOG name folders with problems/, areas/ and so on."
        raise MihackError(f"There is no catalogue folder {folder}.", hint=hint)
    if not cache:
        return _in_memory(root, below, "")
    try:
        key = fingerprint(root, below)
    except OSError:  # something there cannot be read; the check says what
        return _in_memory(root, below, "")
    listed, rest = (cache_dir() / f"layer-{key}{half}.json" for half in ("", "-rest"))
    with contextlib.suppress(OSError, ValueError):
        if rest.exists():
            return Layer(json.loads(listed.read_bytes()), lambda: _kept_rest(rest, root, below), key)
    layer = _in_memory(root, below, key)
    with contextlib.suppress(OSError):  # a read-only home is no reason to fail
        _keep(rest, layer.rest())
        _keep(listed, layer.listed)
        _forget(listed.parent, "layer-*.json", 2 * KEPT)
    return layer


def _kept_rest(path: Path, root: Path, below: Index) -> dict[str, Any]:
    """The second half from the cache; built anew if somebody damaged or removed it meanwhile."""
    with contextlib.suppress(OSError, ValueError):
        rest: dict[str, Any] = json.loads(path.read_bytes())
        return rest
    return _in_memory(root, below, "").rest()


def cache_dir() -> Path:
    """XDG_CACHE_HOME/mihack, or ~/.cache/mihack."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    return Path(base) / "mihack"


def key_of(index: Index) -> str:
    """What decides an index: this version, the shipped files, and the folders over them."""
    digest = hashlib.sha256(f"{FORMAT} {__version__}".encode())
    for path in (index_path(), texts_path()):
        info = path.stat()
        digest.update(f" {info.st_size} {info.st_mtime_ns}".encode())
    digest.update("".join(f"\n{key}" for key in index.layers).encode())
    return digest.hexdigest()[:32]


def fingerprint(root: Path, below: Index) -> str:
    """A hash of everything that decides the result: the folder's content, and what lies below it.

    Ten thousand files take long to read, so the hash is kept with the files' sizes and times, and
    used again while these are the same and all older than the record by more than a clock's tick.
    """
    base = key_of(below)
    names, facts = _everything(str(root))
    if len(names) < MANY:
        return _content_key(base, root, names, facts)
    digest = hashlib.sha256(f"{base} {root.absolute()} {names}".encode("utf-8", "surrogateescape"))
    digest.update(facts.tobytes())
    newest = max((*facts[0::FACTS], *facts[1::FACTS]), default=0)
    record = cache_dir() / f"seen-{digest.hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        seen = json.loads(record.read_bytes())
        if newest + COARSE < seen["at"]:
            return str(seen["key"])
    started = time.time_ns()
    key = _content_key(base, root, names, facts)
    with contextlib.suppress(OSError):
        _keep(record, {"key": key, "at": started})
        _forget(record.parent, "seen-*.json", KEPT)
    return key


def _content_key(base: str, root: Path, names: list[str], facts: array[int]) -> str:
    found = sorted(zip(names, facts[2::FACTS], facts[3::FACTS], strict=True))
    digest = hashlib.sha256(base.encode())
    for name, mode, size in found:
        # What is larger is a fault, whatever is in it.
        readable = stat.S_ISREG(mode) and size <= 2**20
        content = (root / name).read_bytes() if readable else b""
        label = name.encode("utf-8", "surrogateescape")
        # Lengths keep two files from hashing like one.
        sizes = f"{stat.S_IFMT(mode)} {size} {len(label)} {len(content)}\n"
        digest.update(sizes.encode() + label + content)
    return digest.hexdigest()[:32]


def _everything(root: str) -> tuple[list[str], array[int]]:
    """All that a check could look at, without following symlinks: names, and ``FACTS`` for each.

    The facts are the times of change of content and of facts in ns, mode, size and inode.
    """
    names: list[str] = []
    facts = array("q")
    pending = [""]
    while pending:
        inside = pending.pop()
        with _opened(f"{root}/{inside}") as place, os.scandir(place) as entries:
            for entry in entries:
                if not inside and not (entry.name in FOLDERS or fnmatch(entry.name, "*.y*ml")):
                    continue
                name = f"{inside}/{entry.name}" if inside else entry.name
                info = entry.stat(follow_symlinks=False)
                mode = info.st_mode
                names.append(name)
                facts.extend((info.st_mtime_ns, info.st_ctime_ns, mode, info.st_size, info.st_ino & MASK))
                if stat.S_ISDIR(mode):
                    pending.append(name)
    return names, facts


@contextlib.contextmanager
def _opened(folder: str) -> Iterator[Any]:
    """A folder to scan; by its descriptor where there are such, which makes each stat twice as quick."""
    if os.scandir not in os.supports_fd:
        yield folder
        return
    descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _in_memory(root: Path, below: Index, key: str) -> Layer:
    from mihack.catalog.build import build, halves
    from mihack.catalog.check import check_layer

    with reading(f"Reading {root}") as progress:
        catalog = check_layer(root, below.entries(), progress)
    if not catalog.faults:
        listed, rest = halves({**build(catalog), "starters": {}})
        return Layer(listed, lambda: rest, key)
    lines = [str(fault) for fault in catalog.faults[:SHOWN]]
    if len(catalog.faults) > SHOWN:
        lines.append(f"... and {len(catalog.faults) - SHOWN} more")
    message = f"The catalogue {root} has {len(catalog.faults)} faults:\n" + "\n".join(lines)
    raise MihackError(message, hint=f"`mihack check {root}` lists all of them.")


@contextlib.contextmanager
def reading(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show progress on stderr: a bar on a terminal once it takes a second, else a line per thousand."""
    import click

    from mihack.terminal import plain

    started = time.monotonic()

    with contextlib.ExitStack() as stack:
        bars: list[Any] = []

        def progress(done: int, total: int) -> None:
            watched = sys.stderr.isatty() and not plain()
            if total < MANY and (not watched or time.monotonic() - started < SOON):
                return
            if not watched:
                if done % MANY == 0 or done == total:
                    click.echo(f"{what}: {done} of {total} files", err=True)
                return
            if not bars:
                bar = click.progressbar(length=total, label=what, file=sys.stderr, show_pos=True)
                bars.append(stack.enter_context(bar))
            bars[0].update(done - bars[0].pos)

        yield progress


def _keep(kept: Path, data: dict[str, Any]) -> None:
    """Write through a temporary file, so that nobody ever reads half of one."""
    import tempfile  # with what it imports, a tenth of the time that `list` takes

    kept.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=kept.parent, prefix="writing-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(data, file)
        os.replace(temporary, kept)  # noqa: PTH105
    except BaseException:
        os.unlink(temporary)  # noqa: PTH108
        raise


def _forget(folder: Path, pattern: str, kept: int) -> None:
    """Keep the newest files only."""
    files = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime)
    for old in files[:-kept]:
        old.unlink(missing_ok=True)
