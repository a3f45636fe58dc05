"""Descriptors as scriptable torch modules: the same code makes training data and runs inside the bias.

A specification lists what to measure, one kind an entry, as it stands in a protocol::

    [{"torsions": "phi psi"}, {"distances": {"between": "name CA", "skip": 3}}]

`Features` finds the atoms with MDTraj, names every column, and builds one `torch.nn.Module` a kind of descriptor.
A further kind is one subclass of `_Descriptor` and one line in `_DESCRIPTORS`.

What the modules promise

- float32 and float64, one frame (n, 3) or any number of leading dimensions; `torch.jit.script`, `torch.jit.freeze` and
  `torch.fx.experimental.proxy_tensor.make_fx` take them, for no branch depends on a value.
- Few operations: inside a simulation step dispatch costs more than arithmetic. All differences of positions are one
  product with a constant incidence matrix (rows of -1, +1 and 0, so nothing is rounded that subtraction would not,
  unless somebody switches on TF32 products on a GPU, which torch leaves off).
- Finite gradients everywhere. Two coincident atoms have a distance of zero with gradient zero; where three atoms of a
  torsion lie on a line, sine and cosine go smoothly to zero together (see `_Torsions`).
- With a box each difference is replaced by its shortest periodic image (see `minimum_image` for what is guaranteed).
"""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import Annotated, Any, NamedTuple

import mdtraj
import numpy as np
import torch
from mdtraj.geometry import dihedral
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from latf_sampling.errors import DataError, SettingsError

TORSIONS = {
    "phi": dihedral.indices_phi,
    "psi": dihedral.indices_psi,
    "omega": dihedral.indices_omega,
    "chi1": dihedral.indices_chi1,
    "chi2": dihedral.indices_chi2,
    "chi3": dihedral.indices_chi3,
    "chi4": dihedral.indices_chi4,
}
"""Torsions known by name, and the function of a topology that gives their atoms (torsions, 4)."""

_CHUNK_BYTES = 64 * 2**20  # what `Features.transform` may use for intermediate arrays
_DENSE_ENTRIES = 2**22  # above this many entries of the incidence matrix, gathering is faster than multiplying
_STRAIGHT = 1e-16  # nm^8; squared length of (sine, cosine) before normalisation where a torsion ceases to be defined


# ---------------------------------------------------------------------------------------------------- topologies


def as_mdtraj(topology: Any) -> mdtraj.Topology:
    """Give any topology as an MDTraj one.

    Parameters
    ----------
    topology
        An ``mdtraj.Topology``, returned as it is, or an ``openmm.app.Topology``, converted.

    Raises
    ------
    SettingsError
        It is neither.

    Examples
    --------
    >>> as_mdtraj(mdtraj.Topology().to_openmm()).n_atoms
    0
    """
    if isinstance(topology, mdtraj.Topology):
        return topology
    from openmm import app

    if not isinstance(topology, app.Topology):
        raise SettingsError(
            f"topology: need an mdtraj.Topology or an openmm.app.Topology, got {type(topology).__name__}."
        )
    return mdtraj.Topology.from_openmm(topology)


def fingerprint(topology: Any) -> str:
    """Digest what makes two topologies describe the same atoms in the same order.

    Names and elements of the atoms, names and order of the residues and the number of chains count. Bonds, residue
    numbers and chain names do not, since readers of one and the same file disagree about them.

    Parameters
    ----------
    topology
        An ``mdtraj.Topology`` or an ``openmm.app.Topology``.

    Returns
    -------
    str
        SHA-256 in hexadecimal; the same for an MDTraj topology and the OpenMM one it was made from or turned into.

    Examples
    --------
    >>> fingerprint(mdtraj.Topology()) == fingerprint(mdtraj.Topology().to_openmm())
    True
    """
    topology = as_mdtraj(topology)
    return _digest(_atom_lines(topology), topology.n_chains)


def _atom_lines(topology: mdtraj.Topology) -> tuple[str, ...]:
    """Name, element ("VS" for a virtual site), residue name and residue index of every atom."""
    return tuple(
        f"{a.name} {a.element.symbol if a.element is not None else 'VS'} {a.residue.name} {a.residue.index}"
        for a in topology.atoms
    )


