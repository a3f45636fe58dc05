"""A collective variable as input of PLUMED: descriptors as actions, and the encoder as PLUMED's own neural network.

`ANN` evaluates layers of Linear and Tanh in double precision, so that PLUMED needs no libtorch. What PLUMED has no word
for is refused by the name of its column. Distances are nm and energies kJ/mol, as PLUMED's by default.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.errors import CVError
from latf_sampling.features import Features
from latf_sampling.features.modules.angles import Angles, Cosines
from latf_sampling.features.modules.concatenation import Concatenation, SelectColumns
from latf_sampling.features.modules.contacts import SwitchedPairs
from latf_sampling.features.modules.coordinates import Coordinates
from latf_sampling.features.modules.coordination import CoordinationNumbers
from latf_sampling.features.modules.distances import Distances
from latf_sampling.features.modules.groups import GroupDistances
from latf_sampling.features.modules.gyration import Gyration
from latf_sampling.features.modules.native_contacts import NativeContacts
from latf_sampling.features.modules.residue_contacts import SoftMinima
from latf_sampling.features.modules.rmsd import RMSD
from latf_sampling.features.modules.switching import Fermi, Rational
from latf_sampling.features.modules.torsions import Torsions
from latf_sampling.features.periodic import join_double
from latf_sampling.features.unwrap import Unwrap

STEEPEST = 100.0
"""1/nm; PLUMED takes exp(beta / r) as it is, which overflows for r below beta / 709."""
NODE = "ann.node-{}"
"""Name of a component of the variable in PLUMED."""


def plumed_variable(cv: LatentCV, features: Features) -> tuple[list[str], dict[str, str]]:
    """PLUMED's input that defines a variable, as ``ann.node-0``, ``ann.node-1``, ...

    Each column has the label ``x0``, ``x1``, ... of its place; comments have the names.

    Parameters
    ----------
    cv
        The variable.
    features
        Its descriptors.

    Returns
    -------
    tuple
        Lines of the input, and the files that they name (reference structures) with their contents. In these,
        positions are rounded to 1e-4 nm, as in any PDB file.

    Raises
    ------
    CVError
        PLUMED has no action for a descriptor, which is named, or the encoder is more than layers of Linear and Tanh.
    """
    if list(features.names) != list(cv.metadata["names"]):
        raise CVError("plumed: these are not the descriptors of the variable.")
    layers = encoder_layers(cv)  # refused before the long part
    lines, files = plumed_descriptors(features)
    weights, biases = [weight for weight, _ in layers], [bias for _, bias in layers]
    sizes = [weights[0].shape[1], *(len(bias) for bias in biases)]
    activations = [*["Tanh"] * (len(layers) - 1), "Linear"]
    lines += [
        "# The encoder, with the scaling of the descriptors in its first layer.",
        "ANN ...",
        "LABEL=ann",
        f"ARG={','.join(f'x{k}' for k in range(sizes[0]))}",
        f"NUM_LAYERS={len(sizes)}",
        f"NUM_NODES={','.join(map(str, sizes))}",
        f"ACTIVATIONS={','.join(activations)}",
    ]
    for k, (weight, bias) in enumerate(zip(weights, biases)):
        lines += [f"WEIGHTS{k}={_numbers(weight.ravel())}", f"BIASES{k}={_numbers(bias)}"]
    return [*lines, "... ANN"], files


def plumed_descriptors(features: Features) -> tuple[list[str], dict[str, str]]:
    """The part of `plumed_variable` that defines the columns ``x0``, ``x1``, ...

    Raises
    ------
    CVError
        PLUMED has no action for a descriptor, which is named.
    """
    descriptors = _Descriptors(features)
    return descriptors.lines(), descriptors.files


def encoder_layers(cv: LatentCV) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights (out, in) and biases (out,) of the layers of an encoder, between which there is Tanh.

    Raises
    ------
    CVError
        It is anything else.
    """
    layers: list[tuple[np.ndarray, np.ndarray]] = []
    kinds: list[str] = []
    for module in cv.module.function.encoder.children():
        kinds.append(module.original_name)
        if kinds[-1] in ("_Linear", "Linear"):
            layers.append((module.weight.double().numpy(), module.bias.double().numpy()))
    expected = ["_Linear" if k % 2 == 0 else "Tanh" for k in range(2 * len(layers) - 1)]
    if not layers or [kind.replace("Linear", "_Linear").replace("__", "_") for kind in kinds] != expected:
        raise CVError(
            f"plumed: the encoder of the variable ({', '.join(kinds)}) is more than the layers of Linear and Tanh that "
            "PLUMED's ANN evaluates; a module that was trained elsewhere can be given to PLUMED's PYTORCH_MODEL itself."
        )
    return layers


