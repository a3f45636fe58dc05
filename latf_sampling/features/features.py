"""Features: from a specification and a topology to the columns that a collective variable is learned from."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import mdtraj
import numpy as np

from latf_sampling.core import arguments
from latf_sampling.core.notebook import ShownInNotebooks, some
from latf_sampling.errors import DataError, SettingsError
from latf_sampling.features.descriptor import Column
from latf_sampling.features.registry import DESCRIPTORS
from latf_sampling.features.specification import read_specification
from latf_sampling.features.topology import Labels, as_mdtraj, atom_lines, digest

if TYPE_CHECKING:  # columns are named without torch, whose import takes seconds
    import torch
    from torch import Tensor

CHUNK_BYTES = 64 * 2**20
"""Memory that `Features.transform` may use for intermediate arrays."""
_CACHE_BYTES = 8 * 2**20  # used instead if it holds enough frames at a time: about the size of a processor's cache
_CHUNK_FRAMES = 64


class Features(ShownInNotebooks):
    """Descriptors of a molecule: from positions to the columns that a collective variable is learned from.

    Parameters
    ----------
    topology
        An ``mdtraj.Topology`` or an ``openmm.app.Topology``.
    spec
        A list of entries, each a dict whose one key is the kind of descriptor:

        ``torsions: "phi psi"``
            Sine and cosine of all torsions with these names: phi, psi, omega, chi1 to chi5 of proteins; alpha, beta,
            gamma, delta, epsilon, zeta, chi of nucleic acids.
        ``torsions: {names: "phi psi", residues: selection}``
            Those of the residues that have an atom in an MDTraj selection.
        ``torsions: {atoms: [[i, j, k, l], ...]}``
            Torsions given by atom indices.
        ``distances: "element != H"``
            Distances, nm, of all pairs of atoms in an MDTraj selection.
        ``distances: {between: selection, and: selection, skip: k}``
            Pairs within a selection, or between two; ``skip`` omits pairs whose residues are fewer than k apart.
        ``distances: {pairs: [[i, j], ...]}``
            Pairs given by atom indices.
        ``coordinates: selection``
            Cartesian coordinates, nm, for model potentials: they are not invariant to translation and rotation, and
            cannot be periodic.
        ``coordinates: {of: selection, axes: "xy"}``
            Some of the three axes.
        ``coordination: {of: selection, r0: "1.5 nm", n: 6, m: 12}``
            Coordination numbers of identical particles, smallest first, for a typical distance r0 (text with a unit, or
            a float in nm). The even numbers n and m, which are optional, are the exponents of the switching function
            (see `latf_sampling.features.modules.switching`); ``fermi: "0.02 nm"``, the width of the other one, replaces
            them.
        ``coordination: {..., moments: [2, 3], axes: "xy"}``
            Central moments of their distribution as well; distances along some axes only, which cannot be periodic.
        ``angles: selection``
            Cosines of all angles between two bonds of three selected atoms.
        ``angles: {of: selection, at: selection, as: angle}``
            Those whose middle atom is in a second selection; ``as: angle`` gives the angle itself, rad.
        ``angles: {atoms: [[i, j, k], ...], as: cosine}``
            Angles given by atom indices, j in the middle.
        ``pucker: selection``
            Sine and cosine of the phase of pseudorotation, and the amplitude, nm, of the sugars of all nucleotides with
            an atom in a selection (see `latf_sampling.features.modules.pucker.Pucker`).
        ``pucker: {atoms: [[C4', O4', C1', C2', C3'], ...]}``
            Those of rings given by atom indices.
        ``nucleobases: selection``
            G-vectors between the bases of the selected nucleotides, four columns for each ordered pair (see
            `latf_sampling.features.modules.nucleobases.GVectors`).
        ``nucleobases: {between: selection, and: selection, skip: k, cutoff: 2.4}``
            Pairs between two selections, in both orders; ``skip`` as for distances; the cut-off has no unit.
        ``nucleobases: {pairs: [[i, j], ...]}``
            Base j in the frame of base i, both given by the indices of their residues.
        ``ermsd: {of: selection, reference: file, cutoff: 2.4}``
            Distance in G-vectors from a structure in a file, or from several.
        ``coordination: {of: selection, with: selection, r0: "0.5 nm"}``
            One coordination number between two groups.
        ``contacts: {between: selection, and: selection, skip: k, r0: "0.45 nm", n: 6, m: 12}``
            Switched contacts of pairs, 1 for near and 0 for far; ``pairs: [[i, j], ...]`` and ``fermi`` as above;
            ``sum: true`` makes one column.
        ``residue_contacts: {between: selection, and: selection, scheme: closest-heavy, skip: 3, beta: "20 /nm"}``
            Smallest distances between residues, nm, as soft minima, by a scheme of ``mdtraj.compute_contacts``.
        ``native_contacts: {of: selection, reference: file, cutoff: "0.45 nm", beta: "50 /nm", lambda: 1.8, skip: 4}``
            Fraction Q of the contacts of the reference that are formed, or with ``each: true`` every contact.
        ``hydrogen_bonds: backbone``
            Switched distances of amide hydrogens and carbonyl oxygens, three or more residues apart.
        ``hydrogen_bonds: {donors: selection, acceptors: selection, r0: "0.25 nm", skip: 3, sum: false}``
            Those of other atoms; n and m or ``fermi`` as above.
        ``groups: {groups: [selection, ...], center: mass, pairs: all}``
            Distances, nm, between centers of mass, or of ``geometry``, of groups; or ``pairs: [[0, 1], ...]``.
        ``gyration: selection``
            Radius of gyration, nm, by mass, or ``{of: selection, weights: equal}``.
        ``rmsd: {of: selection, reference: file, superpose: selection, weights: equal}``
            Root-mean-square deviation, nm, from one reference or several (a list of files), after the best
            superposition of the same atoms or others.
        ``custom: {file: helix.py, class: Helix, settings: {...}}``
            A class of the user, see `latf_sampling.features.custom.CustomDescriptor`.
        ``columns: [name, ...]``
            A selection of the columns that the entries before it make; it has to be the last entry.

        ``of`` also takes atom indices: ``{atoms: [i, j, ...]}``. Columns are grouped by kind, kinds in the order of
        their first entries; sines come before cosines.
    periodic
        Whether `transform` measures shortest periodic images in the boxes of the trajectory. Not every kind of
        descriptor can be measured in a box.

    Attributes
    ----------
    names : list of str
        Name of every column, such as "sin phi ALA 2" or "distance ACE1-CH3 ALA2-CB".
    units : list of str
        Unit of every column, such as "nm"; empty for a pure number.
    atoms : numpy.ndarray of int64
        Sorted indices of the atoms that the descriptors depend on.
    n_atoms : int
        Number of atoms of the topology.
    module : torch.nn.Module
        A scriptable module; ``module(positions, box)`` takes positions (..., len(atoms), 3) of `atoms` alone, in that
        order, nm, and a reduced box (see `minimum_image`) or None, and returns (..., F). It is in float32 on the CPU;
        a copy may be converted with ``.to``.
    spec : list of dict
        The specification in one normal form, ready for JSON, which `Features` accepts in turn.
    topology_fingerprint : str
        See `fingerprint`.
    periodic : bool
        The argument.

    Raises
    ------
    SettingsError
        The specification is wrong (the message names the key), finds nothing, makes a column twice, or cannot be
        measured in a periodic box although ``periodic`` is set.

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
        self._atom_lines = atom_lines(topology)
        self.topology_fingerprint = digest(self._atom_lines, topology.n_chains)

        self._topology = topology
        specification = read_specification(spec, Labels(topology))
        self.spec, self._nonperiodic = specification.normal_form, specification.nonperiodic
        if self.periodic and self._nonperiodic:
            raise SettingsError(self._nonperiodic)
        terms = specification.terms
        self.atoms = np.unique([atom for kind in terms.values() for term in kind for atom in term.atoms]).astype(
            np.int64
        )
        self._terms = terms
        columns: list[Column] = []
        for kind, members in terms.items():
            columns += DESCRIPTORS[kind].columns(members)
        selected, self._selected = specification.columns, None
        if selected is not None and selected != [column.name for column in columns]:
            index = {column.name: number for number, column in enumerate(columns)}
            self._selected = [index[name] for name in selected]
            columns = [columns[number] for number in self._selected]
        self.names: list[str] = [column.name for column in columns]
        self.units: list[str] = [column.unit for column in columns]
        if "torch" in sys.modules:
            _ = self.module  # at once: a trace in which it was made would record how
        self._copies: dict[tuple[torch.dtype, torch.device], torch.nn.Module] = {}
        self._rectangular: torch.nn.Module | None = None

    @cached_property
    def module(self) -> torch.nn.Module:
        """From positions (..., len(atoms), 3) of `atoms`, nm, and boxes or None to columns (..., F)."""
        from latf_sampling.features.modules.concatenation import SelectColumns, concatenate

        local = {atom: index for index, atom in enumerate(self.atoms.tolist())}
        modules = []
        for kind, members in self._terms.items():
            members = [term._replace(atoms=tuple(local[atom] for atom in term.atoms)) for term in members]
            modules.append(DESCRIPTORS[kind].module(members, len(self.atoms)))
        module = concatenate(modules)
        return module if self._selected is None else SelectColumns(module, self._selected)

    def __repr__(self) -> str:
        return f"<Features: {len(self.names)} columns from {len(self.atoms)} of {self.n_atoms} atoms>"

    def _overview(self) -> list[tuple[str, Any]]:
        kinds = [f"{kind}: {len(members):,}" for kind, members in self._terms.items()]
        columns = [f"{name} / {unit}" if unit else name for name, unit in zip(self.names, self.units)]
        return [("descriptors", kinds), ("columns", some(columns))]

    def __call__(self, positions: Any, box: Any = None) -> Any:
        """Measure the descriptors.

        Parameters
        ----------
        positions : numpy.ndarray, torch.Tensor or openmm.unit.Quantity, shape (..., N, 3)
            Positions of all atoms of the topology, nm, in float32 or float64. Tensors may be differentiated and may be
            on any device.
        box : numpy.ndarray, torch.Tensor or openmm.unit.Quantity, shape (3, 3) or (..., 3, 3), optional
            Box vectors as rows, nm, a along x and b in the xy plane, as in OpenMM and MDTraj; one box for all frames or
            one for each. They need not be reduced. With a box, all differences are shortest periodic images whether or
            not `periodic` is set; without a box, no differences are.

        Returns
        -------
        numpy.ndarray or torch.Tensor, shape (..., F)
            A tensor for a tensor, an array otherwise, in the precision of ``positions``.

        Raises
        ------
        DataError
            The shape, the number of atoms, the precision or the unit does not fit; a position is not finite; the box is
            not valid; or there is a box although one of the descriptors cannot be measured in it.
        """
        import torch
        from torch import Tensor

        from latf_sampling.features.arrays import as_array, check_finite

        x: Any = positions if isinstance(positions, Tensor) else as_array(positions, "positions")
        if x.dtype not in (np.float32, np.float64, torch.float32, torch.float64):
            raise DataError(f"positions: need float32 or float64, got {x.dtype}.")
        if x.ndim < 2 or x.shape[-1] != 3:
            raise DataError(f"positions: need the shape (..., {self.n_atoms}, 3), got {tuple(x.shape)}.")
        if x.shape[-2] != self.n_atoms:
            raise DataError(f"positions: the topology has {self.n_atoms} atoms, the array has {x.shape[-2]}.")
        check_finite(x, "positions", "atom")
        if isinstance(x, Tensor):
            return self._evaluate(x.index_select(-2, torch.from_numpy(self.atoms).to(x.device)), box)
        with torch.no_grad():
            return self._evaluate(torch.from_numpy(x[..., self.atoms, :]), box).numpy()

    def subset(self, columns: Sequence[int] | Sequence[str]) -> Features:
        """Features with some of the columns, without the atoms that only the other columns need.

        Parameters
        ----------
        columns
            Indices or names, each once, in the order of the result.

        Returns
        -------
        Features
            Its `spec` ends with an entry ``columns``, as a protocol may have it.

        Raises
        ------
        SettingsError
            A column does not exist, or is named twice.
        """
        outside = [c for c in columns if not isinstance(c, str) and not 0 <= c < len(self.names)]
        if outside:
            raise SettingsError(f"columns: there is no column {outside[0]}; there are 0 to {len(self.names) - 1}.")
        names = [column if isinstance(column, str) else self.names[column] for column in columns]
        entries = [entry for entry in self.spec if "columns" not in entry]
        return Features(self._topology, [*entries, {"columns": names}], periodic=self.periodic)

    def measure(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        """As a call, from positions (..., len(atoms), 3) of the atoms in `atoms` alone."""
        return self._evaluate(positions, box)

    def _evaluate(self, positions: Tensor, box: Any, module: torch.nn.Module | None = None) -> Tensor:
        """Columns from positions of `atoms`, by the module or a variant of it."""
        import torch

        from latf_sampling.features.arrays import as_box

        if box is not None:
            if self._nonperiodic:
                raise DataError(f"box: {self._nonperiodic}")
            box = as_box(box, positions)
        if module is None:
            module = self.module
            if positions.dtype != torch.float32 or positions.device.type != "cpu":
                module = self._copy(positions.dtype, positions.device)
        return module(positions, box)

    def _copy(self, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
        """The module in another precision or on another device; `self.module` itself is never converted."""
        if (dtype, device) not in self._copies:
            self._copies[dtype, device] = copy.deepcopy(self.module).to(device=device, dtype=dtype)
        return self._copies[dtype, device]

    def _for_rectangular_boxes(self) -> torch.nn.Module:
        """The module without the search for shortest images that triclinic boxes need."""
        from latf_sampling.features.periodic import Differences

        if self._rectangular is None:
            self._rectangular = copy.deepcopy(self.module)
            for part in self._rectangular.modules():
                if isinstance(part, Differences):
                    part.images = part.images[:1]
        return self._rectangular

    def transform(self, traj: mdtraj.Trajectory) -> np.ndarray:
        """Measure the descriptors in every frame of a trajectory, some frames at a time.

        Parameters
        ----------
        traj : mdtraj.Trajectory
            Its topology must have the same fingerprint as the topology of these features.

        Returns
        -------
        numpy.ndarray of float32, shape (frames, F)
            As ``features(traj.xyz)``, with ``traj.unitcell_vectors`` as boxes if `periodic`. Besides this array, about
            64 MiB of memory are used for intermediate values.

        Raises
        ------
        DataError
            ``traj`` is not a trajectory, has another topology, has no box although `periodic` is set, or has a position
            that is not finite.
        """
        import torch

        from latf_sampling.features.arrays import box_vectors, check_finite
        from latf_sampling.features.periodic import frames_contiguous

        if not isinstance(traj, mdtraj.Trajectory):
            raise DataError(
                f"Features.transform: trajectory must be an mdtraj.Trajectory; got {arguments.describe(traj)}. "
                "For an array of positions call the features, features(positions)."
            )
        self._check_topology(traj.topology)
        boxes = box_vectors(traj) if self.periodic else None
        if self.periodic and boxes is None:
            raise DataError("trajectory: has no unit cell, but the features are periodic.")
        if not self.periodic and _is_cut(traj):
            warnings.warn(
                "trajectory: molecules are broken over its unit cell, which is ignored, since the features are not "
                "periodic; make them whole, or take periodic=True.",
                stacklevel=2,
            )
        frame_bytes = 4 * (6 * len(self.atoms) + _intermediate_numbers(self.module, self.periodic))
        chunk = max(1, min(CHUNK_BYTES // frame_bytes, max(_CHUNK_FRAMES, _CACHE_BYTES // frame_bytes)))
        atoms = torch.from_numpy(self.atoms)
        rectangular = boxes is not None and not boxes[:, ~np.eye(3, dtype=bool)].any()
        module = self._for_rectangular_boxes() if rectangular else self.module
        all_positions = np.asarray(traj.xyz)
        out = torch.empty((traj.n_frames, len(self.names)), dtype=torch.float32)
        for start in range(0, traj.n_frames, chunk):
            part = slice(start, start + chunk)
            xyz = np.asarray(all_positions[part], dtype=np.float32)
            check_finite(xyz, "trajectory", "atom", start)
            with torch.no_grad():
                positions = frames_contiguous(torch.from_numpy(xyz).index_select(1, atoms))
                out[part].copy_(self._evaluate(positions, None if boxes is None else boxes[part], module))
        return out.numpy()

    def _check_topology(self, topology: Any) -> None:
        if topology.n_atoms != self.n_atoms:
            raise DataError(f"trajectory: has {topology.n_atoms} atoms, the features were made for {self.n_atoms}.")
        lines = atom_lines(topology)
        for index, (actual, expected) in enumerate(zip(lines, self._atom_lines, strict=True)):
            if actual != expected:
                raise DataError(
                    f"trajectory: atom {index} is '{actual}' (name, element, residue, residue index), "
                    f"the features were made for '{expected}'."
                )
        if digest(lines, topology.n_chains) != self.topology_fingerprint:
            raise DataError(f"trajectory: its number of chains, {topology.n_chains}, is not that of the features.")


def _is_cut(traj: mdtraj.Trajectory) -> bool:
    """Whether a trajectory has a unit cell and bonds across its faces."""
    if traj.topology is None or traj.unitcell_vectors is None or not traj.n_frames:
        return False
    bonds = np.array([[a.index, b.index] for a, b in traj.topology.bonds], int).reshape(-1, 2)
    x, widths = np.asarray(traj.xyz), np.diagonal(np.asarray(traj.unitcell_vectors), axis1=1, axis2=2)
    lengths = np.abs(x[:, bonds[:, 0]] - x[:, bonds[:, 1]]).max((1, 2), initial=0.0)
    return bool(((lengths > 0.4 * widths.min(1)) & (widths.min(1) > 0)).any())


def _intermediate_numbers(module: torch.nn.Module, periodic: bool) -> int:
    """Estimate how many intermediate numbers a frame takes: 15 for each difference of positions, 70 in a box, and in a
    box what images of several molecules take."""
    from latf_sampling.features.modules.concatenation import Concatenation
    from latf_sampling.features.modules.rmsd import RMSD
    from latf_sampling.features.periodic import Differences

    if isinstance(module, Concatenation):  # one kind after the other
        return max(_intermediate_numbers(part, periodic) for part in module.parts)
    differences = sum(part.count for part in module.modules() if isinstance(part, Differences))
    images = sum(part.numbers_in_box for part in module.modules() if isinstance(part, RMSD)) if periodic else 0
    return (70 if periodic else 15) * differences + images
