"""Reads and writes bundles, the folders that compiles write: atomically, and with digests checked on reading."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvit_deploy.artifacts.atomic import sync, whole_folder
from qvit_deploy.artifacts.manifest import (
    DIGEST,
    MANIFEST,
    SCHEMA,
    FileRecord,
    Manifest,
    SiteRecord,
    Summary,
    check_name,
    digest,
    validate,
)
from qvit_deploy.errors import BundleError, InputError
from qvit_deploy.validation import non_finite, parse_json

__all__ = ["Bundle", "FileRecord", "Manifest", "SiteRecord", "Summary", "check_output", "read_bundle", "write_bundle"]


_ANY_VERSION = SCHEMA.rpartition("/")[0] + "/"
# Later commands add files in these folders; the manifest, which the compile wrote, does not list them.
ENGINES, MEASUREMENTS = "engines", "measurements"
_OURS = "qvit-deploy/"
"""What every schema of ours begins with."""


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk: its folder and its manifest."""

    root: Path
    manifest: Manifest

    def path_of(self, name: str) -> Path:
        """Returns the path of a file that the manifest lists. Raises BundleError naming the files there are."""
        if name not in self.manifest.files:
            listed = ", ".join(sorted(self.manifest.files)) or "no files"
            why = "".join(
                f"; the compile left {target} out: {reason}" for target, reason in self.manifest.left_out.items()
            )
            raise BundleError(f"bundle {self.root} has no file {name!r} (it has {listed}){why}")
        return self.root / name


def check_output(out: Path, force: bool) -> None:
    """Raises InputError if `write_bundle` would refuse `out`, so that a long compile fails early. Changes nothing."""
    out = Path(out).resolve()
    if os.path.lexists(out):
        if not force:
            raise InputError(f"{out} exists; choose another output or pass --force to replace it")
        _check_replaceable(out)
    ancestor = next(p for p in out.parents if os.path.lexists(p))
    if not ancestor.is_dir():
        raise InputError(f"{out} cannot be created: {ancestor} is not a folder")
    if not os.access(ancestor, os.W_OK | os.X_OK):
        raise InputError(f"{out} cannot be created: no permission to write in {ancestor}")


def write_bundle(
    out: Path,
    *,
    manifest: Manifest | Mapping[str, Any],
    files: Mapping[str, bytes | Path],
    force: bool,
) -> Bundle:
    """Writes the bundle `out`: all of it, or nothing.

    Args:
        manifest: without its `files`, which this function fills in with the digests.
        files: name inside the bundle -> content, or a file to copy.
        force: whether to replace an existing bundle, which stays if anything fails. Its measurements are handed on to
            the new one: each says by digests which file it is of, and history is not for a compile to delete.

    Raises:
        InputError: `out` is refused or cannot be written.
        BundleError: a name or the manifest is not valid.
    """
    out = Path(out).resolve()
    for name in files:
        check_name(name)
    check_output(out, force)
    with whole_folder(out, lambda: check_output(out, force)) as folder:
        records = {name: _write(folder, name, files[name]) for name in sorted(files)}
        base = manifest.model_dump(by_alias=True) if isinstance(manifest, Manifest) else dict(manifest)
        complete = validate({**base, "files": records}, "the manifest to write")
        _write(folder, MANIFEST, complete.to_json())
        if (history := out / MEASUREMENTS).is_dir():
            shutil.copytree(history, folder / MEASUREMENTS)
    return Bundle(out, complete)


def read_bundle(path: Path, verify: bool = True) -> Bundle:
    """Reads the bundle at `path`, and with `verify` checks every file's size and SHA-256. Raises BundleError."""
    root = Path(path)
    if not root.is_dir():
        raise BundleError(f"no bundle at {root}: " + ("it is a file" if root.exists() else "no such folder"))
    tree = _load_manifest(root)
    schema = tree.get("schema")
    if schema != SCHEMA:
        other_version = isinstance(schema, str) and schema.startswith(_ANY_VERSION)
        hint = "compile it again with this version" if other_version else "it was not written by qvit-deploy"
        raise BundleError(f"bundle {root} has schema {schema!r}, this version reads {SCHEMA!r}; {hint}")
    manifest = validate({key: value for key, value in tree.items() if key != DIGEST}, str(root / MANIFEST))
    _require_unchanged(root, tree)
    if verify:
        for name, record in manifest.files.items():
            _verify(root, name, record)
    return Bundle(root, manifest)


