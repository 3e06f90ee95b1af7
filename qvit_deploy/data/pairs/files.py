"""Opens pairs of images from files (two pictures, a folder or an `.npz`) and checks all of them before a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qvit_deploy.data.folder import Listing, list_folder
from qvit_deploy.data.images import ImageSet
from qvit_deploy.data.npz import read_pair_npz
from qvit_deploy.data.pairs.make import ImagePair, compare_images
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError

ROLES = ("clean", "corrupt")


@dataclass(frozen=True, eq=False)
class PairSet:
    """N pairs with their preprocessing. Files are decoded when a pair is asked for and then forgotten.

    Attributes:
        clean, corrupt: the N pictures of each role, in the same order.
        names: of the pairs.
        patch: pixels that a token spans along each side.
    """

    clean: ImageSet
    corrupt: ImageSet
    names: tuple[str, ...]
    patch: int

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[ImagePair]:
        """Yields the pairs in order.

        Raises:
            InputError: an image is corrupt, or the two of a pair differ in size or do not differ at all.
        """
        for i, name in enumerate(self.names):
            first, second = self.clean.picture(i), self.corrupt.picture(i)
            if first.shape[:2] != second.shape[:2]:
                (h, w), (other_h, other_w) = first.shape[:2], second.shape[:2]
                raise InputError(
                    f"pair {name}: the clean image is {w}x{h} pixels, the corrupt one {other_w}x{other_h}; tokens line "
                    "up only between images of one size, so crop or resize one to the other"
                )
            clean, corrupt = self.clean.preprocess.apply(first), self.corrupt.preprocess.apply(second)
            comparison = compare_images(clean, corrupt, self.patch)
            if not comparison.changed:
                raise InputError(
                    f"pair {name}: clean and corrupt are identical as the model sees them, so patching one into the "
                    "other does nothing; remove the pair or change one image inside the centre crop"
                )
            labels = (None if s.labels is None else int(s.labels[i]) for s in (self.clean, self.corrupt))
            yield ImagePair(
                name, clean, corrupt, comparison.kind, comparison.changed_tokens, comparison.warnings, *labels
            )


def open_pair(clean: Path, corrupt: Path, preprocess: Preprocess, patch: int) -> PairSet:
    """Opens the pair of two image files. Raises InputError as `open_pairs` does."""
    return _from_files(((clean, corrupt),), (f"{clean.name} / {corrupt.name}",), preprocess, patch)


def open_pairs(path: Path, preprocess: Preprocess, patch: int) -> PairSet:
    """Opens pairs and checks every one of them once.

    Args:
        path: an `.npz` with uint8 `clean` and `corrupt`, [N, H, W] or [N, H, W, 3], and perhaps integer `labels` and
            `corrupt_labels` [N]; or a folder with `clean/NAME.*` and `corrupt/NAME.*`, or with `NAME.clean.*` and
            `NAME.corrupt.*`.

    Raises:
        InputError: there is no such file or folder, a picture cannot be read or has no partner, the two pictures of a
            pair differ in size or are identical as the model sees them, or the input is not made of whole patches.
    """
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        raise InputError(f"pairs of images {str(path)[:200]} cannot be opened: {error.strerror}") from None
    if is_file and path.suffix.lower() == ".npz":
        sides = read_pair_npz(path)
        names = tuple(f"{path.name}[{i}]" for i in range(len(sides[0].images)))
        clean, corrupt = (ImageSet(side.images, names, preprocess, side.labels) for side in sides)
        return _checked(PairSet(clean, corrupt, names, patch))
    if not is_folder:
        raise InputError(f"{path} is neither a folder of pairs nor an .npz file with 'clean' and 'corrupt'")
    by_role = _by_folder(path) if all((path / role).is_dir() for role in ROLES) else _by_suffix(path)
    clean_files, corrupt_files = (by_role[role] for role in ROLES)
    unpaired = sorted(clean_files.keys() ^ corrupt_files.keys())
    if unpaired:
        shown = ", ".join(unpaired[:3]) + (f" and {len(unpaired) - 3} more" if len(unpaired) > 3 else "")
        raise InputError(f"{path}: every pair needs a clean and a corrupt image; one is missing for {shown}")
    names = tuple(clean_files)
    return _from_files(tuple((clean_files[n], corrupt_files[n]) for n in names), names, preprocess, patch)


def _by_folder(root: Path) -> dict[str, dict[str, Path]]:
    """Maps role -> name -> file, from the folders `clean` and `corrupt`."""
    by_role: dict[str, dict[str, Path]] = {role: {} for role in ROLES}
    for role in ROLES:
        folder = root / role
        if folder.is_symlink():
            raise InputError(f"{folder} is a symbolic link to a folder, which is not followed")
        for path in _flat(list_folder(folder), folder):
            _add(by_role[role], path.stem, path)
    return by_role


def _by_suffix(root: Path) -> dict[str, dict[str, Path]]:
    """Maps role -> name -> file, from files called `NAME.ROLE.*`."""
    by_role: dict[str, dict[str, Path]] = {role: {} for role in ROLES}
    for path in _flat(list_folder(root), root):
        name, _, role = path.stem.rpartition(".")
        if not name or role not in ROLES:
            raise InputError(
                f"{path} is not part of a pair: name pairs NAME.clean.png and NAME.corrupt.png, or put them into "
                "folders called clean and corrupt"
            )
        _add(by_role[role], name, path)
    return by_role


def _flat(listing: Listing, root: Path) -> tuple[Path, ...]:
    if listing.refused:
        name, reason = listing.refused[0]
        raise InputError(f"image {root / name} cannot be used: {reason}")
    if listing.labels is not None:
        raise InputError(
            f"{root} holds folders of images; pairs lie directly in it as NAME.clean.png and NAME.corrupt.png, or in "
            "two folders called clean and corrupt"
        )
    return listing.paths


def _add(files: dict[str, Path], name: str, path: Path) -> None:
    if name in files:
        raise InputError(f"{files[name]} and {path} are both the same image of pair {name}; remove one")
    files[name] = path


def _from_files(
    files: tuple[tuple[Path, Path], ...], names: tuple[str, ...], preprocess: Preprocess, patch: int
) -> PairSet:
    clean, corrupt = (
        ImageSet(tuple(pair[k] for pair in files), tuple(str(pair[k]) for pair in files), preprocess) for k in (0, 1)
    )
    return _checked(PairSet(clean, corrupt, names, patch))


def _checked(pairs: PairSet) -> PairSet:
    """Decodes each pair once, so that a run over hundreds of them cannot fail at the last one."""
    for _ in pairs:
        pass
    return pairs
