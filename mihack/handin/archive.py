"""The archive: sorted, fixed times, a manifest of hashes; the same files give the same bytes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mihack.errors import MihackError

MANIFEST = "manifest.json"
_WHEN = (1980, 1, 1, 0, 0, 0)


def packed(files: Mapping[str, bytes], about: Mapping[str, Any]) -> bytes:
    """A zip of ``files`` with a manifest: ``about``, and every file's SHA-256."""
    hashes = {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files) if name != MANIFEST}
    manifest = json.dumps({"format": 1, **about, "files": hashes}, indent=2, ensure_ascii=False) + "\n"
    content = {**files, MANIFEST: manifest.encode()}
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name in sorted(content):
            entry = zipfile.ZipInfo(name, _WHEN)
            entry.compress_type, entry.external_attr, entry.create_system = (
                zipfile.ZIP_DEFLATED,
                0o644 << 16,
                3,
            )
            archive.writestr(entry, content[name])
    return made.getvalue()


def check_place(path: Path) -> None:
    """Raise MihackError if an archive may not be written to ``path``: it replaces nothing but an archive."""
    hint = "Give a file that ends in .zip, in a folder that is there: --output ../hand-in.zip"
    if path.suffix.lower() != ".zip":
        raise MihackError(f"the archive is a .zip file, and {path} is not named like one", hint=hint)
    if not path.parent.is_dir():
        raise MihackError(f"there is no folder {path.parent}", hint=hint)
    if path.exists() and not (path.is_file() and zipfile.is_zipfile(path)):
        raise MihackError(f"{path} is there and is no archive: it stays as it is", hint=hint)


def save(content: bytes, path: Path) -> None:
    """Write through a temporary file: an archive is whole or not there."""
    temporary = path.with_name(path.name + ".writing")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException:  # a full disk, Ctrl-C: leave nothing half
        temporary.unlink(missing_ok=True)
        raise