def _load_manifest(root: Path) -> dict[str, Any]:
    try:
        tree = parse_json((root / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise BundleError(f"{root} is not a bundle: it has no {MANIFEST}") from None
    except OSError as error:
        raise BundleError(f"{root / MANIFEST} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise BundleError(f"{root / MANIFEST} is damaged: it {error}; compile the bundle again") from None
    if not isinstance(tree, dict):
        raise BundleError(f"{root / MANIFEST} is damaged: it is not a JSON object; compile the bundle again")
    if where := non_finite(tree):
        raise BundleError(f"{root / MANIFEST} is damaged: {where} is not finite; compile the bundle again")
    return tree


def _require_unchanged(root: Path, tree: Mapping[str, Any]) -> None:
    if tree.get(DIGEST, digest(tree)) != digest(tree):
        raise BundleError(f"{root / MANIFEST} was modified or damaged (its digest differs); compile the bundle again")


def _verify(root: Path, name: str, record: FileRecord) -> None:
    path = root / name
    if not path.is_file():
        raise BundleError(f"bundle {root} lacks its file {name}; copy or compile it again")
    if not path.resolve().is_relative_to(root.resolve()):
        raise BundleError(f"bundle {root}: {name} is a symbolic link that leaves the bundle")
    try:
        actual = FileRecord.of_file(path)
    except OSError as error:
        raise BundleError(f"bundle {root}: {name} cannot be read: {error.strerror}") from None
    if actual != record:
        raise BundleError(f"bundle {root}: {name} was modified or damaged (its SHA-256 differs); compile it again")


def _write(root: Path, name: str, content: bytes | Path) -> FileRecord:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as target:
        if isinstance(content, Path):
            record = FileRecord.of_file(content, copy=target)
        else:
            target.write(content)
            record = FileRecord.of(content)
    sync(path)
    return record


def _check_replaceable(out: Path) -> None:
    """Raises InputError unless `out` is empty, or a bundle in which everything is ours: replacing it removes all of it.

    Ours is what the manifest lists with its digest, an engine that is as its record says, and any JSON of our schemas.
    """
    if not out.is_dir():
        raise InputError(f"{out} exists and is not a folder; remove it or choose another output")
    if Path.cwd().is_relative_to(out):
        raise InputError(f"{out} is, or contains, the current folder; run from elsewhere or choose another output")
    present = [p.relative_to(out).as_posix() for p in sorted(out.rglob("*")) if p.is_symlink() or not p.is_dir()]
    if not present and not any(out.iterdir()):
        return
    try:
        tree = _load_manifest(out)
    except BundleError:
        tree = {}
    listed = tree.get("files")
    if not str(tree.get("schema")).startswith(_ANY_VERSION) or not isinstance(listed, dict):
        raise InputError(f"{out} is not a bundle, so --force will not replace it; remove it or choose another output")
    if tree["schema"] == SCHEMA:
        _require_unchanged(out, tree)
    foreign = [name for name in present if name not in listed and name != MANIFEST and not _is_ours(out, name)]
    if foreign:
        raise InputError(f"{out} holds {foreign[0]}, which no bundle has; move it away before using --force")
    empty = [p.relative_to(out).as_posix() for p in sorted(out.rglob("*")) if p.is_dir() and not any(p.iterdir())]
    if strange := [name for name in empty if name not in (ENGINES, MEASUREMENTS)]:
        raise InputError(f"{out} holds the folder {strange[0]}, which no bundle has; move it away before using --force")
    if changed := [name for name in present if name in listed and not _is_as_listed(out / name, listed[name])]:
        raise InputError(f"{out / changed[0]} was changed since it was written; move it away before using --force")


def _is_ours(out: Path, name: str) -> bool:
    """Returns whether a later command has put this file into the bundle."""
    place, folder = out / name, name.rpartition("/")[0]
    if place.is_symlink() or folder not in (ENGINES, MEASUREMENTS):
        return False
    if place.suffix == ".json":
        return _schema(place).startswith(_OURS)
    record = place.with_suffix(".json")
    if folder != ENGINES or not _schema(record).startswith(_OURS):
        return False
    return _is_as_listed(place, parse_json(record.read_bytes()).get("engine"))


def _schema(path: Path) -> str:
    try:
        tree = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return ""
    return str(tree.get("schema")) if isinstance(tree, dict) else ""


def _is_as_listed(path: Path, record: object) -> bool:
    return path.is_file() and FileRecord.of_file(path).model_dump() == record