def float32_encoder(cv: LatentCV) -> torch.jit.ScriptModule:
    """The encoder in single precision, [n, F] -> [n, d], for PYTORCH_MODEL of a PLUMED that was built with libtorch."""
    modules: list[nn.Module] = []
    for weight, bias in encoder_layers(cv):
        layer = nn.Linear(weight.shape[1], len(weight))
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.copy_(torch.from_numpy(bias))
        modules += [layer, nn.Tanh()]
    return torch.jit.script(nn.Sequential(*modules[:-1]).requires_grad_(False))


class _Descriptors:
    """Writes an action for each descriptor of a module."""

    def __init__(self, features: Features) -> None:
        self.features = features
        self.atoms = (np.asarray(features.atoms) + 1).tolist()  # PLUMED counts from 1
        self.nopbc = "" if features.periodic else " NOPBC"
        self.text: list[str] = []
        self.files: dict[str, str] = {}
        self.counter = itertools.count()
        self.writers: dict[type[nn.Module], Callable[[Any], list[str]]] = {
            Concatenation: self._concatenation,
            SelectColumns: self._selection,
            Torsions: self._torsions,
            Distances: self._distances,
            Cosines: self._cosines,
            Angles: self._angles,
            SwitchedPairs: self._switched,
            NativeContacts: self._native,
            CoordinationNumbers: self._coordination,
            GroupDistances: self._groups,
            Gyration: self._gyration,
            Coordinates: self._coordinates,
            SoftMinima: self._minima,
            RMSD: self._rmsd,
        }

    def lines(self) -> list[str]:
        """The actions, and one for each column by its place."""
        names = self.features.names
        self.names = list(names)
        values = self._of(self.features.module)
        columns = [f"x{k}: COMBINE ARG={value} PERIODIC=NO" for k, value in enumerate(values)]
        comments = [f"# x{k} is {name}" for k, name in enumerate(names)]
        return [*comments, *self.text, *columns]

    def _of(self, module: nn.Module) -> list[str]:
        """The values of the columns of a module."""
        writer = self.writers.get(type(module))
        if writer is None:
            raise CVError(f"plumed: PLUMED has no action for {self._first_column(module)}; train without it.")
        return writer(module)

    def _first_column(self, module: nn.Module) -> str:
        """The name of the first column of a part of the descriptors."""
        position = 0
        whole, selected = self.features.module, None
        if isinstance(whole, SelectColumns):
            whole, selected = whole.module, whole.columns.tolist()
        for part in _flat(whole):
            if part is module:
                break
            position += _width(part, len(self.features.atoms))
        if selected is not None:
            return f"'{next((self.features.names[k] for k, c in enumerate(selected) if c >= position), 'a column')}'"
        return f"'{self.features.names[position]}'"

    def _action(self, text: str) -> str:
        label = f"a{next(self.counter)}"
        self.text.append(f"{label}: {text}")
        return label

    def _pairs(self, differences: Any) -> list[tuple[int, int]]:
        first, second = differences.first.tolist(), differences.second.tolist()
        return [(self.atoms[i], self.atoms[j]) for i, j in zip(first, second)]

    def _custom(self, arguments: Sequence[str], function: str) -> str:
        names = ",".join(f"v{k}" for k in range(len(arguments)))
        return self._action(f"CUSTOM ARG={','.join(arguments)} VAR={names} FUNC={function} PERIODIC=NO")

    def _distance(self, pair: Sequence[int | str]) -> str:
        return self._action(f"DISTANCE ATOMS={pair[0]},{pair[1]}{self.nopbc}")

    def _concatenation(self, module: Concatenation) -> list[str]:
        return [value for part in module.parts for value in self._of(part)]

    def _selection(self, module: SelectColumns) -> list[str]:
        values = self._of(module.module)
        return [values[k] for k in module.columns.tolist()]

    def _torsions(self, module: Torsions) -> list[str]:
        pairs = self._pairs(module.differences)
        first, second, third = (pairs[k * module.count : (k + 1) * module.count] for k in range(3))
        torsions = [
            self._action(f"TORSION ATOMS={one[0]},{one[1]},{two[1]},{three[1]}{self.nopbc}")
            for one, two, three in zip(first, second, third)
        ]
        return [self._custom([torsion], f"{function}(v0)") for function in ("sin", "cos") for torsion in torsions]

    def _distances(self, module: Distances) -> list[str]:
        return [self._distance(pair) for pair in self._pairs(module.differences)]

    def _angles(self, module: Angles | Cosines) -> list[str]:
        pairs = self._pairs(module.differences)
        return [
            self._action(f"ANGLE ATOMS={one[1]},{one[0]},{other[1]}{self.nopbc}")
            for one, other in zip(pairs[: module.count], pairs[module.count :])
        ]

    def _cosines(self, module: Cosines) -> list[str]:
        return [self._custom([angle], "cos(v0)") for angle in self._angles(module)]

    def _switched(self, module: SwitchedPairs) -> list[str]:
        pairs, switching = self._pairs(module.differences), _switching(module.switching, self, module)
        if not module.total:
            return [self._contact([pair], [switching], [1.0]) for pair in pairs]
        first, second = (",".join(str(pair[k]) for pair in pairs) for k in (0, 1))
        return [self._action(f"COORDINATION GROUPA={first} GROUPB={second} PAIR SWITCH={{{switching}}}{self.nopbc}")]

    def _contact(self, pairs: Sequence[tuple[int, int]], functions: Sequence[str], weights: Sequence[float]) -> str:
        """The weighted sum of switching functions of pairs."""
        terms = [
            f"ATOMS{k}={i},{j} SWITCH{k}={{{function}}} WEIGHT{k}={weight!r}"
            for k, ((i, j), function, weight) in enumerate(zip(pairs, functions, weights), 1)
        ]
        label = f"a{next(self.counter)}"
        flags = " NOPBC" if self.nopbc else ""
        self.text += ["CONTACTMAP ...", f"LABEL={label}", *terms, f"SUM{flags}", "... CONTACTMAP"]
        return label

    def _native(self, module: NativeContacts) -> list[str]:
        fermi = module.contacts.switching
        assert isinstance(fermi, Fermi)
        pairs, beta = self._pairs(module.contacts.differences), -fermi.slope
        starts = fermi.start.double().expand(len(pairs)).tolist()
        functions = [f"CUSTOM FUNC=1/(1+exp({beta!r}*x-{start!r})) R_0=1" for start in starts]
        if module.each:
            return [self._contact([pair], [function], [1.0]) for pair, function in zip(pairs, functions)]
        return [self._contact(pairs, functions, [1 / len(pairs)] * len(pairs))]

    def _coordination(self, module: CoordinationNumbers) -> list[str]:
        pairs, switching = self._pairs(module.differences), _switching(module.switching, self, module)
        particles = list(dict.fromkeys(atom for pair in pairs for atom in pair))
        numbers = [
            self._action(
                f"COORDINATION GROUPA={atom} GROUPB={','.join(str(k) for k in particles if k != atom)} "
                f"SWITCH={{{switching}}}{self.nopbc}"
            )
            for atom in particles
        ]
        ordered = self._action(f"SORT ARG={','.join(numbers)}")
        n = len(numbers)
        columns = [f"{ordered}.{k}" for k in range(1, n + 1)]
        mean = self._action(f"COMBINE ARG={','.join(numbers)} COEFFICIENTS={','.join([repr(1 / n)] * n)} PERIODIC=NO")
        for order in module.moments:
            powers = "+".join(f"(v{k}-v{n})^{order}" for k in range(n))
            columns.append(self._custom([*numbers, mean], f"({powers})/{n}"))
        return columns

    def _unwrapped(self, unwrap: Unwrap) -> None:
        """Make molecules whole along the same tree, on a tour of which each atom follows a neighbor."""
        if not self.features.periodic:
            return
        first, second = unwrap.differences.first.tolist(), unwrap.differences.second.tolist()
        tours: list[list[int]] = []
        for edge, sign in zip(unwrap.tour.tolist()[1:], unwrap.signs.flatten().tolist()[1:]):
            parent, child = (self.atoms[k] for k in (first[edge], second[edge]))
            start, end = (parent, child) if sign > 0 else (child, parent)
            if not tours or tours[-1][-1] != start:
                tours.append([start])
            tours[-1].append(end)
        entities = " ".join(f"ENTITY{k}={','.join(map(str, tour))}" for k, tour in enumerate(tours))
        if tours:
            self.text.append(f"WHOLEMOLECULES {entities}")

    def _groups(self, module: GroupDistances) -> list[str]:
        self._refuse_several(module)
        self._unwrapped(module.unwrap)
        atoms = [self.atoms[k] for k in module.unwrap.atoms.tolist()]
        centers = []
        for row in join_double(module.centers).numpy():
            members = np.flatnonzero(row)
            centers.append(
                self._action(
                    f"CENTER ATOMS={','.join(str(atoms[k]) for k in members)} WEIGHTS={_numbers(row[members])} NOPBC"
                )
            )
        first, second = module.differences.first.tolist(), module.differences.second.tolist()
        return [self._distance((centers[i], centers[j])) for i, j in zip(first, second)]

    def _refuse_several(self, module: Gyration | RMSD | GroupDistances) -> None:
        if self.features.periodic and module.further:
            raise CVError(
                f"plumed: {self._first_column(module)} is of several molecules in a box, whose images PLUMED chooses "
                "otherwise."
            )

    def _gyration(self, module: Gyration) -> list[str]:
        self._refuse_several(module)
        self._unwrapped(module.unwrap)
        atoms = ",".join(str(self.atoms[k]) for k in module.unwrap.atoms.tolist())
        weights = _numbers(join_double(module.weights).numpy())
        return [self._action(f"GYRATION ATOMS={atoms} WEIGHTS={weights} NOPBC")]

    def _coordinates(self, module: Coordinates) -> list[str]:
        components = module.components.tolist()
        positions = {k: self._action(f"POSITION ATOM={self.atoms[k]} NOPBC") for k in {c // 3 for c in components}}
        return [f"{positions[c // 3]}.{'xyz'[c % 3]}" for c in components]

    def _minima(self, module: SoftMinima) -> list[str]:
        pairs = self._pairs(module.differences)
        if module.beta > STEEPEST:
            raise CVError(
                f"plumed: {self._first_column(module)} has a beta of {module.beta:g} /nm, with which PLUMED overflows "
                f"below {module.beta / 709:.2g} nm; {STEEPEST:g} /nm compares."
            )
        values = []
        for row, real in zip(module.indices.tolist(), module.real.tolist()):
            distances = [self._distance(pairs[k]) for k, counts in zip(row, real) if counts]
            terms = "+".join(f"exp({module.beta!r}/v{k})" for k in range(len(distances)))
            values.append(self._custom(distances, f"{module.beta!r}/log({terms})"))
        return values

    def _rmsd(self, module: RMSD) -> list[str]:
        self._refuse_several(module)
        self._unwrapped(module.unwrap)
        serials = [self.atoms[k] for k in module.unwrap.atoms.tolist()]
        weights, center = join_double(module.weights).numpy(), join_double(module.center).numpy()[0]
        measured, superposed = (
            join_double(parts).numpy().reshape(module.count, 3, len(weights)).transpose(0, 2, 1)
            for parts in (module.measured, module.superposed)
        )
        by_center = (center > 0)[:, None]  # every atom has a weight in one or the other
        scaled, weight = np.where(by_center, superposed, measured), np.where(center > 0, center, weights)
        places = scaled / weight[:, None]
        values = []
        for reference in places:
            name = f"reference-{len(self.files)}.pdb"
            self.files[name] = _pdb(serials, 10 * reference, center / center.max(), weights / weights.max())
            values.append(self._action(f"RMSD REFERENCE={name} TYPE=OPTIMAL NOPBC"))
        return values


def _pdb(serials: Sequence[int], positions: np.ndarray, align: np.ndarray, displace: np.ndarray) -> str:
    """A PDB file for PLUMED: positions in Ångström, weights of superposition and of displacement."""
    lines = [
        f"ATOM  {serial:5d}  X   XXX A   1    {x:8.3f}{y:8.3f}{z:8.3f}{one:6.3f}{other:6.3f}"
        for serial, (x, y, z), one, other in zip(serials, positions.tolist(), align.tolist(), displace.tolist())
    ]
    return "\n".join([*lines, "END", ""])


def _switching(function: nn.Module, writer: _Descriptors, owner: nn.Module) -> str:
    """A switching function in PLUMED's words, neither cut off nor stretched."""
    assert isinstance(function, (Rational, Fermi))
    if not function.project.all:
        raise CVError(f"plumed: {writer._first_column(owner)} takes distances along some axes, which PLUMED cannot.")
    if isinstance(function, Fermi):
        return f"CUSTOM FUNC=1/(1+exp({-function.slope!r}*x-{float(function.start)!r})) R_0=1"
    n, m = (round(2 * function.power) * terms for terms in (function.terms_above, function.terms_below))
    return f"RATIONAL R_0={function.scale**-0.5!r} NN={n} MM={m} D_MAX=1000 NOSTRETCH"


def _flat(module: nn.Module) -> list[nn.Module]:
    """The parts of a module that measure, in their order."""
    return [leaf for part in module.parts for leaf in _flat(part)] if isinstance(module, Concatenation) else [module]


def _width(module: nn.Module, n_atoms: int) -> int:
    """Number of columns of a module."""
    example = torch.from_numpy(np.random.default_rng(0).normal(size=(n_atoms, 3))).float()
    value = module(example, None)
    assert isinstance(value, Tensor)
    return int(value.shape[-1])


def _numbers(values: np.ndarray) -> str:
    return ",".join(map(repr, np.asarray(values, np.float64).tolist()))
