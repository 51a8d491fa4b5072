"""The stage: a private folder beside the target, in which a repo is made before it appears.

    .mihack-<pid>-<random>/      mode 0700
        stage.json               whose it is: process, boot, host; and every file with its hash
        making/                  the repo while it is being made
        repo/                    the same folder once it is whole

A run that is killed leaves its stage. The next run removes it, but only if the marker proves that
mihack made it and that its process is gone; anything else in it stays, and so does the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .folder import Folder, remove_tree, synced, write_tree

MARKER = "stage.json"
REPO = "repo"
_MAKING = "making"
#: The entry that is moved in last: a folder that has it is whole.
WHOLE = ".mihack.json"
_PART = MARKER + ".part"
_NAME = re.compile(r"\.mihack-([0-9]{1,10})-[0-9a-f]{12}")


def new_name() -> str:
    """A name for a stage: ours to recognise, nobody's to guess."""
    return f".mihack-{os.getpid()}-{os.urandom(6).hex()}"


def build(parent: Folder, name: str, plan: Mapping[str, bytes], *, fills: bool) -> None:
    """Make the stage ``name`` and the whole repo in it.

    ``fills`` says that the entries will be moved one by one into ``parent``, which is the target.
    """
    parent.make(name, 0o700)
    with parent.sub(name) as stage:
        # The marker appears whole or not at all, and before anything else.
        marker: list[int] = []
        stage.write(_PART, json.dumps(_marker(plan, fills), indent=1).encode(), marker)
        os.close(marker.pop())
        stage.move(_PART, stage, MARKER)
        stage.make(_MAKING)
        with stage.sub(_MAKING) as repo, synced() as opened:
            write_tree(repo, dict(plan), opened)
        stage.move(_MAKING, stage, REPO)


def remove(parent: Folder, name: str, plan: Mapping[str, bytes]) -> bool:
    """Remove the stage that ``build`` made, or as much of it as there is; whether it is gone."""
    if not parent.is_folder(name):
        return True
    return _remove(parent, name, hashes_of(plan))


def take_back(target: Folder, name: str, plan: Mapping[str, bytes]) -> bool:
    """Remove the stage ``name`` in ``target`` and, unless all was moved in, what was moved in."""
    if not target.is_folder(name):
        return True
    with target.sub(name) as stage:
        _take_back(target, stage, hashes_of(plan))
    return remove(target, name, plan)


def sweep(parent: Folder) -> list[str]:
    """Remove the stages in ``parent`` that are provably ours and stale; their names."""
    swept = []
    for name in parent.names():
        found = _NAME.fullmatch(name)
        if found and parent.is_folder(name) and _mine(parent, name):
            with contextlib.suppress(OSError):
                if _sweep_one(parent, name, int(found[1])):
                    swept.append(name)
    return swept


def hashes_of(plan: Mapping[str, bytes]) -> dict[str, str]:
    """path -> sha256 of its planned content."""
    return {path: hashlib.sha256(content).hexdigest() for path, content in plan.items()}


def _sweep_one(parent: Folder, name: str, pid: int) -> bool:
    with parent.sub(name) as stage:
        marker = _read_marker(stage)
        bare = set(stage.names()) <= {_PART}
    if marker is None:  # killed in the instant before the marker, or after it
        return bare and pid_is_gone(pid) and _remove(parent, name, {})
    if not is_stale(marker):
        return False
    if marker["fills"] and parent.status(WHOLE) is None:
        with parent.sub(name) as stage:
            _take_back(parent, stage, marker["files"])
    return _remove(parent, name, marker["files"])


def _take_back(target: Folder, stage: Folder, hashes: Mapping[str, str]) -> None:
    """Remove from the target what was moved in, unless all was: what the stage no longer holds."""
    if not stage.is_folder(REPO):
        return  # it ended before anything was moved
    with stage.sub(REPO) as repo:
        still = {entry: repo.status(entry) for entry in repo.names()}
    if not still or _is_same(target.status(WHOLE), still.get(WHOLE)):
        return  # all is there: whole
    for entry in {path.split("/")[0] for path in hashes}:
        # A file is linked into the target before it leaves the stage: then both are one file.
        if entry not in still or _is_same(target.status(entry), still[entry]):
            ours = {path: h for path, h in hashes.items() if path.split("/")[0] == entry}
            remove_tree(target, ours, changed_too=False)


def _is_same(one: os.stat_result | None, other: os.stat_result | None) -> bool:
    return one is not None and other is not None and os.path.samestat(one, other)


def _remove(parent: Folder, name: str, hashes: Mapping[str, str]) -> bool:
    with parent.sub(name) as stage:
        for folder in (_MAKING, REPO):
            if stage.is_folder(folder):
                with stage.sub(folder) as repo:
                    remove_tree(repo, dict(hashes), changed_too=True)
                if not stage.rmdir(folder):
                    return False  # it holds something that is not ours
        if set(stage.names()) <= {MARKER, _PART}:
            stage.unlink(_PART)
            stage.unlink(MARKER)
    return parent.rmdir(name)


def _mine(parent: Folder, name: str) -> bool:
    status = parent.status(name)
    return status is not None and (not hasattr(os, "getuid") or status.st_uid == os.getuid())


def _marker(plan: Mapping[str, bytes], fills: bool) -> dict[str, Any]:
    return {
        "what": "A repo that mihack was making. If no mihack is running, delete this folder.",
        "pid": os.getpid(),
        "start": process_start(os.getpid()),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "where": _where(),
        "fills": fills,
        "files": hashes_of(plan),
    }


def _read_marker(stage: Folder) -> dict[str, Any] | None:
    try:
        marker = json.loads(stage.read(MARKER))
        whole = isinstance(marker["files"], dict) and isinstance(marker["pid"], int)
        return marker if whole and {"start", "boot", "where", "fills"} <= set(marker) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_stale(marker: Mapping[str, Any]) -> bool:
    """Whether the process that made the stage is certainly gone. In doubt it is not."""
    if marker["where"] != _where():
        return False  # another machine or container: we cannot know
    if marker["boot"] != _text("/proc/sys/kernel/random/boot_id"):
        return True
    if pid_is_gone(marker["pid"]):
        return True
    return bool(marker["start"]) and marker["start"] != process_start(marker["pid"])


def pid_is_gone(pid: int) -> bool:
    """Whether no process has this number. On Windows we do not ask: signal 0 is Ctrl-C there."""
    if os.name != "posix":
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def process_start(pid: int) -> str:
    """When the process began, in clock ticks since boot (Linux), or nothing: pids are reused."""
    # The name in parentheses may hold anything, so count from its end: field 22 is start time.
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""


def _where() -> str:
    """This machine and, on Linux, this container's numbering of processes."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return f"{socket.gethostname()} {namespace}".strip()


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
