"""The learned collective variable: descriptors, scaling and the encoder's mean, frozen into one TorchScript file.

The file holds everything: no Python code of this package is needed to evaluate it. It computes in double precision,
as OpenMM's Reference and CPU platforms do, since its cost is the number of operations, not their size.
"""

from __future__ import annotations

import copy
import io
import json
import math
from collections.abc import Callable
from datetime import datetime, timezone
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from latf_sampling.core import archives, arguments, installation, storage
from latf_sampling.cv.collective_variable import check_topology
from latf_sampling.cv.external_module import SAME, ExternalModule
from latf_sampling.cv.force import bias_variables
from latf_sampling.cv.operators import check_archive, check_operators
from latf_sampling.cv.variable import CHUNK, OfAllAtoms, Positions, Variable
from latf_sampling.errors import CVError
from latf_sampling.features import Features
from latf_sampling.learning.model import HILLS_PER_RANGE, LaTF
from latf_sampling.learning.networks import Networks
from latf_sampling.units import to_array

if TYPE_CHECKING:
    import mdtraj
    from openmm import app

FORMAT = 2
TOLERANCE = 1e-5
"""Largest difference between the exported and the eager variable, relative to the variable's spread."""
FORCE_LIMIT = 300.0
"""kJ/mol/nm; the largest force on one atom, on training frames, by a hill of 1 kJ/mol at its steepest. Good variables
of alanine dipeptide give 50 to 100; one of three times that let simulations of 4 fs a step explode."""
FEWEST_HILLS = 4
"""Where hills of the suggested width (`HILLS_PER_RANGE`) would be steeper than the limit allows, they are wider, up to
this share of the range over the training data."""


