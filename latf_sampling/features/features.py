"""Features: from a specification and a topology to the columns that a collective variable is learned from."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import mdtraj
import numpy as np
import torch

from latf_sampling.errors import DataError, SettingsError
from latf_sampling.features.angles import AngleDescriptor
from latf_sampling.features.arrays import as_array, as_box, boxes_of, check_finite
from latf_sampling.features.contacts import ContactDescriptor
from latf_sampling.features.coordinates import CoordinateDescriptor
from latf_sampling.features.coordination import CoordinationDescriptor
from latf_sampling.features.custom import CustomDescriptor
from latf_sampling.features.descriptor import Column, Columns, Descriptor, Row, side_by_side
from latf_sampling.features.distances import DistanceDescriptor
from latf_sampling.features.groups import GroupDescriptor
from latf_sampling.features.gyration import GyrationDescriptor
from latf_sampling.features.hydrogen_bonds import HydrogenBondDescriptor
from latf_sampling.features.native_contacts import NativeContactDescriptor
from latf_sampling.features.nucleobases import ErmsdDescriptor, NucleobaseDescriptor
from latf_sampling.features.periodic import Differences, by_frames
from latf_sampling.features.pucker import PuckerDescriptor
from latf_sampling.features.residue_contacts import ResidueContactDescriptor
from latf_sampling.features.rmsd import RMSDDescriptor
from latf_sampling.features.topology import Labels, as_mdtraj, atom_lines, digest
from latf_sampling.features.torsions import TorsionDescriptor

DESCRIPTORS: dict[str, Descriptor] = {
    "torsions": TorsionDescriptor(),
    "distances": DistanceDescriptor(),
    "coordinates": CoordinateDescriptor(),
    "coordination": CoordinationDescriptor(),
    "contacts": ContactDescriptor(),
    "residue_contacts": ResidueContactDescriptor(),
    "native_contacts": NativeContactDescriptor(),
    "hydrogen_bonds": HydrogenBondDescriptor(),
    "groups": GroupDescriptor(),
    "gyration": GyrationDescriptor(),
    "rmsd": RMSDDescriptor(),
    "angles": AngleDescriptor(),
    "pucker": PuckerDescriptor(),
    "nucleobases": NucleobaseDescriptor(),
    "ermsd": ErmsdDescriptor(),
    "custom": CustomDescriptor(),
}
"""Every kind of descriptor, by its name in a specification."""

_CHUNK_BYTES = 64 * 2**20  # what `Features.transform` may use for intermediate arrays
_CACHE_BYTES = 8 * 2**20  # and what it uses if that takes enough frames at a time: about what a cache holds
_CHUNK_FRAMES = 64


class Features:
    """Descriptors of a molecule: from positions to the columns that a collective variable is learned from.

    Parameters
    ----------
    topology
        An ``mdtraj.Topology`` or an ``openmm.app.Topology``.
    spec
        A list with one entry a kind of descriptor, each a dict of one key:

        ``torsions: "phi psi"``
            Sine and cosine of all torsions of these names: phi, psi, omega, chi1 to chi5 of proteins; alpha, beta,
            gamma, delta, epsilon, zeta, chi of nucleic acids.
        ``torsions: {names: "phi psi", residues: selection}``
            Of the residues that have an atom in an MDTraj selection.
        ``torsions: {atoms: [[i, j, k, l], ...]}``
            The same for torsions given by atom indices.
        ``distances: "element != H"``
            Distances, nm, of all pairs of atoms in an MDTraj selection.
        ``distances: {between: selection, and: selection, skip: k}``
            Pairs within a selection, or between two; ``skip`` leaves out pairs whose residues are fewer than k apart.
        ``distances: {pairs: [[i, j], ...]}``
            Pairs given by atom indices.
        ``coordinates: selection``
            Cartesian coordinates, nm, for model potentials: they change when the system is moved or turned, and cannot
            be periodic.
        ``coordinates: {of: selection, axes: "xy"}``
            Some of the three axes.
        ``coordination: {of: selection, r0: "1.5 nm", n: 6, m: 12}``
            Coordination numbers of identical particles, smallest first, for a typical distance r0 as text with its unit
            or a float in nm; n and m, even, are the exponents of the switching function (see
            `latf_sampling.features.switching`) and may be left out, or replaced by ``fermi: "0.02 nm"``, the width of
            the other one.
        ``coordination: {..., moments: [2, 3], axes: "xy"}``
            Central moments of their distribution as well; distances in some of the axes, which cannot be periodic.
        ``angles: selection``
            Cosines of all angles between two bonds of three selected atoms.
        ``angles: {of: selection, at: selection, as: angle}``
            Those in the middle of which is an atom of a second selection; as the angle itself, rad, if asked.
        ``angles: {atoms: [[i, j, k], ...], as: cosine}``
            Angles given by atom indices, j in the middle.
        ``pucker: selection``
            Sine and cosine of the phase of pseudorotation, and the amplitude, nm, of the sugars of all nucleotides that
            have an atom in a selection (see `latf_sampling.features.pucker.Pucker`).
        ``pucker: {atoms: [[C4', O4', C1', C2', C3'], ...]}``
            Of rings given by atom indices.
        ``nucleobases: selection``
            G-vectors between the bases of the selected nucleotides, four columns for each ordered pair (see
            `latf_sampling.features.nucleobases.GVectors`).
        ``nucleobases: {between: selection, and: selection, skip: k, cutoff: 2.4}``
            Pairs between two selections, both ways; ``skip`` as for distances; the cut-off has no unit.
        ``nucleobases: {pairs: [[i, j], ...]}``
            Base j in the frame of base i, given by the indices of their residues.
        ``ermsd: {of: selection, reference: file, cutoff: 2.4}``
            Distance in G-vectors from a structure in a file, or from several.
        ``coordination: {of: selection, with: selection, r0: "0.5 nm"}``
            One coordination number between two groups.
        ``contacts: {between: selection, and: selection, skip: k, r0: "0.45 nm", n: 6, m: 12}``
            Switched contacts of pairs, 1 for near and 0 for far; or ``pairs: [[i, j], ...]``, or ``fermi`` as above,
            and ``sum: true`` for one column.
        ``residue_contacts: {between: selection, and: selection, scheme: closest-heavy, skip: 3, beta: "20 /nm"}``
            Smallest distances between residues, nm, as a soft minimum, by a scheme of MDTraj's ``compute_contacts``.
        ``native_contacts: {of: selection, reference: file, cutoff: "0.45 nm", beta: "50 /nm", lambda: 1.8, skip: 4}``
            Fraction Q of the reference's contacts that are there, or with ``each: true`` every one of them.
        ``hydrogen_bonds: backbone``
            Switched distances of amide hydrogens and carbonyl oxygens, three or more residues apart.
        ``hydrogen_bonds: {donors: selection, acceptors: selection, r0: "0.25 nm", skip: 3, sum: false}``
            The same of other atoms; n and m or ``fermi`` as above.
        ``groups: {groups: [selection, ...], center: mass, pairs: all}``
            Distances, nm, between centres of mass, or of ``geometry``, of groups; or ``pairs: [[0, 1], ...]`` of them.
        ``gyration: selection``
            Radius of gyration, nm, by mass, or ``{of: selection, weights: equal}``.
        ``rmsd: {of: selection, reference: file, superpose: selection, weights: equal}``
            Root-mean-square deviation, nm, from one reference or several (a list of files), superposed in the best way,
            by the same atoms or others.
        ``custom: {file: helix.py, class: Helix, settings: {...}}``
            A class of one's own, see `latf_sampling.features.custom.CustomDescriptor`.
        ``columns: [name, ...]``
            Last of all: of the columns that the entries before it make, these alone.

        ``of`` also takes atom indices: ``{atoms: [i, j, ...]}``. Columns are grouped by kind, kinds in the order in
        which they first appear; sines come before cosines.
    periodic
        Whether `transform` measures shortest periodic images, in the boxes of the trajectory. Not every kind of
        descriptor has them.

    Attributes
    ----------
    names : list of str
        One a column, such as "sin phi ALA 2" or "distance ACE1-CH3 ALA2-CB".
    units : list of str
        One a column, such as "nm"; empty for a pure number.
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
        self.spec, rows, self._aperiodic, wanted = _read(spec, Labels(topology))
        if self.periodic and self._aperiodic:
            raise SettingsError(self._aperiodic)
        self.atoms = np.unique([atom for kind in rows.values() for row in kind for atom in row.atoms]).astype(np.int64)
        local = {atom: index for index, atom in enumerate(self.atoms.tolist())}
        columns: list[Column] = []
        modules = []
        for kind, found in rows.items():
            columns += DESCRIPTORS[kind].columns(found)
            found = [row._replace(atoms=tuple(local[atom] for atom in row.atoms)) for row in found]
            modules.append(DESCRIPTORS[kind].module(found, len(self.atoms)))
        self.module: torch.nn.Module = side_by_side(modules)
        if wanted is not None and wanted != [column.name for column in columns]:
            places = {column.name: place for place, column in enumerate(columns)}
            self.module = Chosen(self.module, [places[name] for name in wanted])
            columns = [columns[places[name]] for name in wanted]
        self.names: list[str] = [column.name for column in columns]
        self.units: list[str] = [column.unit for column in columns]
        self._copies: dict[tuple[torch.dtype, torch.device], torch.nn.Module] = {}
        self._rectangular: torch.nn.Module | None = None

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
            a frame. They need not be reduced. With a box, all differences are shortest periodic images whether or not
            `periodic` is set; None, none are.

        Returns
        -------
        numpy.ndarray or torch.Tensor, shape (..., F)
            Of the type and precision of ``positions``.

        Raises
        ------
        DataError
            A shape, the number of atoms or the precision does not fit, a position is not finite, a box is not one, or
            there is a box although one of the descriptors cannot be measured in it.
        """
        tensor = isinstance(positions, torch.Tensor)
        x = positions if tensor else as_array(positions, "positions")
        if x.dtype not in (np.float32, np.float64, torch.float32, torch.float64):
            raise DataError(f"positions: need float32 or float64, got {x.dtype}.")
        if x.ndim < 2 or x.shape[-1] != 3:
            raise DataError(f"positions: need the shape (..., {self.n_atoms}, 3), got {tuple(x.shape)}.")
        if x.shape[-2] != self.n_atoms:
            raise DataError(f"positions: the topology has {self.n_atoms} atoms, the array has {x.shape[-2]}.")
        check_finite(x, "positions", "atom")
        if tensor:
            chosen = x.index_select(-2, torch.from_numpy(self.atoms).to(x.device))
            return self._evaluate(chosen, box)
        with torch.no_grad():
            return self._evaluate(torch.from_numpy(x[..., self.atoms, :]), box).numpy()

    def subset(self, columns: Sequence[int] | Sequence[str]) -> Features:
        """The same descriptors with some of their columns alone, and without atoms that only others need.

        Parameters
        ----------
        columns
            Indices or names, each once, in the order they are to have.

        Returns
        -------
        Features
            Whose `spec` ends with an entry ``columns``, which says the same in a protocol.

        Raises
        ------
        SettingsError
            There is no such column, or it is named twice.
        """
        outside = [c for c in columns if not isinstance(c, str) and not 0 <= c < len(self.names)]
        if outside:
            raise SettingsError(f"columns: there is no column {outside[0]}; there are 0 to {len(self.names) - 1}.")
        names = [column if isinstance(column, str) else self.names[column] for column in columns]
        entries = [entry for entry in self.spec if "columns" not in entry]
        return Features(self._topology, [*entries, {"columns": names}], periodic=self.periodic)

    def _evaluate(self, chosen: torch.Tensor, box: Any, module: torch.nn.Module | None = None) -> torch.Tensor:
        if box is not None:
            if self._aperiodic:
                raise DataError(f"box: {self._aperiodic}")
            box = as_box(box, chosen)
        if module is not None:
            return module(chosen, box)
        module = self.module
        if chosen.dtype != torch.float32 or chosen.device.type != "cpu":
            module = self._copy(chosen.dtype, chosen.device)
        return module(chosen, box)

    def _copy(self, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
        """Give the module in another precision or place; `self.module` itself never moves."""
        if (dtype, device) not in self._copies:
            self._copies[dtype, device] = copy.deepcopy(self.module).to(device=device, dtype=dtype)
        return self._copies[dtype, device]

    def _for_rectangular_boxes(self) -> torch.nn.Module:
        """Give the module without the search for shortest images that skewed boxes need."""
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
        boxes = boxes_of(traj) if self.periodic else None
        if self.periodic and boxes is None:
            raise DataError("trajectory: has no unit cell, but the features are periodic.")
        frame_bytes = 4 * (6 * len(self.atoms) + _numbers(self.module, self.periodic))
        chunk = max(1, min(_CHUNK_BYTES // frame_bytes, max(_CHUNK_FRAMES, _CACHE_BYTES // frame_bytes)))
        atoms = torch.from_numpy(self.atoms)
        rectangular = boxes is not None and not boxes[:, ~np.eye(3, dtype=bool)].any()
        module = self._for_rectangular_boxes() if rectangular else self.module
        out = torch.empty((traj.n_frames, len(self.names)), dtype=torch.float32)
        for start in range(0, traj.n_frames, chunk):
            part = slice(start, start + chunk)
            xyz = np.asarray(traj.xyz[part], dtype=np.float32)
            check_finite(xyz, "trajectory", "atom", start)
            with torch.no_grad():
                chosen = by_frames(torch.from_numpy(xyz).index_select(1, atoms))
                out[part].copy_(self._evaluate(chosen, None if boxes is None else boxes[part], module))
        return out.numpy()

    def _check_topology(self, topology: Any) -> None:
        if topology.n_atoms != self.n_atoms:
            raise DataError(f"trajectory: has {topology.n_atoms} atoms, the features were made for {self.n_atoms}.")
        lines = atom_lines(topology)
        for index, (have, need) in enumerate(zip(lines, self._atom_lines, strict=True)):
            if have != need:
                raise DataError(
                    f"trajectory: atom {index} is '{have}' (name, element, residue, residue index), "
                    f"the features were made for '{need}'."
                )
        if digest(lines, topology.n_chains) != self.topology_fingerprint:
            raise DataError(f"trajectory: its number of chains, {topology.n_chains}, is not the features' topology's.")


class Chosen(torch.nn.Module):
    """Some of a module's columns, (..., n, 3) -> (..., columns)."""

    def __init__(self, module: torch.nn.Module, columns: Sequence[int]):
        super().__init__()
        self.module = module
        self.register_buffer("columns", torch.as_tensor(columns, dtype=torch.int64))

    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        return self.module(positions, box).index_select(-1, self.columns)


def _numbers(module: torch.nn.Module, periodic: bool) -> int:
    """How many intermediate numbers a frame takes: those of differences, and what a module adds as `numbers`."""
    if isinstance(module, Columns):  # one kind after the other
        return max(_numbers(kind, periodic) for kind in module.kinds)
    rows = sum(part.rows for part in module.modules() if isinstance(part, Differences))
    return (70 if periodic else 15) * rows + sum(getattr(part, "numbers", 0) for part in module.modules())


def _read(spec: Any, labels: Labels) -> tuple[list[dict[str, Any]], dict[str, list[Row]], str, list[str] | None]:
    """Give the specification in normal form, the rows needed, by kind, why none of it can be periodic, or "", and the
    names of the columns wanted, or None for all."""
    if isinstance(spec, (str, Mapping)) or not isinstance(spec, Sequence) or not len(spec):
        raise SettingsError('features: need a list with one or more entries, like [{"torsions": "phi psi"}].')
    plain: list[dict[str, Any]] = []
    rows: dict[str, list[Row]] = {}
    owners: dict[tuple[Any, ...], str] = {}
    aperiodic = ""
    for index, entry in enumerate(spec):
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise SettingsError(f"features[{index}]: need one kind of descriptor, one of {', '.join(DESCRIPTORS)}.")
        ((kind, value),) = entry.items()
        where = f"features[{index}].{kind}"
        if kind == "columns":
            if index != len(spec) - 1 or not rows:
                raise SettingsError(f"{where}: has to be the last entry, after those that make the columns.")
            rows = _needed(rows, value, where)
            return [*plain, {kind: list(value)}], rows, aperiodic, list(value)
        if kind not in DESCRIPTORS:
            raise SettingsError(f"{where}: is not a kind of descriptor; known are {', '.join(DESCRIPTORS)}.")
        found = DESCRIPTORS[kind].read(value, labels, where)
        for row in found.rows:
            if (owner := owners.get((row.atoms, row.label))) is not None:
                raise SettingsError(f"{where}: makes '{row.label}', which {owner} makes already.")
        owners.update(((row.atoms, row.label), where) for row in found.rows)
        if found.aperiodic and not aperiodic:
            aperiodic = f"{where}: cannot be measured in a periodic box; {found.aperiodic}."
        plain.append({kind: found.spec})
        rows.setdefault(kind, []).extend(found.rows)
    return plain, rows, aperiodic, None


def _needed(rows: dict[str, list[Row]], wanted: Any, where: str) -> dict[str, list[Row]]:
    """The rows that make some columns, by kind."""
    if isinstance(wanted, str) or not isinstance(wanted, Sequence) or not wanted:
        raise SettingsError(f"{where}: need a list of names of columns.")
    known = {kind: [column.name for column in DESCRIPTORS[kind].columns(found)] for kind, found in rows.items()}
    every = Counter(name for names in known.values() for name in names)
    for name in wanted:
        if name not in every:
            raise SettingsError(f"{where}: there is no column '{name}'.")
        if every[name] > 1 or list(wanted).count(name) > 1:
            raise SettingsError(f"{where}: '{name}' is named twice.")
    needed = {}
    for kind, names in known.items():
        here = set(wanted) & set(names)
        if not here:
            continue
        own = [{column.name for column in DESCRIPTORS[kind].columns([row])} for row in rows[kind]]
        # the names of some kinds depend on how many rows there are: all of them stay
        separate = all(made <= set(names) for made in own)
        needed[kind] = [row for row, made in zip(rows[kind], own) if not separate or made & here]
    return needed
