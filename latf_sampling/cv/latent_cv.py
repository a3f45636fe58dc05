"""The collective variable: descriptors, scaling and the encoder's mean, frozen into one TorchScript file.

The file holds everything: no Python code of this package is needed to evaluate it. It computes in double precision,
as OpenMM's Reference and CPU platforms do, since its cost is the number of operations, not their size.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from datetime import datetime, timezone
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from latf_sampling.core import installation, storage
from latf_sampling.errors import CVError
from latf_sampling.features import Features, fingerprint, reduced_box
from latf_sampling.learning.model import LaTF

FORMAT = 2
TOLERANCE = 1e-5
"""Largest difference between the exported and the eager variable, relative to the variable's spread."""
FORCE_LIMIT = 300.0
"""kJ/mol/nm; the largest force on one atom, on training frames, by a hill of 1 kJ/mol at its steepest. Good variables
of alanine dipeptide give 50 to 100; one of three times that let simulations of 4 fs a step explode."""
CHUNK = 512
"""Frames whose gradients are taken at once."""


class _Linear(nn.Module):
    """A linear layer that takes one sample as a vector, without the reshaping that `nn.Linear` needs for it."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 1:
            return torch.addmv(self.bias, self.weight, x)
        return nn.functional.linear(x, self.weight, self.bias)


class _Module(nn.Module):
    def __init__(self, features: nn.Module, atoms: Tensor, encoder: nn.Module) -> None:
        super().__init__()
        self.features, self.encoder = features, encoder
        self.register_buffer("atoms", atoms)

    @torch.jit.export
    def compact(self, positions: Tensor, box: Tensor | None) -> Tensor:
        """From the atoms that matter alone, (..., n, 3) in double precision."""
        return self.encoder(self.features(positions, box))

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        if box is not None:
            box = box.to(torch.float64)
        return self.compact(positions.index_select(-2, self.atoms).to(torch.float64), box)


class LatentCV:
    """A learned collective variable of all atoms' positions.

    Made by `from_model` or `load`.

    Attributes
    ----------
    dim : int
        Number of components d.
    atoms : numpy.ndarray
        Indices of the atoms it depends on.
    bounds : numpy.ndarray (d, 2)
        Range over the training data.
    sigma : numpy.ndarray (d,)
        Suggested hill width: the spread within a state, but not below half the encoder's own uncertainty.
    steepness : numpy.ndarray (d,) or None
        Length of each component's gradient, 1/nm, root of the mean square over the training frames, if it was exported
        with some.
    metadata : dict
        Names and units of descriptors, atoms, bounds, widths, topology fingerprint, versions, provenance.

    Examples
    --------
    >>> cv = LatentCV.load("cv.pt", topology)  # doctest: +SKIP
    >>> cv(positions).shape  # doctest: +SKIP
    (2,)
    """

    def __init__(self, module: torch.jit.ScriptModule, metadata: dict[str, Any]) -> None:
        self.module, self.metadata = module, metadata
        self.atoms = np.array(metadata["atoms"], dtype=np.int64)
        self.bounds = np.array(metadata["bounds"])
        self.sigma = np.array(metadata["sigma"])
        self.noise = float(metadata["noise"])
        self.steepness = None if metadata["steepness"] is None else np.array(metadata["steepness"])
        self.dim, self.n_atoms, self.periodic = len(self.sigma), int(metadata["n_atoms"]), bool(metadata["periodic"])

    @classmethod
    def from_model(
        cls,
        model: LaTF,
        features: Features,
        positions: np.ndarray | None = None,
        boxes: np.ndarray | None = None,
        force_limit: float = FORCE_LIMIT,
    ) -> LatentCV:
        """Freeze the mean of a trained encoder together with its descriptors.

        Parameters
        ----------
        model, features
            The trained model, and the descriptors it was trained on.
        positions
            Training frames (n, N, 3) in nm on which the export is checked; none takes random ones, and checks no
            forces.
        boxes
            Their box vectors (n, 3, 3), where the variable is periodic.
        force_limit
            kJ/mol/nm. On 99.9 % of the frames, a hill of 1 kJ/mol with the suggested width may push no atom harder than
            this: a variable that jumps between neighbouring structures makes any bias explode. A jump where no frame is
            shows only in a simulation.

        Raises
        ------
        CVError
            The model expects other descriptors, the export differs from the eager model, or its forces are beyond the
            limit.
        """
        if not model.trained:
            raise CVError("LatentCV: the model is not trained yet.")
        if not (isinstance(force_limit, Real) and force_limit > 0):
            raise CVError(f"LatentCV: force_limit must be a number above 0, in kJ/mol/nm; got {force_limit!r}.")
        if model.n_features != len(features.names):
            raise CVError(
                f"LatentCV: the model was trained on {model.n_features} descriptors; these features give "
                f"{len(features.names)}."
            )
        module = _Module(_double(features.module), torch.from_numpy(np.asarray(features.atoms)), _folded_encoder(model))
        module.requires_grad_(False)
        noise = float(torch.exp(0.5 * model.log_variance.detach()))
        sigma = np.maximum(model.latent_spread.double().numpy(), 0.5 * noise)
        metadata = {
            "format": FORMAT,
            "names": list(features.names),
            "atoms": [int(a) for a in features.atoms],
            "n_atoms": features.n_atoms,
            "periodic": features.periodic,
            "features": features.spec,
            "topology": features.topology_fingerprint,
            "units": {"positions": "nm", "cv": "dimensionless"},
            "bounds": model.latent_bounds.double().tolist(),
            "sigma": sigma.tolist(),
            "noise": noise,
            "steepness": None,
            "versions": {name: version for name, version in installation.installed().items() if version},
            "provenance": {
                **model.provenance,
                "model": model.settings.model_dump(mode="json"),
                "exported": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            },
        }
        cv = cls(_round_trip(torch.jit.script(module)), metadata)
        if positions is not None:
            positions = cv._frames(positions)
        cv._check(model, features, positions)
        if positions is not None:
            cv._measure(positions, boxes, force_limit)
        return cv

    def __call__(self, positions, box=None):
        """Evaluate on positions (..., N, 3) in nm, with box vectors (..., 3, 3) where the variable is `periodic`.

        Returns (..., d). A variable that is not periodic takes no images, in a box or not.

        Raises
        ------
        CVError
            Wrong number of atoms, positions with a unit, or a box missing.
        """
        is_tensor = isinstance(positions, Tensor)
        _without_unit(positions)
        tensor = torch.as_tensor(np.asarray(positions) if not is_tensor else positions)
        if tensor.ndim < 2 or tensor.shape[-2:] != (self.n_atoms, 3):
            raise CVError(f"LatentCV: expected positions (..., {self.n_atoms}, 3); got {tuple(tensor.shape)}.")
        u = self.module(tensor, self._box(box))
        return u if is_tensor else u.detach().numpy()

    def _box(self, box) -> Tensor | None:
        """Box vectors in OpenMM's reduced form, which those of a trajectory need not have."""
        if not self.periodic:
            return None
        if box is None:
            raise CVError("LatentCV: the variable was made for a periodic system; give the box vectors.")
        return reduced_box(
            box.to(torch.float64) if isinstance(box, Tensor) else torch.tensor(np.asarray(box, np.float64))
        )

    def of_context(self, context) -> np.ndarray:
        """Value (d,) at the present positions of an `openmm.Context`."""
        state = context.getState(getPositions=True)
        box = state.getPeriodicBoxVectors(asNumpy=True)._value if self.periodic else None
        return self(state.getPositions(asNumpy=True)._value, box)

    def gradients(self, positions, box=None) -> np.ndarray:
        """Derivatives of each component by the positions of `atoms`, 1/nm, on frames (n, N, 3); (n, d, atoms, 3)."""
        return np.concatenate(list(self._slopes(positions, box)))

    def _slopes(self, positions, box=None) -> Iterator[np.ndarray]:
        """`gradients`, some frames at a time."""
        positions, box = np.asarray(positions, np.float64), None if box is None else np.asarray(box)
        for start in range(0, len(positions), CHUNK):
            part = slice(start, start + CHUNK)
            x = torch.from_numpy(positions[part]).requires_grad_(True)
            u = self.module(x, self._box(box if box is None or box.ndim == 2 else box[part]))
            slopes = [torch.autograd.grad(u[:, k].sum(), x, retain_graph=True)[0] for k in range(self.dim)]
            yield torch.stack(slopes, 1)[:, :, self.atoms].numpy()

    def gradient_of_context(self, context) -> np.ndarray:
        """Length (d,) of each component's gradient at the present positions of an `openmm.Context`, 1/nm."""
        state = context.getState(getPositions=True)
        box = state.getPeriodicBoxVectors(asNumpy=True)._value if self.periodic else None
        slopes = self.gradients(state.getPositions(asNumpy=True)._value[None], box)[0]
        return np.sqrt((slopes**2).sum((1, 2)))

    def mobility(self, positions, masses: np.ndarray, box=None) -> np.ndarray:
        """Inverse mass of each component, sum_i |du/dx_i|^2 / m_i, on frames (n, N, 3); returns (n, d) in 1/(amu nm^2).

        A spring of stiffness k on the component oscillates at sqrt(k * mobility): that must stay well below one
        radian per time step.
        """
        masses = np.asarray(masses)[self.atoms]
        inverse = np.where(masses > 0, 1 / np.where(masses > 0, masses, 1.0), 0.0)
        return np.concatenate([(slopes**2).sum(-1) @ inverse for slopes in self._slopes(positions, box)])

    def bias_variables(self) -> list:
        """One `openmm.app.BiasVariable` per component, for the stock `openmm.app.Metadynamics`.

        Stock metadynamics evaluates the network once for each of them; `latf_sampling.Metadynamics` once in all.
        """
        from openmm import app

        from latf_sampling.cv.force import component_force

        margin = 3 * self.sigma
        return [
            app.BiasVariable(
                component_force(self, k),
                float(self.bounds[k, 0] - margin[k]),
                float(self.bounds[k, 1] + margin[k]),
                float(self.sigma[k]),
                False,
            )
            for k in range(self.dim)
        ]

    def fingerprint(self) -> str:
        """Sixteen letters that two variables have in common only if they are the same function of the positions."""
        digest = hashlib.sha256(json.dumps(self.metadata["features"], sort_keys=True).encode())
        for name, value in sorted(self.module.state_dict().items()):
            digest.update(name.encode() + value.numpy().tobytes())
        return digest.hexdigest()[:16]

    def check_topology(self, topology) -> None:
        """Refuse a topology (OpenMM's or MDTraj's) other than the one that the variable was made for."""
        if fingerprint(topology) != self.metadata["topology"]:
            raise CVError(
                "LatentCV: the variable was made for another topology (other atoms, names or residues); "
                "train and export it for this one."
            )

    def check_system(self, system) -> None:
        """Refuse an OpenMM system with another number of particles."""
        if system.getNumParticles() != self.n_atoms:
            raise CVError(
                f"LatentCV: the variable was made for {self.n_atoms} atoms; the system has {system.getNumParticles()}."
            )

    def save(self, path: str | Path) -> None:
        """Write the TorchScript file, at once or not at all."""
        buffer = io.BytesIO()  # torch's own errors of a full disk do not say so
        torch.jit.save(self.module, buffer, _extra_files={"metadata.json": json.dumps(self.metadata)})
        with storage.atomic_write(path) as temporary:
            temporary.write_bytes(buffer.getvalue())

    @classmethod
    def load(cls, path: str | Path, topology=None) -> LatentCV:
        """Read a file written by `save`.

        Raises
        ------
        CVError
            The file is missing or damaged, of another format, or made for another topology than the one given.
        """
        extra = {"metadata.json": ""}
        try:
            with zipfile.ZipFile(path) as archive:  # torch itself does not look at the checksums
                if (damaged := archive.testzip()) is not None:
                    raise ValueError(f"{damaged} is damaged")
            module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
            if not extra["metadata.json"]:
                raise ValueError("it has no metadata.json")
            metadata = json.loads(extra["metadata.json"])
        except (RuntimeError, ValueError, OSError, zipfile.BadZipFile) as error:
            raise CVError(f"{path}: cannot be read as a CV file ({' '.join(str(error).split())[:200]}).") from error
        if metadata.get("format") != FORMAT:
            raise CVError(f"{path}: is a CV file of format {metadata.get('format')}; this version reads {FORMAT}.")
        cv = cls(module, metadata)
        if topology is not None:
            cv.check_topology(topology)
        return cv

    def _check(self, model: LaTF, features: Features, positions: np.ndarray | None) -> None:
        """The exported variable and its gradient must be those of the eager descriptors and encoder."""
        if positions is None:
            positions = 0.3 * np.random.default_rng(0).normal(size=(4, self.n_atoms, 3))
        x = torch.as_tensor(np.asarray(positions, dtype=np.float64)[:16]).requires_grad_(True)
        box = 10.0 * torch.eye(3, dtype=torch.float64).expand(len(x), 3, 3) if self.periodic else None
        eager = (features(x, box) - model.feature_mean.double()) * model.feature_scale.double()
        eager = _double(model.encoder)(eager)
        exported = self.module(x, box)
        gradients = [torch.autograd.grad(u.square().sum(), x)[0] for u in (eager, exported)]
        for what, a, b in (("value", eager, exported), ("gradient", *gradients)):
            difference = float((a - b).detach().abs().max() / (1 + a.detach().abs().max()))
            if not difference <= TOLERANCE:
                raise CVError(
                    f"LatentCV: the exported {what} differs from the eager one by {difference:.2g}; not exported."
                )

    def _frames(self, positions) -> np.ndarray:
        """Training frames (n, N, 3), of which there is one at least."""
        _without_unit(positions)
        frames = np.asarray(positions)
        if frames.ndim != 3 or frames.shape[1:] != (self.n_atoms, 3) or not len(frames):
            raise CVError(f"LatentCV: training frames must be (n, {self.n_atoms}, 3), n > 0; got {frames.shape}.")
        return frames

    def _measure(self, positions: np.ndarray, boxes: np.ndarray | None, force_limit: float) -> None:
        """Note the mean steepness, and refuse one that no simulation could follow."""
        squares, steepest = [], []
        for slopes in self._slopes(positions, boxes):
            of_atoms = np.linalg.norm(slopes, axis=-1)
            squares.append((of_atoms**2).sum(-1))
            steepest.append(of_atoms.max(-1))
        self.steepness = np.sqrt(np.concatenate(squares).mean(0))
        self.metadata["steepness"] = self.steepness.tolist()
        # A Gaussian of width sigma is steepest at sigma from its centre: exp(-1/2) / sigma.
        pushes = np.exp(-0.5) * np.concatenate(steepest) / self.sigma
        for k, push in enumerate(np.quantile(pushes, 0.999, axis=0)):
            if not push <= force_limit:
                raise CVError(
                    f"LatentCV: component {k} is too steep to bias: on its training frames a hill of 1 kJ/mol pushes "
                    f"an atom with up to {push:.3g} kJ/mol/nm, more than the limit of {force_limit:g}. Train with more "
                    "weight decay or a longer lag, or with descriptors that change less from structure to structure; "
                    "force_limit raises the limit."
                )


def _without_unit(positions) -> None:
    if hasattr(positions, "value_in_unit"):
        raise CVError("LatentCV: positions carry a unit; pass positions.value_in_unit(openmm.unit.nanometer).")


def _double(module: nn.Module) -> nn.Module:
    import copy

    return copy.deepcopy(module).double()


def _folded_encoder(model: LaTF) -> nn.Module:
    """The encoder in double precision with the scaling of descriptors folded into its first layer."""
    encoder = _double(model.encoder)
    first, scale = encoder[0], model.feature_scale.double()
    with torch.no_grad():
        first.bias -= first.weight @ (model.feature_mean.double() * scale)
        first.weight *= scale
    layers = [_Linear(layer.weight, layer.bias) if isinstance(layer, nn.Linear) else layer for layer in encoder]
    return nn.Sequential(*layers)


def _round_trip(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """Through bytes and back, so that what is checked is what a file would give."""
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)