class _Linear(nn.Module):
    """A linear layer that takes one sample as a vector, without the reshaping that `nn.Linear` needs for it."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 1:
            return torch.addmv(self.bias, self.weight, x)
        return nn.functional.linear(x, self.weight, self.bias)


class _Encoded(nn.Module):
    """Descriptors, then the encoder: a function of the atoms that they depend on."""

    def __init__(self, features: nn.Module, encoder: nn.Module) -> None:
        super().__init__()
        self.features, self.encoder = features, encoder

    def forward(self, positions: Tensor, box: Tensor | None) -> Tensor:
        return self.encoder(self.features(positions, box))


class LatentCV(Variable):
    """A learned collective variable of all atoms' positions.

    Made by `from_model`, `from_torchscript` or `load`.

    Attributes
    ----------
    dim : int
        Number of components d.
    atoms : numpy.ndarray
        Indices of the atoms it depends on.
    bounds : numpy.ndarray (d, 2)
        Range over the training data.
    sigma : numpy.ndarray (d,)
        Suggested hill width: a sixteenth of the range, or as wide as the limit of forces asks for.
    steepness : numpy.ndarray (d,) or None
        Length of each component's gradient, 1/nm, root of the mean square over the training frames, if it was exported
        with some.
    metadata : dict
        Names and units of descriptors, atoms, bounds, widths, topology fingerprint, versions, provenance, and the
        fingerprints "model" and "encoder" of the `LaTF` that it was exported from.

    Examples
    --------
    >>> cv = LatentCV.load("cv.pt", topology)  # doctest: +SKIP
    >>> cv(positions).shape  # doctest: +SKIP
    (2,)
    """

    def __init__(self, module: torch.jit.ScriptModule, metadata: dict[str, Any]) -> None:
        names = ("atoms", "n_atoms", "bounds", "sigma", "periodic", "steepness")
        super().__init__(module, *(metadata[name] for name in names))
        self.metadata = metadata
        self.noise = float(metadata["noise"])

    @classmethod
    def from_model(
        cls,
        model: LaTF,
        features: Features,
        positions: Positions | None = None,
        boxes: np.ndarray | None = None,
        force_limit: float = FORCE_LIMIT,
    ) -> LatentCV:
        """Freeze the mean of a trained encoder together with its descriptors.

        Parameters
        ----------
        model, features
            The trained model, and the descriptors it was trained on.
        positions
            Training frames (n, N, 3) in nm on which the export is checked; `None` takes random positions, and checks no
            forces.
        boxes
            Their box vectors (n, 3, 3), where the variable is periodic.
        force_limit
            kJ/mol/nm. On 99.9 % of the frames, a hill of 1 kJ/mol with the suggested width may push no atom harder than
            this: a variable that jumps between neighbouring structures makes any bias explode. The width is chosen
            accordingly. A jump where no frame is shows only in a simulation.

        Raises
        ------
        CVError
            The model expects other descriptors, a descriptor uses an operator that `load` would refuse, the export
            differs from the eager model, or its forces are beyond the limit.
        SettingsError
            An argument is something else, such as the model in the place of the features.
        """
        arguments.instance("LatentCV.from_model", "model", model, LaTF, "a LaTF", "LaTF.load")
        arguments.instance("LatentCV.from_model", "features", features, Features, "the Features of the training")
        if not model.trained:
            raise CVError("LatentCV: the model is not trained yet.")
        _check_force_limit(force_limit)
        if model.n_features != len(features.names):
            raise CVError(
                f"LatentCV: the model was trained on {model.n_features} descriptors; these features give "
                f"{len(features.names)}."
            )
        networks = model.networks
        about = {
            "model": model.fingerprint(),
            "encoder": model.encoder_fingerprint(),
            "noise": float(torch.exp(0.5 * networks.log_variance.detach())),
            "provenance": {**model.provenance, "model": model.settings.model_dump(mode="json")},
        }
        cv = cls._frozen(features, _folded_encoder(networks), networks.latent_bounds.double().numpy(), about)
        frames = None if positions is None else cv._training_frames(positions)

        def eager(x: Tensor, box: Tensor | None) -> Tensor:
            scaled = (features(x, box) - networks.feature_mean.double()) * networks.feature_scale.double()
            return _double(networks.encoder)(scaled)

        cv._compare_with(eager, frames)
        if frames is not None:
            remedy = "Train with more evenness or a longer lag, or with descriptors that change less"
            cv._measure_steepness(frames, boxes, force_limit, remedy)
        return cv

    @classmethod
    def from_torchscript(
        cls,
        file: str | Path | nn.Module,
        features: Features,
        positions: Positions,
        boxes: np.ndarray | None = None,
        force_limit: float = FORCE_LIMIT,
    ) -> LatentCV:
        """Freeze a module that somebody else trained, such as an export of mlcolvar, together with its descriptors.

        The module takes a table of descriptors [n, F] and gives the variable [n, d], each row by itself. Its scaling
        and whatever it does to its outputs are part of it. It is evaluated in double precision, unless its code holds
        numbers in single precision.

        Parameters
        ----------
        file
            A TorchScript file, or a `torch.nn.Module`, which is compiled or, where it cannot be, traced.
        features
            The descriptors that it takes, in the order of its columns, nm and radian.
        positions
            Frames (n, N, 3) in nm of the region that is to be biased, two at least. Bounds are the range over them, and
            hill widths a sixteenth of it, or as wide as the limit of forces asks for.
        boxes
            Their box vectors (n, 3, 3), where the features are periodic.
        force_limit
            kJ/mol/nm, as of `from_model`.

        Raises
        ------
        CVError
            The file is no TorchScript, or uses an operator that `load` would refuse; the module takes other columns, or
            columns on another scale; its values on the frames are not finite, constant, random, or depend on the
            frames beside them; the export differs from the module; or its forces are beyond the limit.
        SettingsError
            An argument is something else.

        Examples
        --------
        The sum of two distances:

        >>> import mdtraj
        >>> topology = mdtraj.Topology()
        >>> residue = topology.add_residue("ARG", topology.add_chain())
        >>> for name in ("A", "B", "C"):
        ...     _ = topology.add_atom(name, mdtraj.element.argon, residue)
        >>> features = Features(topology, [{"distances": {"pairs": [[0, 1], [1, 2]]}}])
        >>> linear = nn.Linear(2, 1)
        >>> _ = linear.weight.data.fill_(1.0), linear.bias.data.zero_()
        >>> line = np.array([[0.0, 0, 0], [0.3, 0, 0], [0.7, 0, 0]])
        >>> cv = LatentCV.from_torchscript(linear, features, np.stack([line, 2 * line]))
        >>> cv(line).round(6), cv.bounds.round(6), cv.sigma
        (array([0.7]), array([[0.7, 1.4]]), array([0.04375]))
        """
        arguments.instance("LatentCV.from_torchscript", "features", features, Features, "the Features of its columns")
        _check_force_limit(force_limit)
        external = ExternalModule(file, features)
        frames = cls._frames_of(features.n_atoms, positions)
        if features.periodic and boxes is None:
            raise CVError("LatentCV: the features are of a periodic system; give the box vectors of the frames.")
        x = features(frames, boxes if features.periodic else None)
        u = external.values(x)
        bounds = np.stack([u.min(0), u.max(0)], 1)
        encoder = external.encoder(u.shape[1])
        about = {
            "model": None,
            "encoder": None,
            "noise": float(((bounds[:, 1] - bounds[:, 0]) / HILLS_PER_RANGE).min()),
            "precision": "single" if encoder.single else "double",
            "provenance": {"module": Path(external.name).name, "frames": len(frames)},
        }
        cv = cls._frozen(features, encoder, bounds, about)
        difference = np.abs(cv._in_chunks(frames, boxes) - u).max() / (1 + np.abs(u).max())
        if not difference <= SAME:
            raise CVError(
                f"{external.name}: the exported value differs from its own by {difference:.2g}; not exported."
            )
        cv._measure_steepness(
            frames, boxes, force_limit, "Train it with more regularization, or on descriptors that change less"
        )
        return cv

    @classmethod
    def _frozen(cls, features: Features, encoder: nn.Module, bounds: np.ndarray, about: dict[str, Any]) -> LatentCV:
        """Descriptors and encoder as one program, checked as one from a file would be."""
        encoded = _Encoded(_double(features.module), encoder)
        module = OfAllAtoms(encoded, torch.from_numpy(np.asarray(features.atoms))).requires_grad_(False)
        sigma = (bounds[:, 1] - bounds[:, 0]) / HILLS_PER_RANGE
        metadata = {
            "format": FORMAT,
            "names": list(features.names),
            "atoms": [int(a) for a in features.atoms],
            "n_atoms": features.n_atoms,
            "periodic": features.periodic,
            "features": features.spec,
            "topology": features.topology_fingerprint,
            "units": {"positions": "nm", "cv": "dimensionless"},
            "bounds": bounds.tolist(),
            "sigma": sigma.tolist(),
            "steepness": None,
            "versions": {name: version for name, version in installation.installed().items() if version},
            **about,
        }
        metadata["provenance"]["exported"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
        script = _round_trip(torch.jit.script(module))
        try:
            check_operators(script)
        except CVError as error:
            raise CVError(f"LatentCV: the variable cannot be exported: {error}.") from error
        return cls(script, metadata)

    def bias_variables(self, backend: str = "auto") -> list[app.BiasVariable]:
        """One `openmm.app.BiasVariable` per component, for the stock `openmm.app.Metadynamics`.

        Stock metadynamics evaluates the network once for each of them; `latf_sampling.Metadynamics` once in all.
        """
        return bias_variables(self, backend)

    def _definition(self) -> bytes:
        return json.dumps(self.metadata["features"], sort_keys=True).encode()

    def check_topology(self, topology: app.Topology | mdtraj.Topology) -> None:
        """Refuse a topology (OpenMM's or MDTraj's) other than the one that the variable was made for."""
        check_topology("LatentCV", topology, self.metadata["topology"])

    def undefined(self, positions: np.ndarray, box: np.ndarray | None = None) -> list[str]:
        """Names of the descriptors that have no finite value at positions (N, 3) in nm, in a box (3, 3)."""
        of_atoms = torch.as_tensor(positions, dtype=torch.float64)[self.atoms]
        x = self.module.function.features(of_atoms, self._box(box, ()))
        return [name for name, value in zip(self.metadata["names"], x.tolist()) if not math.isfinite(value)]

    def save(self, path: str | Path) -> None:
        """Write the TorchScript file, at once or not at all.

        The file is a program, which whoever loads it runs; see `load`.
        """
        path = arguments.path("LatentCV.save", "path", path)
        buffer = io.BytesIO()  # torch's own errors of a full disk do not say so
        torch.jit.save(self.module, buffer, _extra_files={"metadata.json": json.dumps(self.metadata)})
        with storage.atomic_write(path) as temporary:
            temporary.write_bytes(buffer.getvalue())

    @classmethod
    def load(cls, path: str | Path, topology: app.Topology | mdtraj.Topology | None = None) -> LatentCV:
        """Read a file written by `save`.

        A CV file is a program in TorchScript, which could write and read files when it is loaded or evaluated. A file
        that another person sent is therefore compared with a list of operators before anything in it is run: those of
        `latf_sampling.cv.operators`, which compute, and no other. Nothing else is checked: a variable may still be
        slow, or wrong.

        Raises
        ------
        CVError
            The file is missing or damaged, of another format, uses an operator that is not on the list, or was made for
            another topology than the one given.
        """
        extra = {"metadata.json": ""}
        try:
            content, kind = archives.read_archive(path)
            if kind != archives.TORCHSCRIPT:
                raise ValueError("it holds tensors and no program, as LaTF.save writes; see LaTF.load")
            check_archive(content)
            module = torch.jit.load(io.BytesIO(content), map_location="cpu", _extra_files=extra)
            check_operators(module)
            if not extra["metadata.json"]:
                raise ValueError("it has no metadata.json")
            metadata = json.loads(extra["metadata.json"])
            if not isinstance(metadata, dict):
                raise ValueError("its metadata.json is no mapping")
        except (RuntimeError, ValueError) as error:
            raise CVError(f"{path}: cannot be read as a CV file ({' '.join(str(error).split())[:200]}).") from error
        if metadata.get("format") != FORMAT:
            raise CVError(f"{path}: is a CV file of format {metadata.get('format')}; this version reads {FORMAT}.")
        try:
            cv = cls(module, metadata)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"its metadata have no {error}" if isinstance(error, KeyError) else str(error)
            raise CVError(f"{path}: cannot be read as a CV file ({' '.join(reason.split())[:200]}).") from error
        if topology is not None:
            cv.check_topology(topology)
        return cv

    def _compare_with(self, variable: Callable[[Tensor, Tensor | None], Tensor], positions: np.ndarray | None) -> None:
        """The exported variable and its gradient must be those of the eager descriptors and encoder."""
        if positions is None:
            positions = 0.3 * np.random.default_rng(0).normal(size=(4, self.n_atoms, 3))
        x = torch.as_tensor(np.asarray(positions, dtype=np.float64)[:16]).requires_grad_(True)
        box = 10.0 * torch.eye(3, dtype=torch.float64).expand(len(x), 3, 3) if self.periodic else None
        eager, exported = variable(x, box), self.module(x, box)
        gradients = [torch.autograd.grad(u.square().sum(), x)[0] for u in (eager, exported)]
        for what, a, b in (("value", eager, exported), ("gradient", *gradients)):
            difference = float((a - b).detach().abs().max() / (1 + a.detach().abs().max()))
            if not difference <= TOLERANCE:
                raise CVError(
                    f"LatentCV: the exported {what} differs from the eager one by {difference:.2g}; not exported."
                )

    def _training_frames(self, positions: Positions) -> np.ndarray:
        """Training frames (n, N, 3), at least one."""
        return self._frames_of(self.n_atoms, positions)

    @staticmethod
    def _frames_of(n_atoms: int, positions: Positions) -> np.ndarray:
        frames = to_array(positions, "length", "positions")
        if frames.ndim != 3 or frames.shape[1:] != (n_atoms, 3) or not len(frames):
            raise CVError(f"LatentCV: training frames must be (n, {n_atoms}, 3), n > 0; got {frames.shape}.")
        return frames

    def _in_chunks(self, positions: np.ndarray, boxes: Any) -> np.ndarray:
        """Values (n, d) of many frames, some at a time."""
        box = None if boxes is None else np.asarray(to_array(boxes, "length", "boxes"))
        parts = [slice(start, start + CHUNK) for start in range(0, len(positions), CHUNK)]
        return np.concatenate(
            [self(positions[part], box if box is None or box.ndim == 2 else box[part]) for part in parts]
        )

    def _measure_steepness(
        self, positions: np.ndarray, boxes: np.ndarray | None, force_limit: float, remedy: str
    ) -> None:
        """Set the mean steepness, and refuse a variable whose forces no simulation could follow."""
        squares, steepest = [], []
        for slopes in self._gradients_in_chunks(positions, boxes):
            of_atoms = np.linalg.norm(slopes, axis=-1)
            squares.append((of_atoms**2).sum(-1))
            steepest.append(of_atoms.max(-1))
        self.steepness = np.sqrt(np.concatenate(squares).mean(0))
        self.metadata["steepness"] = self.steepness.tolist()
        # A Gaussian of width sigma is steepest at sigma from its center: exp(-1/2) / sigma.
        pushes = np.quantile(np.exp(-0.5) * np.concatenate(steepest), 0.999, axis=0) / self.sigma
        for k, push in enumerate(pushes):
            if not push <= force_limit * HILLS_PER_RANGE / FEWEST_HILLS:
                raise CVError(
                    f"LatentCV: component {k} is too steep to bias: on its training frames a hill of "
                    "1 kJ/mol as wide as a quarter of its range pushes an atom with up to "
                    f"{push * FEWEST_HILLS / HILLS_PER_RANGE:.3g} kJ/mol/nm, more than the limit of "
                    f"{force_limit:g}. {remedy} from structure to structure; force_limit raises the limit."
                )
        self.sigma = self.sigma * np.maximum(1, pushes / force_limit)
        self.metadata["sigma"] = self.sigma.tolist()


def _check_force_limit(force_limit: float) -> None:
    if not (isinstance(force_limit, Real) and not isinstance(force_limit, bool) and force_limit > 0):
        raise CVError(f"LatentCV: force_limit must be a number above 0, in kJ/mol/nm; got {force_limit!r}.")


def _double(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).double()


def _folded_encoder(networks: Networks) -> nn.Sequential:
    """The encoder in double precision with the scaling of descriptors folded into its first layer."""
    layers = list(_double(networks.encoder).children())
    first, scale = layers[0], networks.feature_scale.double()
    assert isinstance(first, nn.Linear)
    with torch.no_grad():
        first.bias.sub_(first.weight @ (networks.feature_mean.double() * scale))
        first.weight.mul_(scale)
    return nn.Sequential(
        *(_Linear(layer.weight, layer.bias) if isinstance(layer, nn.Linear) else layer for layer in layers)
    )


def _round_trip(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """Through bytes and back, so that what is checked is what a file would give."""
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)
