"""Manifests: what a finished task states, with the SHA-256 of every file that it wrote and of the manifest itself.

A manifest is a JSON file that is written last, so that its existence marks the task as finished. Whoever reads the
files of a task verifies them first: nothing that was cut, edited or exchanged since is taken for a result. A file whose
size and time of modification are those that it had when its SHA-256 was computed is not read again for that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from latf_sampling.core.storage import checksum, read_json, write_json
from latf_sampling.errors import StoreError

DIGEST, FILES, STATS, PROVENANCE = "digest", "files", "stats", "provenance"
"""Keys that a task cannot use itself: the SHA-256 of all but sizes and times, those of the files, their sizes and
times, and where and when the task was done."""


@dataclass(frozen=True)
class Manifest:
    """What a finished task stated, and the checksums of its files.

    Attributes
    ----------
    path : pathlib.Path
        Of the manifest.
    content : dict
        What the task stated.
    files : dict
        SHA-256 of each file by its name relative to the manifest; empty in manifests of versions that had no digests.
    digest : str
        SHA-256 of content and files; empty in manifests of versions that had no digests.
    stats : dict
        Size, bytes, and time of modification, ns, of each file when its SHA-256 was computed, if they were recorded.
    provenance : dict
        Where, when and with what the task was done, see `latf_sampling.core.provenance`; empty where that does not
        matter, and in manifests of versions that did not record it. The same work has another one each time.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "energies.txt").write_text("1.5")
    >>> _ = Manifest.write(folder / "task.json", {"frames": 1}, [folder / "energies.txt"])
    >>> Manifest.load(folder / "task.json").verified().content
    {'frames': 1}
    """

    path: Path
    content: dict[str, Any]
    files: dict[str, str]
    digest: str
    stats: dict[str, Any] = field(default_factory=dict, compare=False)
    provenance: dict[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def write(
        cls,
        path: str | Path,
        content: Mapping[str, Any],
        files: Iterable[Path] = (),
        provenance: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Mark a task as finished, after its files are complete.

        Parameters
        ----------
        path
            Of the manifest.
        content
            What the task states: values that JSON can hold.
        files
            The files that the task wrote, in the folder of the manifest or below.
        provenance
            Where, when and with what the task was done.

        Raises
        ------
        OSError
            A file is missing.
        StoreError
            The manifest cannot be written.
        """
        path = Path(path)
        paths = {file.relative_to(path.parent).as_posix(): file for file in files}
        stats = {name: _stat(file) for name, file in paths.items()}
        sums = {name: checksum(file) for name, file in paths.items()}
        # As it will be read: JSON knows neither tuples nor keys that are numbers.
        known = {FILES: sums, STATS: stats, PROVENANCE: dict(provenance or {})}
        made = cls._from_json(path, {**json.loads(json.dumps(dict(content))), **known})
        manifest = replace(made, digest=made._digest())
        manifest._write()
        return manifest

    @classmethod
    def load(cls, path: str | Path, keys: Sequence[str] = ()) -> Manifest:
        """Read a manifest and verify it; its files are not looked at.

        Parameters
        ----------
        path
            Of the manifest.
        keys
            What it has to state.

        Raises
        ------
        StoreError
            It is missing or damaged, or was changed after it was written.
        """
        manifest = cls.load_unverified(path)
        if manifest.changed:
            raise StoreError(f"{path}: was changed after it was written; its digest is another one.")
        if missing := [key for key in keys if key not in manifest.content]:
            raise StoreError(f"{path}: is damaged; it does not state {', '.join(missing)}.")
        return manifest

    @classmethod
    def load_unverified(cls, path: str | Path) -> Manifest:
        """As `load`, whether it was changed or not.

        Raises
        ------
        StoreError
            It is missing, or not even a manifest.
        """
        content = read_json(path)
        if not (isinstance(content, dict) and isinstance(content.get(FILES, {}), dict)):
            raise StoreError(f"{path}: is damaged; a mapping of keys to values is expected.")
        return cls._from_json(Path(path), content)

    @classmethod
    def _from_json(cls, path: Path, content: dict[str, Any]) -> Manifest:
        own = {key: value for key, value in content.items() if key not in (DIGEST, FILES, STATS, PROVENANCE)}
        stats, provenance = (
            value if isinstance(value, dict) else {} for value in (content.get(STATS), content.get(PROVENANCE))
        )
        return cls(path, own, dict(content.get(FILES, {})), str(content.get(DIGEST, "")), stats, provenance)

    @property
    def changed(self) -> bool:
        """Whether it is not what was written; manifests of versions that had no digests are taken as they are."""
        return bool(self.digest or self.files) and self.digest != self._digest()

    def _digest(self) -> str:
        own = {PROVENANCE: self.provenance} if self.provenance else {}
        return digest({**self.content, **own}, self.files)

    def damaged(self, suffix: str = "", *, full: bool = False) -> list[Path]:
        """The files, with this ending, that are missing or were changed after the task was finished.

        Parameters
        ----------
        suffix
            Ending of the names of the files that are looked at.
        full
            Whether to read files, too, whose size and time of modification have not changed.
        """
        paths = {name: self.path.parent / name for name in self.files if name.endswith(suffix)}
        return [path for name, path in paths.items() if not self._is_intact(name, path, full)]

    def verified(self, suffix: str = "") -> Manifest:
        """This manifest, after a look at its files with this ending.

        Raises
        ------
        StoreError
            A file is missing, or was changed after the task was finished; names it.
        """
        for path in self.damaged(suffix):
            raise StoreError(f"{path}: {self.fault(path)}.")
        return self

    def fault(self, path: Path) -> str:
        """What is wrong with a damaged file."""
        if not path.exists():
            return "is missing"
        match self.stats.get(path.relative_to(self.path.parent).as_posix()), _stat(path):
            case [int(before), _], [now, _] if now < before:
                return f"was changed after it was finished; it has {now:,} of {before:,} bytes"
        return "was changed after it was finished"

    def renewed(self) -> Manifest:
        """This manifest, in which the present sizes and times of its intact files are recorded, as after a copy.

        Raises
        ------
        StoreError
            The manifest cannot be written.
        """
        stats = {name: _stat(self.path.parent / name) for name in self.files}
        if stats == self.stats:
            return self
        manifest = replace(self, stats=stats)
        manifest._write()
        return manifest

    def _write(self) -> None:
        own = {PROVENANCE: self.provenance} if self.provenance else {}
        write_json(self.path, {**self.content, **own, FILES: self.files, STATS: self.stats, DIGEST: self.digest})

    def _is_intact(self, name: str, path: Path, full: bool) -> bool:
        try:
            known = not full and self.stats.get(name) == _stat(path)
        except OSError:
            return False
        return path.is_file() and (known or checksum(path) == self.files[name])


def _stat(path: Path) -> list[int]:
    """Size, bytes, and time of modification, ns, of a file."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def digest(content: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """SHA-256 of what a task states and of the checksums of its files."""
    text = json.dumps({**content, FILES: dict(files)}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