def _digest(lines: Sequence[str], chains: int) -> str:
    return hashlib.sha256("\n".join((f"{chains} chains", *lines)).encode()).hexdigest()


class _Labels:
    """Readable and unambiguous names of residues ("ALA 2") and atoms ("ALA2-CB").

    Where two residues share name and number, ":" and the index of the chain follows, or, where even that is shared,
    "#" and the index of the residue; where two atoms of a residue share a name, the atom's index in brackets.
    """

    def __init__(self, topology: mdtraj.Topology):
        self.topology = topology
        short = Counter((r.name, r.resSeq) for r in topology.residues)
        full = Counter((r.name, r.resSeq, r.chain.index) for r in topology.residues)
        self._numbers = []
        for r in topology.residues:
            tag = "" if short[r.name, r.resSeq] == 1 else f":{r.chain.index}"
            if full[r.name, r.resSeq, r.chain.index] > 1:
                tag = f"#{r.index}"
            self._numbers.append(f"{r.resSeq}{tag}")
        self._names = Counter((a.residue.index, a.name) for a in topology.atoms)

    def residue(self, atom: int) -> str:
        residue = self.topology.atom(int(atom)).residue
        return f"{residue.name} {self._numbers[residue.index]}"

    def atom(self, index: int) -> str:
        atom = self.topology.atom(int(index))
        same = self._names[atom.residue.index, atom.name] > 1
        number = self._numbers[atom.residue.index]
        return f"{atom.residue.name}{number}-{atom.name}{f'[{atom.index}]' if same else ''}"


# ----------------------------------------------------------------------------------------------------- modules


def reduced_box(box: torch.Tensor) -> torch.Tensor:
    """Bring box vectors (rows, lower triangular) into OpenMM's reduced form; the lattice stays the same.

    Parameters
    ----------
    box : torch.Tensor, shape (..., 3, 3)
        Box vectors a, b, c as rows, nm; a along x, b in the xy plane.

    Returns
    -------
    torch.Tensor, shape (..., 3, 3)
        As before, with abs(b_x) and abs(c_x) at most a_x / 2 and abs(c_y) at most b_y / 2.

    Examples
    --------
    >>> reduced_box(torch.tensor([[2.0, 0.0, 0.0], [3.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))[1]
    tensor([-1.,  1.,  0.])
    """
    a, b, c = box.unbind(-2)
    c = c - b * torch.round(c[..., 1:2] / b[..., 1:2])
    c = c - a * torch.round(c[..., 0:1] / a[..., 0:1])
    b = b - a * torch.round(b[..., 0:1] / a[..., 0:1])
    return torch.stack([a, b, c], -2)


