"""Write a plan to disk: stage it beside the target, then make it appear with one rename.

Kill it at any point, and the target is whole or absent. The one exception is a target that is the
current folder or holds a ``.git``: such a folder must stay the same folder, so it cannot be renamed
over. There the stage lies inside the target and its entries are moved in, ``.mihack.json`` last.
An error or Ctrl-C takes them back; after a SIGKILL the next ``mihack new`` there does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType

from ..errors import MihackError
from . import stage
from .folder import Folder

_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR}


def write(plan: Mapping[str, bytes], target: Path) -> list[str]:
    """Make ``target`` hold exactly ``plan``, or raise MihackError and leave everything as it was.

    Returns the names of stages that earlier, killed runs had left and that were removed.
    """
    parent_path, name = locate(target)
    try:
        with Folder.open(parent_path) as parent, signals_raise():
            swept = stage.sweep(parent)
            if _must_stay(parent, name):
                with parent.sub(name) as inside:
                    swept += stage.sweep(inside)
                    _refuse_content(inside.names(), target)
                    _fill(plan, inside)
            else:
                _appear(plan, parent, name, target)
    except OSError as error:
        raise _explained(error, parent_path, target) from error
    return swept


def locate(target: Path) -> tuple[Path, str]:
    """The parent folder and the name of ``target``; ``.`` and ``..`` become real names."""
    if target.name in {"", ".", ".."}:
        target = Path(os.path.realpath(target))
    if target.name == "":
        raise MihackError("the root of the file system is no place for a repo")
    if not target.parent.is_dir():
        raise MihackError(f"there is no folder {target.parent}", hint="Make it first, or name another place.")
    return target.parent, target.name


def refuse_taken(target: Path) -> None:
    """Raise MihackError now if ``write`` would refuse ``target``."""
    parent_path, name = locate(target)
    with Folder.open(parent_path) as parent:
        status = parent.status(name)
        if status is None:
            return
        if not stat.S_ISDIR(status.st_mode):
            what = "a symlink" if stat.S_ISLNK(status.st_mode) else "no folder"
            raise MihackError(f"{target} exists and is {what}", hint="Name another place.")
        with parent.sub(name) as inside:
            names = inside.names()
        # Only a killed fill leaves a stage inside; write() sweeps it and looks again.
        if not any(entry.startswith(".mihack-") for entry in names):
            _refuse_content(names, target)


def _refuse_content(names: list[str], target: Path) -> None:
    if set(names) - {".git"}:
        listed = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        raise MihackError(
            f"{target} is not empty: it holds {listed}",
            hint="Nothing was changed. Name a folder that does not exist yet.",
        )


def _must_stay(parent: Folder, name: str) -> bool:
    """Whether the target must remain the same folder: it is where we stand, or has a ``.git``."""
    status = parent.status(name)
    if status is None or not stat.S_ISDIR(status.st_mode):
        return False
    with parent.sub(name) as inside:
        names = inside.names()
    here = os.path.samestat(status, Path().stat())
    return here or ".git" in names or any(entry.startswith(".mihack-") for entry in names)


def _appear(plan: Mapping[str, bytes], parent: Folder, name: str, target: Path) -> None:
    """Stage beside the target and rename: the target is absent or empty before, whole after."""
    refuse_taken(target)
    before = parent.status(name)
    staged = stage.new_name()
    with _removed_at_the_end(lambda: stage.remove(parent, staged, plan)):
        stage.build(parent, staged, plan, fills=False)
        with parent.sub(staged) as folder:
            if before is not None:  # an empty folder of the user's: keep its permissions
                (folder.path / stage.REPO).chmod(stat.S_IMODE(before.st_mode))
            _check_same(parent)
            if before is not None and os.name == "nt":
                parent.rmdir(name)  # Windows renames onto nothing, not even an empty folder
            folder.move(stage.REPO, parent, name)
        parent.settle()


def _fill(plan: Mapping[str, bytes], inside: Folder) -> None:
    """Stage inside the target and move each entry in, the one that says 'whole' last."""
    staged = stage.new_name()
    with _removed_at_the_end(lambda: stage.take_back(inside, staged, plan)):
        stage.build(inside, staged, plan, fills=True)
        with inside.sub(staged) as folder, folder.sub(stage.REPO) as repo:
            for entry in sorted(repo.names(), key=lambda entry: entry == stage.WHOLE):
                if repo.is_folder(entry):
                    repo.move(entry, inside, entry)
                else:
                    repo.move_file(entry, inside)
        inside.settle()


def _check_same(parent: Folder) -> None:
    """Refuse if the parent's path leads elsewhere by now: the repo would land out of sight."""
    if parent.descriptor is None:
        return
    if not os.path.samestat(os.fstat(parent.descriptor), parent.path.stat()):
        raise MihackError(f"{parent.path} was replaced while the repo was being made")


@contextlib.contextmanager
def _removed_at_the_end(clean_up: Callable[[], bool]) -> Iterator[None]:
    """Run ``clean_up`` whatever happens, to its end: a second Ctrl-C does not cut it short."""
    try:
        yield
    finally:
        done = False
        while not done:
            with contextlib.suppress(KeyboardInterrupt, SystemExit):
                gone = clean_up()
                done = True
        if not gone:
            raise MihackError(
                "the folder .mihack-... beside or in the target could not be removed",
                hint="Look what is in it, then delete it.",
            )


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """While inside, SIGTERM and SIGHUP raise SystemExit, so that the stage is removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    changed = {number: old for number, old in before.items() if old == signal.SIG_DFL}
    for number in changed:
        signal.signal(number, _leave)
    try:
        yield
    finally:
        for number, old in changed.items():
            signal.signal(number, old)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _explained(error: OSError, parent: Path, target: Path) -> MihackError:
    """The system's error as a message that says what to do. Nothing of ours is left by now."""
    nothing = "Nothing was left behind."
    if error.errno in _FULL:
        return MihackError(
            f"no room to write {target}: {os.strerror(error.errno or 0)}",
            hint=f"{nothing} Free some space (a repo needs under 1 MB), or name another place.",
        )
    if error.errno in _DENIED:
        return MihackError(
            f"not allowed to write in {parent}: {os.strerror(error.errno or 0)}",
            hint=f"{nothing} Name a folder that is yours.",
        )
    if error.errno in _TAKEN:
        return MihackError(
            f"something else made {target} in the meantime",
            hint=f"What it made is untouched. {nothing} Name another place.",
        )
    return MihackError(f"cannot write {target}: {error}", hint=nothing)