def minimum_image(vectors: torch.Tensor, box: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Replace each vector by the shortest of its periodic images.

    The vector is first wrapped along c, b and a in turn, which leaves it inside a brick of the three box heights; the
    shortest of its 27 images there is the answer. For a box in OpenMM's reduced form (a, b and c are its rows) it is

    - exact for every vector if the box is rectangular, or if 8 c_z^2 >= a_x^2 + b_y^2 and 3 b_y^2 >= a_x^2, which
      holds for cubes, rhombic dodecahedra, truncated octahedra and hexagonal prisms that are not very flat;
    - exact in any box for every vector whose shortest image is not longer than half of min(a_x, b_y, c_z), the
      largest cut-off that OpenMM allows;
    - otherwise the shortest of the 27, as in MDTraj; in a very flat and skewed box it need not be the shortest of all.

    Which image it is counts as constant: the gradient with respect to ``vectors`` is the identity, without a trace of
    the search in the graph, and with respect to ``box`` that of the lattice vector subtracted.

    Parameters
    ----------
    vectors : torch.Tensor, shape (..., v, 3)
        Differences of positions, nm.
    box : torch.Tensor, shape (3, 3) or (..., 3, 3)
        Box vectors as rows, nm, in reduced form (OpenMM's always are; see `reduced_box`).
    images : torch.Tensor, shape (27, 3)
        The numbers of box vectors to try, those of no shift first; `Features` keeps it as a buffer.

    Returns
    -------
    torch.Tensor, shape (..., v, 3)
    """
    free, cell = vectors.detach(), box.detach()
    c = torch.round(free[..., 2:3] / cell[..., 2:3, 2:3])
    free = free - c * cell[..., 2:3, :]
    b = torch.round(free[..., 1:2] / cell[..., 1:2, 1:2])
    free = free - b * cell[..., 1:2, :]
    a = torch.round(free[..., 0:1] / cell[..., 0:1, 0:1])
    free = free - a * cell[..., 0:1, :]
    # |free - shift|^2 without |free|^2, which all images share
    shifts = torch.matmul(images, cell)
    score = (shifts * shifts).sum(-1).unsqueeze(-2) - 2.0 * torch.matmul(free, shifts.transpose(-1, -2))
    counts = torch.cat([a, b, c], -1) + images[torch.argmin(score, -1)]
    return vectors - torch.matmul(counts, box)


class _Differences(torch.nn.Module):
    """Differences ``positions[second] - positions[first]`` (..., rows, 3), shortest images if there is a box."""

    def __init__(self, first: Sequence[int], second: Sequence[int], n_atoms: int):
        super().__init__()
        rows = len(first)
        self.rows = rows
        self.dense: bool = rows * n_atoms <= _DENSE_ENTRIES
        matrix = torch.zeros(rows if self.dense else 0, n_atoms)
        if self.dense:
            matrix[torch.arange(rows), torch.as_tensor(first)] = -1.0
            matrix[torch.arange(rows), torch.as_tensor(second)] = 1.0
        images = sorted(product((-1.0, 0.0, 1.0), repeat=3), key=lambda n: sum(map(abs, n)))
        self.register_buffer("matrix", matrix)
        self.register_buffer("first", torch.as_tensor(first, dtype=torch.int64))
        self.register_buffer("second", torch.as_tensor(second, dtype=torch.int64))
        self.register_buffer("images", torch.tensor(images))

    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        if self.dense:
            vectors = torch.matmul(self.matrix, positions)
        else:
            vectors = positions.index_select(-2, self.second) - positions.index_select(-2, self.first)
        if box is not None:
            vectors = minimum_image(vectors, box, self.images)
        return vectors


class _Distances(torch.nn.Module):
    """Distances, nm, (..., n, 3) -> (..., pairs); at coincident atoms the gradient is zero, not NaN."""

    def __init__(self, pairs: np.ndarray, n_atoms: int):
        super().__init__()
        self.differences = _Differences(pairs[:, 0], pairs[:, 1], n_atoms)

    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        return torch.linalg.vector_norm(self.differences(positions, box), dim=-1)


class _Torsions(torch.nn.Module):
    """Sines of all torsions, then their cosines, (..., n, 3) -> (..., 2 * torsions).

    With bond vectors b1, b2, b3 and m = b1 x b2, the pair (|b2| m . b3, (m x b2) . b3) points along (sin, cos) and is
    divided by its length L; no arctangent, no angle that jumps by 2 pi. Sign as in IUPAC: cis is 0. Torsions and their
    derivatives without spurious poles: Blondel and Karplus, J. Comput. Chem. 17, 1132 (1996),
    doi:10.1002/(SICI)1096-987X(19960715)17:9<1132::AID-JCC5>3.0.CO;2-T

    L = |b1| |b2|^2 |b3| times the sines of the two bond angles; a torsion has no value where it is zero. Dividing by
    sqrt(L^2 + 1e-16 nm^8) keeps value and gradient finite there. Of a torsion of ordinary bonds this takes less than
    1e-9; sine and cosine start to shrink where a bond angle is within some thousandths of a degree of straight.
    """

    def __init__(self, quadruples: np.ndarray, n_atoms: int):
        super().__init__()
        i, j, k, l = quadruples.T  # noqa: E741
        # b3 twice, for the sine and for the cosine
        self.differences = _Differences(np.concatenate([i, j, k, k]), np.concatenate([j, k, l, l]), n_atoms)
        self.count = len(quadruples)
        self.straight = _STRAIGHT

    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        bonds = self.differences(positions, box)
        b1, b2, b3 = torch.split(bonds, [self.count, self.count, 2 * self.count], -2)
        m = torch.linalg.cross(b1, b2, dim=-1)
        sine = m * torch.linalg.vector_norm(b2, dim=-1, keepdim=True)
        cosine = torch.linalg.cross(m, b2, dim=-1)
        both = (torch.cat([sine, cosine], -2) * b3).sum(-1).unflatten(-1, [2, self.count])
        return (both * torch.rsqrt((both * both).sum(-2, keepdim=True) + self.straight)).flatten(-2)


class _Columns(torch.nn.Module):
    """Several kinds of descriptors side by side, (..., n, 3) -> (..., F)."""

    def __init__(self, kinds: Sequence[torch.nn.Module]):
        super().__init__()
        self.kinds = torch.nn.ModuleList(kinds)

    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        columns: list[torch.Tensor] = []
        for kind in self.kinds:
            columns.append(kind(positions, box))
        return torch.cat(columns, -1)


# --------------------------------------------------------------------------------------------- kinds of descriptors


class _Row(NamedTuple):
    """One torsion, distance, ...: its atoms and what to call it."""

    atoms: tuple[int, ...]
    label: str


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_Index = Annotated[int, Field(strict=True, ge=0)]


class _TorsionAtoms(_Settings):
    atoms: tuple[tuple[_Index, _Index, _Index, _Index], ...] = Field(min_length=1)


class _DistancePairs(_Settings):
    pairs: tuple[tuple[_Index, _Index], ...] = Field(min_length=1)


class _DistanceBetween(_Settings):
    between: str
    and_: str | None = Field(None, alias="and")
    skip: Annotated[int, Field(strict=True, ge=0)] = 0


class _Descriptor(ABC):
    """One kind of descriptor: reads its entries of a specification, names its columns, builds its module."""

    @abstractmethod
    def find(self, value: Any, labels: _Labels, where: str) -> tuple[Any, list[_Row]]:
        """Validate ``value``, found at the key ``where``; give it normalised, and its rows, each once."""

    @abstractmethod
    def columns(self, names: list[str]) -> list[str]:
        """Names of the module's columns, from the labels of all rows of this kind."""

    @abstractmethod
    def module(self, atoms: np.ndarray, n_atoms: int) -> torch.nn.Module:
        """Module for rows of indices (rows, atoms a row) into ``n_atoms`` positions."""


class _TorsionDescriptor(_Descriptor):
    def find(self, value: Any, labels: _Labels, where: str) -> tuple[Any, list[_Row]]:
        if isinstance(value, str):
            return self._by_name(value, labels, where)
        settings = _validated(_TorsionAtoms, value, where, 'write names like "phi psi", or {atoms: [[0, 1, 2, 3]]}')
        rows = {}
        for position, quadruple in enumerate(settings.atoms):
            _check_indices(quadruple, labels.topology.n_atoms, f"{where}.atoms[{position}]")
            atoms = min(quadruple, quadruple[::-1])  # backwards is the same torsion
            rows[atoms] = _Row(atoms, "torsion " + " ".join(labels.atom(a) for a in atoms))
        return settings.model_dump(mode="json"), list(rows.values())

    def _by_name(self, value: str, labels: _Labels, where: str) -> tuple[Any, list[_Row]]:
        names = list(dict.fromkeys(value.split()))
        if not names:
            raise SettingsError(f"{where}: names no torsion; known are {', '.join(TORSIONS)}.")
        rows = []
        for name in names:
            if name not in TORSIONS:
                raise SettingsError(f"{where}: '{name}' is not a torsion; known are {', '.join(TORSIONS)}.")
            found = np.asarray(TORSIONS[name](labels.topology), dtype=np.int64).reshape(-1, 4)
            if not len(found):
                raise SettingsError(f"{where}: '{name}' finds no torsion in this topology.")
            # the second atom of every named torsion lies in the residue that it is named after
            rows += [_Row(tuple(q), f"{name} {labels.residue(q[1])}") for q in found.tolist()]
        return " ".join(names), rows

    def columns(self, names: list[str]) -> list[str]:
        return [f"sin {name}" for name in names] + [f"cos {name}" for name in names]

    def module(self, atoms: np.ndarray, n_atoms: int) -> torch.nn.Module:
        return _Torsions(atoms, n_atoms)


class _DistanceDescriptor(_Descriptor):
    def find(self, value: Any, labels: _Labels, where: str) -> tuple[Any, list[_Row]]:
        topology = labels.topology
        help_ = "write a selection, {between: selection, and: selection, skip: residues}, or {pairs: [[0, 1]]}"
        if isinstance(value, Mapping) and "pairs" in value:
            pairs_settings = _validated(_DistancePairs, value, where, help_)
            for position, pair in enumerate(pairs_settings.pairs):
                _check_indices(pair, topology.n_atoms, f"{where}.pairs[{position}]")
            return pairs_settings.model_dump(mode="json"), self._rows(pairs_settings.pairs, labels)
        key = where if isinstance(value, str) else f"{where}.between"
        settings = _validated(_DistanceBetween, {"between": value} if isinstance(value, str) else value, where, help_)
        first = _select(topology, settings.between, key)
        if settings.and_ is None:
            pairs = list(combinations(first, 2))
        else:
            pairs = [(i, j) for i, j in product(first, _select(topology, settings.and_, f"{where}.and")) if i != j]
        if not pairs:
            raise SettingsError(f"{key}: '{settings.between}' selects one atom only; a distance needs two.")
        residues = [atom.residue.index for atom in topology.atoms]
        pairs = [(i, j) for i, j in pairs if abs(residues[i] - residues[j]) >= settings.skip]
        if not pairs:
            raise SettingsError(f"{where}.skip: no two selected atoms are {settings.skip} or more residues apart.")
        return settings.model_dump(mode="json", by_alias=True, exclude_none=True), self._rows(pairs, labels)

    def _rows(self, pairs: Sequence[tuple[int, int]], labels: _Labels) -> list[_Row]:
        unique = dict.fromkeys((min(pair), max(pair)) for pair in pairs)
        return [_Row(pair, f"distance {labels.atom(pair[0])} {labels.atom(pair[1])}") for pair in unique]

    def columns(self, names: list[str]) -> list[str]:
        return names

    def module(self, atoms: np.ndarray, n_atoms: int) -> torch.nn.Module:
        return _Distances(atoms, n_atoms)


_DESCRIPTORS: dict[str, _Descriptor] = {"torsions": _TorsionDescriptor(), "distances": _DistanceDescriptor()}


def _validated(model: type[_Settings], value: Any, where: str, help_: str) -> Any:
    """Validate one entry; the first thing wrong becomes a SettingsError that names the key."""
    if not isinstance(value, Mapping):
        raise SettingsError(f"{where}: {value!r} cannot be read; {help_}.")
    try:
        return model.model_validate(_plain(value))
    except ValidationError as error:
        first = error.errors()[0]
    key = where + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    if first["type"] == "extra_forbidden":
        raise SettingsError(f"{key}: unknown key; {help_}.")
    if first["type"] == "missing":
        raise SettingsError(f"{key}: is missing; {help_}.")
    raise SettingsError(f"{key}: {first['msg']}, got {first['input']!r}.")


def _plain(value: Any) -> Any:
    """Turn mappings and arrays, which a script may pass, into the dicts and lists of a protocol."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _check_indices(atoms: Sequence[int], n_atoms: int, where: str) -> None:
    outside = [atom for atom in atoms if atom >= n_atoms]
    if outside:
        raise SettingsError(f"{where}: there is no atom {outside[0]}; the topology has atoms 0 to {n_atoms - 1}.")
    if len(set(atoms)) < len(atoms):
        raise SettingsError(f"{where}: {list(atoms)} names an atom twice.")


def _select(topology: mdtraj.Topology, selection: str, where: str) -> list[int]:
    try:
        found = topology.select(selection)
    except Exception as error:  # the parser and the code it generates raise many types
        reason = str(error).partition("\n")[0]
        if len(reason) > 120:
            reason = reason[:120] + " ..."
        raise SettingsError(f"{where}: '{selection}' is not an MDTraj selection ({reason}).") from error
    if not len(found):
        raise SettingsError(f"{where}: '{selection}' selects no atom of this topology.")
    return [int(atom) for atom in found]


# ----------------------------------------------------------------------------------------------------- features


class Features:
    """Descriptors of a molecule: from positions to the columns that a collective variable is learned from.

    Parameters
    ----------
    topology
        An ``mdtraj.Topology`` or an ``openmm.app.Topology``.
    spec
        A list with one entry a kind of descriptor, each a dict of one key:

        ``torsions: "phi psi"``
            Sine and cosine of all torsions of these names: phi, psi, omega, chi1, chi2, chi3, chi4.
        ``torsions: {atoms: [[i, j, k, l], ...]}``
            The same for torsions given by atom indices.
        ``distances: "element != H"``
            Distances, nm, of all pairs of atoms in an MDTraj selection.
        ``distances: {between: selection, and: selection, skip: k}``
            Pairs within a selection, or between two; ``skip`` leaves out pairs whose residues are fewer than k apart.
        ``distances: {pairs: [[i, j], ...]}``
            Pairs given by atom indices.

        Columns are grouped by kind, kinds in the order in which they first appear; sines come before cosines.
    periodic
        Whether `transform` measures shortest periodic images, in the boxes of the trajectory.

    Attributes
    ----------
    names : list of str
        One a column, such as "sin phi ALA 2" or "distance ACE1-CH3 ALA2-CB".
    atoms : numpy.ndarray of int64
        Sorted indices of the atoms that matter.
    n_atoms : int
        Atoms of the topology.
    module : torch.nn.Module
        Scriptable; ``module(positions, box)`` takes positions (..., len(atoms), 3) of `atoms` alone, in that order, nm,
        and a reduced box (see `minimum_image`) or None, and gives (..., F). It is in float32 on the CPU; a copy
        moved with ``.to`` converts as a whole.
    spec : list of dict
        The specification in one normal form, ready for JSON; `Features` reads it again.
    topology_fingerprint : str
        See `fingerprint`.
    periodic : bool
        As given.

    Raises
    ------
    SettingsError
        The specification is wrong (the message names the key), finds nothing, or makes a column twice.

    Examples
    --------
    >>> topology = mdtraj.Topology()
    >>> residue = topology.add_residue("ARG", topology.add_chain(), resSeq=1)
    >>> for name in ("A", "B", "C"):
    ...     _ = topology.add_atom(name, mdtraj.element.argon, residue)
    >>> features = Features(topology, [{"distances": {"between": "name A", "and": "name C"}}])
    >>> features.names, features.atoms
    (['distance ARG1-A ARG1-C'], array([0, 2]))
    >>> features([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.3, 0.0, 0.4]])
    array([0.5])
    """

    def __init__(self, topology: Any, spec: Sequence[Mapping[str, Any]], *, periodic: bool = False):
        topology = as_mdtraj(topology)
        self.n_atoms: int = topology.n_atoms
        self.periodic = bool(periodic)
        self._atom_lines = _atom_lines(topology)
        self.topology_fingerprint = _digest(self._atom_lines, topology.n_chains)

        self.spec, rows = _read(spec, _Labels(topology))
        self.atoms = np.unique([atom for kind in rows.values() for row in kind for atom in row.atoms]).astype(np.int64)
        self.names: list[str] = []
        modules = []
        for kind, found in rows.items():
            self.names += _DESCRIPTORS[kind].columns([row.label for row in found])
            local = np.searchsorted(self.atoms, np.array([row.atoms for row in found]))
            modules.append(_DESCRIPTORS[kind].module(local, len(self.atoms)))
        self.module: torch.nn.Module = modules[0] if len(modules) == 1 else _Columns(modules)
        self._copies: dict[tuple[torch.dtype, torch.device], torch.nn.Module] = {}

    def __repr__(self) -> str:
        return f"<Features: {len(self.names)} columns from {len(self.atoms)} of {self.n_atoms} atoms>"

    def __call__(self, positions: Any, box: Any = None) -> Any:
        """Measure the descriptors.

        Parameters
        ----------
        positions : numpy.ndarray or torch.Tensor, shape (..., N, 3)
            Positions of all atoms of the topology, nm, in float32 or float64. Tensors may be differentiated and may be
            on any device.
        box : numpy.ndarray or torch.Tensor, shape (3, 3) or (..., 3, 3), optional
            Box vectors as rows, nm, a along x and b in the xy plane, as in OpenMM and MDTraj; one for all frames or one
            a frame. They need not be reduced. Given, all differences are shortest periodic images whether or not
            `periodic` is set; None, none are.

        Returns
        -------
        numpy.ndarray or torch.Tensor, shape (..., F)
            Of the type and precision of ``positions``.

        Raises
        ------
        DataError
            A shape, the number of atoms or the precision does not fit, a position is not finite, or a box is not one.
        """
        tensor = isinstance(positions, torch.Tensor)
        x = positions if tensor else _as_array(positions, "positions")
        if x.dtype not in (np.float32, np.float64, torch.float32, torch.float64):
            raise DataError(f"positions: need float32 or float64, got {x.dtype}.")
        if x.ndim < 2 or x.shape[-1] != 3:
            raise DataError(f"positions: need the shape (..., {self.n_atoms}, 3), got {tuple(x.shape)}.")
        if x.shape[-2] != self.n_atoms:
            raise DataError(f"positions: the topology has {self.n_atoms} atoms, the array has {x.shape[-2]}.")
        _check_finite(x, "positions", "atom")
        if tensor:
            chosen = x.index_select(-2, torch.from_numpy(self.atoms).to(x.device))
            return self._evaluate(chosen, box)
        with torch.no_grad():
            return self._evaluate(torch.from_numpy(x[..., self.atoms, :]), box).numpy()

    def _evaluate(self, chosen: torch.Tensor, box: Any) -> torch.Tensor:
        if box is not None:
            box = _as_box(box, chosen)
        module = self.module
        if chosen.dtype != torch.float32 or chosen.device.type != "cpu":
            module = self._copy(chosen.dtype, chosen.device)
        return module(chosen, box)

    def _copy(self, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
        """Give the module in another precision or place; `self.module` itself never moves."""
        if (dtype, device) not in self._copies:
            self._copies[dtype, device] = copy.deepcopy(self.module).to(device=device, dtype=dtype)
        return self._copies[dtype, device]

    def transform(self, traj: mdtraj.Trajectory) -> np.ndarray:
        """Measure the descriptors in every frame of a trajectory, some frames at a time.

        Parameters
        ----------
        traj : mdtraj.Trajectory
            Its topology has to have the fingerprint of the one these features were made for.

        Returns
        -------
        numpy.ndarray of float32, shape (frames, F)
            What ``features(traj.xyz)`` gives, or with ``traj.unitcell_vectors`` as boxes if `periodic`. Besides this
            array, memory for some 64 MiB of intermediate values is used.

        Raises
        ------
        DataError
            It is no trajectory or another molecule's, has no box although `periodic` is set, or a position is not
            finite.
        """
        if not isinstance(traj, mdtraj.Trajectory):
            raise DataError(f"trajectory: need an mdtraj.Trajectory, got {type(traj).__name__}.")
        self._check_topology(traj.topology)
        boxes = traj.unitcell_vectors if self.periodic else None
        if self.periodic and boxes is None:
            raise DataError("trajectory: has no unit cell, but the features are periodic.")
        vectors = sum(part.rows for part in self.module.modules() if isinstance(part, _Differences))
        frame_bytes = 4 * (6 * self.n_atoms + (70 if self.periodic else 15) * vectors)
        chunk = max(1, _CHUNK_BYTES // frame_bytes)
        out = np.empty((traj.n_frames, len(self.names)), dtype=np.float32)
        for start in range(0, traj.n_frames, chunk):
            part = slice(start, start + chunk)
            xyz = np.asarray(traj.xyz[part], dtype=np.float32)
            _check_finite(xyz, "trajectory", "atom", start)
            chosen = torch.from_numpy(xyz[:, self.atoms])
            with torch.no_grad():
                out[part] = self._evaluate(chosen, None if boxes is None else boxes[part]).numpy()
        return out

    def _check_topology(self, topology: Any) -> None:
        if topology.n_atoms != self.n_atoms:
            raise DataError(f"trajectory: has {topology.n_atoms} atoms, the features were made for {self.n_atoms}.")
        lines = _atom_lines(topology)
        for index, (have, need) in enumerate(zip(lines, self._atom_lines, strict=True)):
            if have != need:
                raise DataError(
                    f"trajectory: atom {index} is '{have}' (name, element, residue, residue index), "
                    f"the features were made for '{need}'."
                )
        if _digest(lines, topology.n_chains) != self.topology_fingerprint:
            raise DataError(f"trajectory: its number of chains, {topology.n_chains}, is not the features' topology's.")


def _read(spec: Any, labels: _Labels) -> tuple[list[dict[str, Any]], dict[str, list[_Row]]]:
    """Give the specification in normal form, and the rows found, by kind."""
    if isinstance(spec, (str, Mapping)) or not isinstance(spec, Sequence) or not len(spec):
        raise SettingsError('features: need a list with one or more entries, like [{"torsions": "phi psi"}].')
    plain: list[dict[str, Any]] = []
    rows: dict[str, list[_Row]] = {}
    owners: dict[str, str] = {}
    for index, entry in enumerate(spec):
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise SettingsError(f"features[{index}]: need one kind of descriptor, one of {', '.join(_DESCRIPTORS)}.")
        ((kind, value),) = entry.items()
        where = f"features[{index}].{kind}"
        if kind not in _DESCRIPTORS:
            raise SettingsError(f"{where}: is not a kind of descriptor; known are {', '.join(_DESCRIPTORS)}.")
        normal, found = _DESCRIPTORS[kind].find(value, labels, where)
        for row in found:
            if row.label in owners:
                raise SettingsError(f"{where}: makes '{row.label}', which {owners[row.label]} makes already.")
        owners.update((row.label, where) for row in found)
        plain.append({kind: normal})
        rows.setdefault(kind, []).extend(found)
    return plain, rows


def _as_array(values: Any, what: str) -> np.ndarray:
    if hasattr(values, "value_in_unit"):
        raise DataError(f"{what}: carry a unit; pass plain numbers, {what}.value_in_unit(openmm.unit.nanometer).")
    try:
        return np.asarray(values)
    except ValueError as error:
        raise DataError(f"{what}: are not an array of numbers ({error}).") from error


def _as_box(box: Any, positions: torch.Tensor) -> torch.Tensor:
    """Check a box and reduce it, in double precision; give it in the precision and place of the positions."""
    if not isinstance(box, torch.Tensor):
        array = _as_array(box, "box")
        if array.dtype.kind not in "fiu":
            raise DataError(f"box: need numbers, got {array.dtype}.")
        box = torch.as_tensor(array.astype(np.float64))
    batch = tuple(positions.shape[:-2])
    if tuple(box.shape) not in ((3, 3), (*batch, 3, 3)):
        shapes = "(3, 3)" if not batch else f"(3, 3) or {(*batch, 3, 3)}"
        raise DataError(f"box: need the shape {shapes}, got {tuple(box.shape)}.")
    _check_finite(box, "box", "vector")
    box = box.to(device=positions.device, dtype=torch.float64)
    size = box.diagonal(dim1=-2, dim2=-1)
    above = torch.stack([box[..., 0, 1], box[..., 0, 2], box[..., 1, 2]], -1).abs()
    if bool((size <= 0).any()):
        raise DataError("box: a_x, b_y and c_z have to be positive; vectors are the rows, in nm.")
    if bool((above > 1e-5 * size.amax(-1, keepdim=True)).any()):
        raise DataError("box: vector a has to lie along x and b in the xy plane; rotate box and positions together.")
    return reduced_box(box.tril()).to(positions.dtype)


def _check_finite(values: Any, what: str, row: str, first_frame: int = 0) -> None:
    if isinstance(values, torch.Tensor):
        finite = torch.isfinite(values.detach()).all(-1).cpu().numpy()
    else:
        finite = np.isfinite(values).all(-1)
    if finite.all():
        return
    *frame, index = np.argwhere(~finite)[0].tolist()
    if frame:
        frame[0] += first_frame
    place = f"frame {frame[0] if len(frame) == 1 else tuple(frame)}, " if frame else ""
    raise DataError(f"{what}: {place}{row} {index} is not finite.")
