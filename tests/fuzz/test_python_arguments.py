"""Wrong arguments to every public function: one sentence that names the argument, no error of torch or OpenMM.

The table has one line for each call: what is passed, and words that the sentence must have.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import mdtraj
import numpy as np
import openmm
import pytest
import torch
from helpers.molecules import alanine, alanine_cv, alanine_model, alanine_system, alanine_topology, frames, positions
from openmm import app, unit

import latf_sampling as ls
from latf_sampling.cv.variable import Variable
from latf_sampling.data.dataset import enthalpy
from latf_sampling.errors import LatfError

X = np.random.default_rng(0).normal(size=(60, 3))
PS = unit.picosecond
QUICK = {"initial_states": 4, "refinements": 1, "refinement_epochs": 1, "joint_epochs": 1, "flow_epochs": 1}
RAW = [
    "Traceback",
    "Error:",
    "<class",
    "tensor(",
    "object at 0x",
    "weights_only",
    "NoneType",
    "unexpected keyword",
    "\n",
]
"""What no sentence has."""


def with_nan(x: np.ndarray, *index: int) -> np.ndarray:
    x = np.array(x, float)
    x[index] = np.nan
    return x


@pytest.fixture(scope="module")
def our(tmp_path_factory) -> SimpleNamespace:
    """Whatever the calls need, made once; no call changes it."""
    folder = tmp_path_factory.mktemp("files")
    model, features = alanine_model()
    cv, system = alanine_cv(), alanine_system()
    model.save(folder / "model.pt")
    cv.save(folder / "cv.pt")
    (folder / "empty.pt").write_bytes(b"")
    (folder / "text.json").write_text(json.dumps({"a": 1}))
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (folder / "folder.pt").mkdir()
    for name in ("model", "cv"):
        content = (folder / f"{name}.pt").read_bytes()
        (folder / f"half-{name}.pt").write_bytes(content[: len(content) // 2])
        flipped = bytearray(content)
        flipped[len(content) // 3] ^= 0xFF
        (folder / f"flipped-{name}.pt").write_bytes(bytes(flipped))
    torch.save({"a": np.array([1, 2])}, folder / "objects.pt")
    torch.save([1, 2], folder / "list.pt")
    umbrella = ls.Umbrella(copy.deepcopy(system), cv, np.zeros(2), 1.0)
    integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.002)
    biased = copy.deepcopy(system)
    bias = ls.FlowBias(biased, cv, model, 300.0, 8)
    simulation = app.Simulation(alanine_topology(), biased, integrator, openmm.Platform.getPlatformByName("Reference"))
    simulation.context.setPositions(positions())
    archive = mdtraj.Trajectory(frames(3), mdtraj.Topology.from_openmm(alanine().topology))
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.networks.encoder.parameters()).mul_(1.01)
    return SimpleNamespace(
        model=model,
        other=other,
        features=features,
        cv=cv,
        system=system,
        forces=system.getNumForces(),
        topology=alanine_topology(),
        archive=archive,
        folder=folder,
        umbrella=umbrella,
        bias=bias,
        simulation=simulation,
        series=ls.Series(X, energies=np.arange(60.0), interval=0.5),
        dataset=ls.Dataset([ls.Series(X)], 1),
        u=np.zeros((3, 2)),
        x=model.networks.feature_mean.numpy()[None],
        n=len(features.names),
    )


SERIES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "x of one dimension": (lambda o: ls.Series(X[:, 0]), "x must have the shape"),
    "x empty": (lambda o: ls.Series(X[:0]), "x must have the shape"),
    "x without columns": (lambda o: ls.Series(X[:, :0]), "x must have the shape"),
    "x text": (lambda o: ls.Series("x.npy"), "x must be an array of real numbers"),
    "x None": (lambda o: ls.Series(None), "x must be"),
    "x complex": (lambda o: ls.Series(X + 1j), "x must be an array of real numbers"),
    "x objects": (lambda o: ls.Series(np.array([[object()]])), "x must be an array of real numbers"),
    "x ragged": (lambda o: ls.Series([[1, 2], [3]]), "x must be an array of real numbers"),
    "x quantity": (lambda o: ls.Series(X * unit.nanometer), "x must be an array of real numbers"),
    "x of three dimensions": (lambda o: ls.Series(X[None]), "Features measures positions"),
    "x a column": (lambda o: ls.Series(X[:, 0]), "x[:, None]"),
    "x ragged rows": (lambda o: ls.Series([[1, 2], [3]]), "whose rows differ in length"),
    "x a file": (lambda o: ls.Series("x.npy"), "numpy.load('x.npy')"),
    "x in nm": (lambda o: ls.Series(X * unit.nanometer), "values.value_in_unit(unit)"),
    "x NaN": (lambda o: ls.Series(with_nan(X, 7, 1)), "x is nan in frame 7, column 1, which is no finite number"),
    "x too large": (lambda o: ls.Series(X + 1e300), "x is 1e+300 in frame 0, column 0, which is beyond single"),
    "temperature 0": (lambda o: ls.Series(X, 0), "temperature: must be more than 0 K"),
    "temperature a time": (lambda o: ls.Series(X, 300 * PS), "temperature"),
    "temperature text": (lambda o: ls.Series(X, "300 kJ"), "temperature"),
    "temperature True": (lambda o: ls.Series(X, True), "temperature"),
    "temperature NaN": (lambda o: ls.Series(X, np.nan), "temperature"),
    "temperatures": (lambda o: ls.Series(X, [300.0] * 60), "temperature"),
    "weights NaN": (
        lambda o: ls.Series(X, weights=with_nan(np.ones(60), 5)),
        "weights are not finite in frame 5 (nan); leave the frame out",
    ),
    "weights negative": (lambda o: ls.Series(X, weights=-np.ones(60)), "weights must not be negative; frame 0 has -1"),
    "weights zero": (lambda o: ls.Series(X, weights=np.zeros(60)), "all weights are 0"),
    "weights 1e308": (lambda o: ls.Series(X, weights=np.full(60, 1e308)), "divide them by the largest"),
    "in_density": (lambda o: ls.Series(X, in_density="yes"), "in_density must be True or False"),
    "weights few": (
        lambda o: ls.Series(X, weights=np.ones(59)),
        "weights must have one value for each of the 60 frames",
    ),
    "weights text": (lambda o: ls.Series(X, weights=["a"] * 60), "weights must be an array of real numbers"),
    "weights complex": (lambda o: ls.Series(X, weights=1j * np.ones(60)), "weights must be an array of real numbers"),
    "labels 1.5": (
        lambda o: ls.Series(X, labels=np.full(60, 1.5)),
        "labels must be whole numbers from 0; frame 0 has 1.5",
    ),
    "labels negative": (lambda o: ls.Series(X, labels=np.full(60, -1)), "labels must be state indices from 0"),
    "energies few": (lambda o: ls.Series(X, energies=[1.0]), "energies must have one value for each"),
    "energies inf": (lambda o: ls.Series(X, energies=np.full(60, np.inf)), "energies are not finite in frame 0 (inf)"),
    "energies 1e30": (lambda o: ls.Series(X, energies=np.full(60, 1e30)), "give them in kJ/mol"),
    "energies of a clash": (
        lambda o: ls.Series(X, energies=np.r_[np.arange(59), 1e9]),
        "the energy of frame 59 is 1e+09",
    ),
    "energies a length": (lambda o: ls.Series(X, energies=np.zeros(60) * unit.nanometer), "energies"),
    "energies text": (lambda o: ls.Series(X, energies="e.npy"), "energies must be an array of real numbers"),
    "interval 0": (lambda o: ls.Series(X, interval=0), "interval must be positive"),
    "interval text": (lambda o: ls.Series(X, interval="2 nm"), "interval"),
    "no list": (lambda o: ls.Dataset(o.series, 1), "series must be a list of Series"),
    "arrays": (lambda o: ls.Dataset([X], 1), "series[0] must be a Series"),
    "an array": (lambda o: ls.Dataset(X, 1), "series[0] must be a Series"),
    "a file": (lambda o: ls.Dataset("x.npz", 1), "series must be a list of Series"),
    "None": (lambda o: ls.Dataset(None, 1), "series must be a list of Series"),
    "number": (lambda o: ls.Dataset(3, 1), "series must be a list of Series"),
    "no series": (lambda o: ls.Dataset([], 1), "no series was passed in series; give one or more"),
    "lag time of no interval": (lambda o: ls.Dataset([ls.Series(X)], "2 ps"), "the series have no interval"),
    "lag quantity of no interval": (lambda o: ls.Dataset([ls.Series(X)], 2 * PS), "the series have no interval"),
    "lag no multiple": (lambda o: ls.Dataset([o.series], "0.7 ps"), "0.5 ps between frames; the nearest is 0.5 ps"),
    "lag shorter than a frame": (lambda o: ls.Dataset([o.series], 1e-9 * PS), "no multiple of the 0.5 ps"),
    "lag a length": (lambda o: ls.Dataset([o.series], 2 * unit.nanometer), "lag: 2 nm is not a time"),
    "lag text": (lambda o: ls.Dataset([o.series], "ten"), "lag: 'ten'"),
    "lag without unit": (lambda o: ls.Dataset([o.series], "10"), "has no unit"),
    "lag None": (lambda o: ls.Dataset([o.series], None), "lag must be a whole number of frames"),
    "lag 0": (lambda o: ls.Dataset([o.series], 0), "lag must be a whole number of frames"),
    "lag 1.5": (lambda o: ls.Dataset([o.series], 1.5), "lag must be a whole number of frames"),
    "lag True": (lambda o: ls.Dataset([o.series], True), "lag must be a whole number of frames"),
    "lag NaN": (lambda o: ls.Dataset([o.series], np.nan), "lag must be a whole number of frames"),
    "lags": (lambda o: ls.Dataset([o.series], [1, 2]), "lag must be a whole number of frames"),
    "lag of all frames": (lambda o: ls.Dataset([o.series], 60), "has 60 frames; a lag of 60 leaves no pair"),
    "lag of all frames as time": (lambda o: ls.Dataset([o.series], "30 ps"), "a lag of 60 leaves no pair"),
    "boltzmann 0": (lambda o: ls.Dataset([o.series], 1, boltzmann=0), "boltzmann must be a number above 0"),
    "boltzmann True": (lambda o: ls.Dataset([o.series], 1, boltzmann=True), "boltzmann must be a number above 0"),
    "boltzmann text": (lambda o: ls.Dataset([o.series], 1, boltzmann="kB"), "boltzmann must be a number above 0"),
    "names text": (lambda o: ls.Dataset([o.series], 1, names="abc"), "names must be a list of texts"),
    "subset": (lambda o: o.series.subset([7]), "columns must be indices from 0 to 2"),
    "enthalpy": (lambda o: enthalpy([1.0], [1.0, 2.0], 1.0), "1 energies and 2 volumes"),
    "enthalpy text": (lambda o: enthalpy("a", [1.0], 1.0), "energies must be an array of real numbers"),
    "names": (lambda o: ls.Dataset([o.series], 1, names=["a"]), "1 name for 3 descriptors; give one for each"),
    "widths": (
        lambda o: ls.Dataset([o.series, ls.Series(X[:, :2], interval=0.5)], 1),
        "3 in series 0 and 2 in series 1",
    ),
    "energies of some": (
        lambda o: ls.Dataset([ls.Series(X), ls.Series(X, energies=np.arange(60.0)), ls.Series(X)], 1),
        "series 1 carry energies, and series 0, 2 carry no energies",
    ),
    "labels of some": (
        lambda o: ls.Dataset([ls.Series(X), ls.Series(X, labels=[0] * 60)], 1),
        "series 1 carry labels, and series 0 carry no labels",
    ),
    "intervals": (
        lambda o: ls.Dataset([ls.Series(X, interval=1.0), ls.Series(X, interval=2.0)], 1),
        "take one frame in 2 of series 0",
    ),
    "columns of arrays": (lambda o: ls.select_columns([X], 1), "series[0] must be a Series"),
    "columns of an array": (lambda o: ls.select_columns(X, 1), "series[0] must be a Series"),
    "columns of a model": (lambda o: ls.select_columns(o.model, 1), "series must be a list of Series"),
    "columns lag": (lambda o: ls.select_columns(ls.Series(X), "2 ps"), "the series have no interval"),
    "columns lag 0": (lambda o: ls.select_columns(ls.Series(X), 0), "lag must be a whole number of frames"),
    "columns keep": (lambda o: ls.select_columns(ls.Series(X), 1, 1.5), "keep must be at least 1"),
    "columns keep text": (lambda o: ls.select_columns(ls.Series(X), 1, "all"), "keep must be at least 1"),
    "columns keep True": (lambda o: ls.select_columns(ls.Series(X), 1, True), "keep must be at least 1"),
    "columns correlation": (lambda o: ls.select_columns(ls.Series(X), 1, correlation="high"), "correlation must be"),
    "columns correlation True": (
        lambda o: ls.select_columns(ls.Series(X), 1, correlation=True),
        "above 0 and at most 1",
    ),
    "columns constant": (lambda o: ls.select_columns(ls.Series(np.ones((60, 2))), 1), "give other descriptors"),
    "columns one frame": (lambda o: ls.select_columns(ls.Series(X[:1]), 1), "give a shorter lag"),
    "columns of two widths": (lambda o: ls.select_columns([ls.Series(X), ls.Series(X[:, :2])], 1), "different numbers"),
    "scan arrays": (lambda o: ls.scan_lags([X]), "series[0] must be a Series"),
    "scan one": (lambda o: ls.scan_lags(o.series), "series must be a list of Series"),
    "scan a data set": (lambda o: ls.scan_lags(o.dataset), "series must be a list of Series"),
    "scan lag": (lambda o: ls.scan_lags([o.series], 2), "lags must be a list"),
    "scan lag text": (lambda o: ls.scan_lags([o.series], "2 ps"), "lags must be a list"),
    "scan lags 0": (lambda o: ls.scan_lags([o.series], [0]), "lags must be whole numbers of frames"),
    "scan lags True": (lambda o: ls.scan_lags([o.series], [True]), "lags must be whole numbers of frames"),
    "scan lags 50": (lambda o: ls.scan_lags([o.series], [50]), "give lags up to 6, or longer series"),
    "scan widths": (lambda o: ls.scan_lags([o.series, ls.Series(X[:, :2])], [1]), "scan_lags: series have different"),
    "scan seeds": (lambda o: ls.scan_lags([o.series], [1], seeds=1.5), "seeds must be at least 1"),
    "scan model": (lambda o: ls.scan_lags([o.series], [1], model=o.model), "model must be a ModelSettings"),
    "scan training": (lambda o: ls.scan_lags([o.series], [1], training={}), "training must be a TrainingSettings"),
    "scan progress": (lambda o: ls.scan_lags([o.series], [1], progress="bar"), "progress must be a function"),
    "scan ten frames": (lambda o: ls.scan_lags([ls.Series(X[:9])]), "too few for any lag; a lag of one frame needs 10"),
}


MODELS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "LaTF 3": (lambda o: ls.LaTF(3), "settings must be ModelSettings"),
    "LaTF text": (lambda o: ls.LaTF("model.pt"), "settings must be ModelSettings"),
    "LaTF dict": (lambda o: ls.LaTF({"latent_dim": 2}), "settings must be ModelSettings"),
    "LaTF both": (lambda o: ls.LaTF(ls.ModelSettings(), latent_dim=2), "not both"),
    "LaTF dim 0": (lambda o: ls.LaTF(latent_dim=0), "latent_dim"),
    "LaTF unknown": (lambda o: ls.LaTF(latent_dims=2), "latent_dims"),
    "ModelSettings without name": (lambda o: ls.ModelSettings(2), "ModelSettings(latent_dim=...)"),
    "ModelSettings changed": (lambda o: setattr(ls.ModelSettings(), "latent_dim", 2), "make new ones"),
    "LaTF temperature": (lambda o: ls.LaTF(reference_temperature=2 * PS), "reference_temperature"),
    "train a list": (lambda o: ls.train(ls.LaTF(), [o.series]), "dataset must be a Dataset"),
    "train a series": (lambda o: ls.train(ls.LaTF(), o.series), "dataset must be a Dataset"),
    "train an array": (lambda o: ls.train(ls.LaTF(), X), "dataset must be a Dataset"),
    "train swapped": (lambda o: ls.train(o.dataset, ls.LaTF()), "model must be a LaTF; got a Dataset"),
    "train a file": (lambda o: ls.train("model.pt", o.dataset), "Load the file first: LaTF.load('model.pt')"),
    "train the class": (lambda o: ls.train(ls.LaTF, o.dataset), "model must be a LaTF; got the class LaTF"),
    "train settings": (lambda o: ls.train(ls.LaTF(), o.dataset, settings=ls.ModelSettings()), "settings must be"),
    "train unknown": (lambda o: ls.train(ls.LaTF(), o.dataset, epochs=3), "epochs"),
    "train seed": (lambda o: ls.train(ls.LaTF(), o.dataset, seed=1.5), "seed"),
    "train seed text": (lambda o: ls.train(ls.LaTF(), o.dataset, seed="a"), "seed"),
    "train device": (lambda o: ls.train(ls.LaTF(), o.dataset, device="gpu7"), "gpu7"),
    "train ten frames": (
        lambda o: ls.train(ls.LaTF(), ls.Dataset([ls.Series(X[:10])], 1)),
        "10 frames are too few to learn from; give longer series, of more",
    ),
    "train progress": (lambda o: ls.train(ls.LaTF(), o.dataset, progress="bar"), "progress must be a function"),
    "train again": (lambda o: ls.train(o.model, o.dataset), "trained already"),
    "not trained": (lambda o: ls.LaTF().encode(X), "not trained yet"),
    "sample 0": (lambda o: o.model.sample(0), "n must be at least 1"),
    "sample -1": (lambda o: o.model.sample(-1), "n must be at least 1"),
    "sample many": (lambda o: o.model.sample(10**12), "n must be at most 100,000,000"),
    "sample 1.5": (lambda o: o.model.sample(1.5), "n must be at least 1"),
    "sample True": (lambda o: o.model.sample(True), "n must be at least 1"),
    "sample None": (lambda o: o.model.sample(None), "n must be at least 1"),
    "sample text": (lambda o: o.model.sample("ten"), "n must be at least 1"),
    "sample shape": (lambda o: o.model.sample((3, 2)), "n must be at least 1"),
    "sample seed": (lambda o: o.model.sample(1, seed=1.5), "seed must be"),
    "sample seed -1": (lambda o: o.model.sample(1, seed=-1), "seed must be"),
    "sample temperature": (lambda o: o.model.sample(1, -300), "temperature: must be more than 0 K"),
    "sample temperature text": (lambda o: o.model.sample(1, "300"), "temperature"),
    "populations seed": (lambda o: o.model.populations(300, seed="a"), "seed must be"),
    "populations temperature": (lambda o: o.model.populations(np.inf), "temperature"),
    "populations error": (lambda o: o.model.populations(300, return_std=True), "ensemble"),
    "effective temperature": (lambda o: o.model.effective_sample_size("hot"), "temperature"),
    "extrapolates": (lambda o: o.model.extrapolates(0), "temperature"),
    "columns": (lambda o: o.model.encode(X), "got (60, 3); measure the descriptors of the training"),
    "one frame": (lambda o: o.model.encode(o.x[0]), "one row is values[None]"),
    "no array": (lambda o: o.model.encode("x.npy"), "descriptors must be an array of real numbers"),
    "None": (lambda o: o.model.encode(None), "descriptors must be"),
    "complex": (lambda o: o.model.encode(o.x + 1j), "descriptors must be an array of real numbers"),
    "complex tensor": (lambda o: o.model.encode(torch.from_numpy(o.x + 0j)), "descriptors must be real numbers"),
    "objects": (lambda o: o.model.encode(np.full((1, o.n), object())), "descriptors must be an array of real numbers"),
    "encode NaN": (lambda o: o.model.encode(with_nan(o.x, 0, 4)), "not finite in row 0, column 4 (nan); leave the row"),
    "encode inf": (lambda o: o.model.encode(np.full((2, o.n), np.inf)), "not finite in row 0, column 0"),
    "assign NaN": (lambda o: o.model.assign(np.full((2, o.n), np.nan)), "not finite in row 0, column 0"),
    "assign a series": (lambda o: o.model.assign(o.series), "descriptors must be an array of real numbers"),
    "assign tensor": (lambda o: o.model.assign(torch.full((1, o.n), torch.nan)), "not finite in row 0"),
    "log_prob NaN": (lambda o: o.model.log_prob(with_nan(o.u, 2, 1)), "latent dimensions are not finite in row 2"),
    "log_prob shape": (lambda o: o.model.log_prob(np.zeros((3, 3))), "expected an array (n, 2) of latent dimensions"),
    "log_prob one": (lambda o: o.model.log_prob([0.0, 0.0]), "expected an array (n, 2)"),
    "free_energy inf": (lambda o: o.model.free_energy(o.u + np.inf), "latent dimensions are not finite"),
    "free_energy temperature": (lambda o: o.model.free_energy(o.u, 300 * PS), "temperature"),
    "free_energy text": (lambda o: o.model.free_energy([["a", "b"]]), "latent dimensions must be an array of real"),
    "probabilities": (lambda o: o.model.state_probabilities(with_nan(o.u, 0, 0)), "latent dimensions are not finite"),
    "evaluate swapped": (lambda o: ls.evaluate(o.dataset, o.model), "model must be a LaTF"),
    "evaluate series": (lambda o: ls.evaluate(o.model, [o.series]), "dataset must be the Dataset"),
    "evaluate progress": (lambda o: ls.evaluate(o.model, o.dataset, progress=1), "progress must be a function"),
    "evaluate references": (lambda o: ls.evaluate(o.model, o.dataset, [X]), "references[0] must be a Series"),
    "evaluate reference": (lambda o: ls.evaluate(o.model, o.dataset, o.series), "references must be a list of Series"),
    "evaluate reference file": (lambda o: ls.evaluate(o.model, o.dataset, "x.npz"), "references must be a list"),
    "rank swapped": (lambda o: ls.rank_descriptors(X, o.model), "model must be a LaTF"),
    "rank a file": (lambda o: ls.rank_descriptors("model.pt", X), "LaTF.load('model.pt')"),
    "rank text": (lambda o: ls.rank_descriptors(o.model, "x.npy"), "data must be an array of real numbers"),
    "rank none": (lambda o: ls.rank_descriptors(o.model, np.zeros((0, o.n))), "got an array of the shape (0, 45)"),
    "rank NaN": (lambda o: ls.rank_descriptors(o.model, with_nan(np.tile(o.x, (3, 1)), 2, 1)), "row 2, column 1"),
    "rank columns": (lambda o: ls.rank_descriptors(o.model, X), "expected an array (n,"),
    "rank names": (lambda o: ls.rank_descriptors(o.model, np.tile(o.x, (3, 1)), ["a"]), "1 name for"),
}


def variable(**changes: Any) -> Variable:
    class First(torch.nn.Module):
        def forward(self, positions: torch.Tensor, box: torch.Tensor | None) -> torch.Tensor:
            return positions[..., 0, :1]

    usual = {"function": First(), "atoms": [0], "n_atoms": 2, "bounds": [[0.0, 1.0]], "sigma": [0.1]}
    return Variable(**{**usual, **changes})


VARIABLES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "from_model swapped": (
        lambda o: ls.LatentCV.from_model(o.features, o.model),
        "model must be a LaTF; got a Features",
    ),
    "from_model a file": (lambda o: ls.LatentCV.from_model("model.pt", o.features), "LaTF.load('model.pt')"),
    "from_model spec": (
        lambda o: ls.LatentCV.from_model(o.model, [{"torsions": "phi"}]),
        "features must be the Features",
    ),
    "from_model positions": (lambda o: ls.LatentCV.from_model(o.model, o.features, positions()), "must be (n, 22, 3)"),
    "from_model NaN": (
        lambda o: ls.LatentCV.from_model(o.model, o.features, with_nan(frames(2), 1, 3, 0)),
        "frame 1, atom 3 is not finite",
    ),
    "from_model not trained": (lambda o: ls.LatentCV.from_model(ls.LaTF(), o.features), "not trained"),
    "atoms": (lambda o: o.cv(positions()[:5]), "expected positions (..., 22, 3); got (5, 3)"),
    "plane": (lambda o: o.cv(positions()[:, :2]), "expected positions (..., 22, 3)"),
    "text": (lambda o: o.cv("frame.pdb"), "positions"),
    "None": (lambda o: o.cv(None), "positions"),
    "trajectory": (lambda o: o.cv(o.archive), "positions"),
    "complex": (lambda o: o.cv(positions() + 1j), "positions"),
    "a time": (lambda o: o.cv(positions() * PS), "positions"),
    "NaN": (lambda o: o.cv(with_nan(frames(3), 2, 5, 0)), "the position of atom 5 in frame 2 is not finite"),
    "NaN of one": (lambda o: o.cv(with_nan(positions(), 5, 0)), "the position of atom 5 is not finite"),
    "inf tensor": (lambda o: o.cv(torch.full((22, 3), torch.inf)), "the position of atom 0 is not finite"),
    "gradients of one": (lambda o: o.cv.gradients(positions()), "expected frames (n, 22, 3); got (22, 3)"),
    "gradients NaN": (lambda o: o.cv.gradients(with_nan(frames(2), 1, 0, 0)), "atom 0 in frame 1 is not finite"),
    "of a simulation": (lambda o: o.cv.of_context(o.simulation), "expected an openmm.Context"),
    "mobility": (lambda o: o.cv.mobility(frames(2), np.ones(3)), "masses must be (22,)"),
    "topology": (lambda o: o.cv.check_topology(mdtraj.Topology()), "another topology"),
    "function": (lambda o: variable(function=lambda x: x), "the function must be a torch.nn.Module"),
    "atoms text": (lambda o: variable(atoms="name CA"), "atoms must be"),
    "atoms 3": (lambda o: variable(atoms=3), "atoms must be"),
    "n_atoms": (lambda o: variable(n_atoms=1.5), "n_atoms must be"),
    "bounds": (lambda o: variable(bounds="wide"), "bounds must be"),
    "sigma": (lambda o: variable(sigma=[np.nan]), "sigma must be"),
    "sigma text": (lambda o: variable(sigma="narrow"), "sigma must be"),
}

for name in ("empty.pt", "text.json", "picture.png", "folder.pt", "missing.pt", "objects.pt", "list.pt"):
    MODELS[f"load {name}"] = (lambda o, name=name: ls.LaTF.load(o.folder / name), f"{name}: ")
    VARIABLES[f"load {name}"] = (lambda o, name=name: ls.LatentCV.load(o.folder / name), f"{name}: ")
MODELS |= {
    "load a CV": (lambda o: ls.LaTF.load(o.folder / "cv.pt"), "not a LaTF model; see LatentCV.load"),
    "load objects": (lambda o: ls.LaTF.load(o.folder / "objects.pt"), "holds Python objects"),
    "load half": (lambda o: ls.LaTF.load(o.folder / "half-model.pt"), "damaged or cut off"),
    "load flipped": (lambda o: ls.LaTF.load(o.folder / "flipped-model.pt"), "damaged"),
    "load nothing": (lambda o: ls.LaTF.load(None), "a path is needed"),
    "save nothing": (lambda o: o.model.save(None), "path must be the path of a file"),
    "save a folder": (lambda o: o.model.save(o.folder), ""),
    "train checkpoint": (
        lambda o: ls.train(ls.LaTF(), o.dataset, checkpoint=3),
        "checkpoint must be the path of a file",
    ),
    "rank names text": (
        lambda o: ls.rank_descriptors(o.model, np.tile(o.x, (3, 1)), 3),
        "names must be a list of texts",
    ),
    "load number": (lambda o: ls.LaTF.load(3), "a path is needed"),
}
VARIABLES |= {
    "load a model": (lambda o: ls.LatentCV.load(o.folder / "model.pt"), "see LaTF.load"),
    "load half": (lambda o: ls.LatentCV.load(o.folder / "half-cv.pt"), "damaged or cut off"),
    "load flipped": (lambda o: ls.LatentCV.load(o.folder / "flipped-cv.pt"), "damaged"),
    "load nothing": (lambda o: ls.LatentCV.load(None), "a path is needed"),
    "save nothing": (lambda o: o.cv.save(3), "path must be the path of a file"),
    "load topology": (lambda o: ls.LatentCV.load(o.folder / "cv.pt", "alanine.pdb"), "topology"),
}


def biases(o: SimpleNamespace, system: Any, cv: Any, **options: Any) -> dict[str, Callable[[], Any]]:
    """Every kind of bias with the same system and variable."""
    return {
        "Metadynamics": lambda: ls.Metadynamics(system, cv, 300.0, 10, 1.0, 100, **options),
        "OPES": lambda: ls.OPES(system, cv, 300.0, 30.0, 100, **options),
        "FlowBias": lambda: ls.FlowBias(system, cv, o.model, 300.0, 8, **options),
        "Umbrella": lambda: ls.Umbrella(system, cv, [0.0, 0.0], 1.0, **options),
    }


def metadynamics(o: SimpleNamespace, **changes: Any) -> ls.Metadynamics:
    usual = {"temperature": 300.0, "bias_factor": 10, "height": 1.0, "frequency": 100, "read_only": True}
    return ls.Metadynamics(o.system, o.cv, **{**usual, **changes})


def opes(o: SimpleNamespace, **changes: Any) -> ls.OPES:
    return ls.OPES(
        o.system, o.cv, **{"temperature": 300.0, "barrier": 30.0, "frequency": 100, "read_only": True, **changes}
    )


def flow_bias(o: SimpleNamespace, **changes: Any) -> ls.FlowBias:
    usual = {"model": o.model, "temperature": 300.0, "bias_factor": 8, "read_only": True}
    return ls.FlowBias(o.system, o.cv, **{**usual, **changes})


BIASES: dict[str, tuple[Callable[[Any], Any], str]] = {}
for kind in ("Metadynamics", "OPES", "FlowBias", "Umbrella"):
    BIASES |= {
        f"{kind} swapped": (
            lambda o, k=kind: biases(o, o.cv, o.system)[k](),
            f"{kind}: system must be an openmm.System",
        ),
        f"{kind} a file": (lambda o, k=kind: biases(o, o.system, "cv.pt")[k](), "LatentCV.load('cv.pt')"),
        f"{kind} a model": (lambda o, k=kind: biases(o, o.system, o.model)[k](), f"{kind}: cv must be a collective"),
        f"{kind} a class": (lambda o, k=kind: biases(o, o.system, ls.LatentCV)[k](), "got the class LatentCV"),
        f"{kind} features": (
            lambda o, k=kind: biases(o, o.system, o.features)[k](),
            f"{kind}: cv must be a collective",
        ),
        f"{kind} a simulation": (
            lambda o, k=kind: biases(o, o.simulation, o.cv)[k](),
            "system must be an openmm.System",
        ),
        f"{kind} XML": (lambda o, k=kind: biases(o, "system.xml", o.cv)[k](), "system must be an openmm.System"),
        f"{kind} atoms": (lambda o, k=kind: biases(o, openmm.System(), o.cv)[k](), "made for 22 atoms"),
        f"{kind} backend": (lambda o, k=kind: biases(o, o.system, o.cv, backend="bad")[k](), "backend must be"),
    }
    if kind != "Umbrella":
        BIASES[f"{kind} backend, read only"] = (
            lambda o, k=kind: biases(o, o.system, o.cv, backend="bad", read_only=True)[k](),
            "backend must be",
        )
NUMBERS = {
    "text": "many",
    "NaN": np.nan,
    "inf": np.inf,
    "negative": -1.0,
    "None": None,
    "list": [1.0, 2.0],
    "True": True,
}
for name, value in NUMBERS.items():
    BIASES |= {
        f"height {name}": (lambda o, v=value: metadynamics(o, height=v), "height"),
        f"bias factor {name}": (lambda o, v=value: metadynamics(o, bias_factor=v), "bias_factor"),
        f"temperature {name}": (lambda o, v=value: metadynamics(o, temperature=v), "temperature"),
        f"frequency {name}": (lambda o, v=value: metadynamics(o, frequency=v), "frequency"),
        f"OPES barrier {name}": (lambda o, v=value: opes(o, barrier=v), "barrier"),
        f"OPES narrowest {name}": (lambda o, v=value: opes(o, narrowest=v), "narrowest"),
        f"OPES temperature {name}": (lambda o, v=value: opes(o, temperature=v), "temperature"),
        f"FlowBias factor {name}": (lambda o, v=value: flow_bias(o, bias_factor=v), "bias_factor"),
        f"FlowBias frequency {name}": (lambda o, v=value: flow_bias(o, frequency=v), "frequency"),
        f"trust threshold {name}": (lambda o, v=value: ls.TrustRegion(o.model, 300.0, v), "threshold"),
        f"respa timestep {name}": (
            lambda o, v=value: ls.respa_integrator(o.simulation.system, o.bias, 300.0, 1.0, v, 2),
            "timestep",
        ),
        f"respa stride {name}": (
            lambda o, v=value: ls.respa_integrator(o.simulation.system, o.bias, 300.0, 1.0, 0.002, v),
            "stride",
        ),
    }
del BIASES["OPES narrowest None"]  # the default
BIASES |= {
    "frequency a time": (lambda o: metadynamics(o, frequency=1 * PS), "Divide a time by the time step"),
    "frequency time text": (lambda o: metadynamics(o, frequency="1 ps"), "Divide a time by the time step"),
    "save_frequency a time": (lambda o: metadynamics(o, save_frequency=1 * PS), "save_frequency must be a whole"),
    "OPES frequency a time": (lambda o: opes(o, frequency=1 * PS), "Divide a time by the time step"),
    "height a time": (lambda o: metadynamics(o, height=1 * PS), "Metadynamics: height"),
    "walls": (lambda o: metadynamics(o, walls="no"), "walls must be True or False"),
    "read_only": (lambda o: metadynamics(o, read_only="no"), "read_only must be True or False"),
    "Umbrella walls": (lambda o: ls.Umbrella(o.system, o.cv, [0, 0], 1.0, "no"), "walls must be True or False"),
    "Umbrella centers True": (lambda o: ls.Umbrella(o.system, o.cv, [True, False], 1.0), "centers must be 2 finite"),
    "width True": (lambda o: metadynamics(o, width=True), "width must be one number or 2, in units of cv.sigma"),
    "width": (lambda o: metadynamics(o, width="narrow"), "width must be"),
    "width array": (lambda o: metadynamics(o, width=np.ones(3)), "width must be one number or 2"),
    "model a file": (lambda o: metadynamics(o, model="model.pt"), "LaTF.load('model.pt')"),
    "model not trained": (lambda o: metadynamics(o, model=ls.LaTF()), "call latf_sampling.train first"),
    "model of another round": (lambda o: metadynamics(o, model=o.other), "exported from another model"),
    "trust True": (lambda o: metadynamics(o, trust=True), "trust must be a TrustRegion"),
    "trust a number": (lambda o: opes(o, trust=30.0), "trust must be a TrustRegion"),
    "trust of another round": (
        lambda o: metadynamics(o, trust=ls.TrustRegion(o.other, 300.0, on_leaving="stop")),
        "exported from another model",
    ),
    "walker": (lambda o: metadynamics(o, walker="a/b"), "walker must be a name"),
    "directory": (lambda o: metadynamics(o, directory=3), "directory must be the path of a folder"),
    "OPES narrowest 1e-300": (lambda o: opes(o, narrowest=1e-300), "a larger `narrowest`"),
    "OPES explore": (lambda o: opes(o, explore=1), "explore must be True or False"),
    "OPES uniform": (lambda o: opes(o, explore=True, bias_factor=np.inf), "needs a finite bias_factor"),
    "OPES region": (lambda o: opes(o, excluded_region=3.0), "excluded_region must be boxes"),
    "OPES region a list": (lambda o: opes(o, excluded_region=[[0, 1], [1]]), "excluded_region must be boxes"),
    "OPES directory": (lambda o: opes(o, directory=3), "directory must be the path of a folder"),
    "history times": (lambda o: list(metadynamics(o).free_energy_history(0)), "times must be at least 1"),
    "walker number": (lambda o: metadynamics(o, walker=3), "walker must be a name"),
    "FlowBias swapped": (lambda o: ls.FlowBias(o.system, o.model, o.cv, 300.0, 8), "cv must be a collective variable"),
    "FlowBias a file": (lambda o: flow_bias(o, model="model.pt"), "LaTF.load('model.pt')"),
    "FlowBias of another round": (lambda o: flow_bias(o, model=o.other), "exported from another model"),
    "FlowBias trust": (lambda o: flow_bias(o, trust=5), "trust must be a TrustRegion"),
    "trust a CV": (lambda o: ls.TrustRegion(o.cv, 300.0), "model must be a LaTF"),
    "trust a file": (lambda o: ls.TrustRegion("model.pt", 300.0), "LaTF.load('model.pt')"),
    "trust on_leaving": (lambda o: ls.TrustRegion(o.model, 300.0, on_leaving="fly"), "on_leaving must be"),
    "Umbrella centers": (lambda o: ls.Umbrella(o.system, o.cv, [0.0], 1.0), "centers must be 2 finite numbers"),
    "Umbrella centers text": (lambda o: ls.Umbrella(o.system, o.cv, "here", 1.0), "centers must be"),
    "Umbrella stiffness": (lambda o: ls.Umbrella(o.system, o.cv, [0, 0], -1.0), "stiffness must not be negative"),
    "Umbrella stiffness unit": (lambda o: ls.Umbrella(o.system, o.cv, [0, 0], 1 * PS), "stiffness is an energy"),
    "windows of a CV": (lambda o: ls.UmbrellaWindows(o.cv, o.u, 300.0, "w"), "umbrella must be an Umbrella"),
    "windows path": (lambda o: ls.UmbrellaWindows(o.umbrella, np.zeros((3, 1)), 300.0, "w"), "path must be finite"),
    "windows NaN": (lambda o: ls.UmbrellaWindows(o.umbrella, o.u * np.nan, 300.0, "w"), "path must be finite"),
    "windows temperature": (lambda o: ls.UmbrellaWindows(o.umbrella, o.u, "hot", "w"), "temperature"),
    "windows directory": (lambda o: ls.UmbrellaWindows(o.umbrella, o.u, 300.0, None), "directory must be"),
    "windows simulation": (
        lambda o: ls.UmbrellaWindows(o.umbrella, o.u, 300.0, "w").run(o.system, equilibrate=1, steps=1, interval=1),
        "simulation must be",
    ),
    "windows steps": (
        lambda o: ls.UmbrellaWindows(o.umbrella, o.u, 300.0, "w").run(
            o.simulation, equilibrate=1, steps=1 * PS, interval=1
        ),
        "steps must be a whole number of steps",
    ),
    "respa swapped": (
        lambda o: ls.respa_integrator(o.bias, o.system, 300.0, 1.0, 0.002, 2),
        "system must be an openmm.System",
    ),
    "respa without bias": (lambda o: ls.respa_integrator(o.system, o.cv, 300.0, 1.0, 0.002, 2), "bias must be a bias"),
    "respa friction": (
        lambda o: ls.respa_integrator(o.simulation.system, o.bias, 300.0, -1.0, 0.002, 2),
        "friction must not be negative",
    ),
    "respa seed": (
        lambda o: ls.respa_integrator(o.simulation.system, o.bias, 300.0, 1.0, 0.002, 2, seed="a"),
        "seed must be",
    ),
    "step swapped": (lambda o: o.bias.step(10, o.simulation), "simulation must be an openmm.app.Simulation"),
    "step a context": (lambda o: o.bias.step(o.simulation.context, 10), "simulation must be"),
    "step 1.5": (lambda o: o.bias.step(o.simulation, 1.5), "steps must be"),
    "step negative": (lambda o: o.bias.step(o.simulation, -1), "steps must be"),
    "step a time": (lambda o: o.bias.step(o.simulation, 1 * PS), "steps must be"),
    "step twice": (lambda o: ls.step_together(o.simulation, 1, o.bias, o.bias), "given twice"),
    "step a list": (lambda o: ls.step_together(o.simulation, 1, [o.bias]), "bias must be a bias"),
    "step nothing": (lambda o: ls.step_together(o.simulation, 1), "give the biases"),
    "move a simulation": (lambda o: o.umbrella.move_to(o.simulation, [0, 0]), "context must be an openmm.Context"),
    "height": (lambda o: ls.TrustRegion(o.model, 300.0).height(np.zeros(3)), "latent points must be (n, 2)"),
    "past steps": (lambda o: metadynamics(o).past_energy(o.u, "late"), "steps must be an array of real numbers"),
    "rewind": (lambda o: metadynamics(o).rewind(1), "Make it without read_only=True"),
    "energy shape": (lambda o: o.bias.energy(np.zeros((3, 1))), "latent points must be (n, 2)"),
    "energy text": (lambda o: o.bias.energy("here"), "u must be an array of real numbers"),
    "weights temperature": (lambda o: o.bias.weights(o.u, -1), "temperature"),
    "path of a file": (lambda o: ls.free_energy_path("model.pt", o.cv, [0, 0], [1, 1], 4), "LaTF.load('model.pt')"),
    "path swapped": (lambda o: ls.free_energy_path(o.cv, o.model, [0, 0], [1, 1], 4), "cv must be a collective"),
    "path of another round": (lambda o: ls.free_energy_path(o.other, o.cv, [0, 0], [1, 1], 4), "another model"),
    "path ends": (lambda o: ls.free_energy_path(o.model, o.cv, [0], [1, 1], 4), "start and end must be 2 numbers"),
    "path ends text": (lambda o: ls.free_energy_path(o.model, o.cv, "a", "b", 4), "start and end must be"),
    "path n": (lambda o: ls.free_energy_path(o.model, o.cv, [0, 0], [1, 1], 1.5), "n must be 2 points or more"),
    "path temperature": (lambda o: ls.free_energy_path(o.model, o.cv, [0, 0], [1, 1], 4, "hot"), "temperature"),
    "even path": (lambda o: ls.even_path([[0, 0]], 4, [1, 1]), "two different waypoints"),
    "even path text": (lambda o: ls.even_path("path", 4, [1, 1]), "waypoints must be"),
    "even path sigma": (lambda o: ls.even_path([[0], [1]], 4, "wide"), "sigma must be"),
    "even path n": (lambda o: ls.even_path([[0], [1]], "four", [1]), "n must be"),
}


def starts(o: SimpleNamespace, **changes: Any) -> Any:
    names = ("model", "cv", "archive", "system", "topology")
    usual = {**{name: getattr(o, name) for name in names}, "temperature": 300.0, "n": 2}
    return ls.generate_starts(**{**usual, **changes})


def at(o: SimpleNamespace, points: Any, **changes: Any) -> Any:
    return ls.structures_at(o.cv, o.archive, o.system, o.topology, 300.0, points, **changes)


def between(o: SimpleNamespace, ends: Any, n: Any = 4, model: Any = None) -> Any:
    return ls.structures_between(model or o.model, o.cv, o.archive, o.system, o.topology, 300.0, ends, n)


STARTS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "swapped": (lambda o: starts(o, model=o.cv, cv=o.model), "model must be a LaTF"),
    "model a file": (lambda o: starts(o, model="model.pt"), "LaTF.load('model.pt')"),
    "model of another round": (lambda o: starts(o, model=o.other), "exported from another model"),
    "cv a file": (lambda o: starts(o, cv="cv.pt"), "LatentCV.load('cv.pt')"),
    "archive a file": (lambda o: starts(o, archive="run.dcd"), "mdtraj.load('run.dcd')"),
    "archive an array": (lambda o: starts(o, archive=frames(3)), "archive must be an mdtraj.Trajectory"),
    "archive of arrays": (lambda o: starts(o, archive=[frames(3)]), "archive[0] must be an mdtraj.Trajectory"),
    "archive empty": (lambda o: starts(o, archive=[]), "no frame to start from"),
    "archive NaN": (
        lambda o: starts(o, archive=mdtraj.Trajectory(with_nan(frames(3), 1, 2, 0), o.archive.topology)),
        "the position of atom 2 in frame 1 is not finite",
    ),
    "system and topology swapped": (
        lambda o: starts(o, system=o.topology, topology=o.system),
        "system must be an openmm",
    ),
    "system XML": (lambda o: starts(o, system="system.xml"), "system must be an openmm.System"),
    "topology a file": (lambda o: starts(o, topology="a.pdb"), "topology must be an openmm.app.Topology"),
    "temperature": (lambda o: starts(o, temperature="450"), "temperature"),
    "n 0": (lambda o: starts(o, n=0), "n must be at least 1"),
    "n 1.5": (lambda o: starts(o, n=1.5), "n must be at least 1"),
    "n text": (lambda o: starts(o, n="many"), "n must be at least 1"),
    "extra_samples": (lambda o: starts(o, extra_samples=-1), "extra_samples must"),
    "extra_samples None": (lambda o: starts(o, extra_samples=None), "extra_samples must"),
    "temperatures": (lambda o: starts(o, temperatures=[1.0, 2.0]), "temperatures must be positive numbers"),
    "temperatures text": (lambda o: starts(o, temperatures="hot"), "temperatures"),
    "seed": (lambda o: starts(o, seed="a"), "seed"),
    "timestep": (lambda o: starts(o, timestep=0), "timestep must be more than 0"),
    "timestep text": (lambda o: starts(o, timestep="2 K"), "timestep"),
    "friction": (lambda o: starts(o, friction="high"), "friction"),
    "thermalise": (lambda o: starts(o, thermalise=np.nan), "thermalise"),
    "release": (lambda o: starts(o, release=-1), "release must not be negative"),
    "tolerance": (lambda o: starts(o, tolerance="wide"), "tolerance must be more than 0"),
    "tolerance NaN": (lambda o: starts(o, tolerance=np.nan), "tolerance must be more than 0"),
    "attempts": (lambda o: starts(o, attempts=0), "attempts must be at least 1"),
    "attempts 1.5": (lambda o: starts(o, attempts=1.5), "attempts must be at least 1"),
    "processes": (lambda o: starts(o, processes="all"), "processes must be at least 1"),
    "allow_cis": (lambda o: starts(o, allow_cis="no"), "allow_cis must be True or False"),
    "platform": (lambda o: starts(o, platform="GPU"), "GPU"),
    "platform number": (lambda o: starts(o, platform=3), "platform must be"),
    "directory": (lambda o: starts(o, directory=3), "directory must be"),
    "structures": (lambda o: starts(o, structures="xyz"), "structures are written as"),
    "progress": (lambda o: starts(o, progress="bar"), "progress must be a function"),
    "points shape": (lambda o: at(o, [[0.0]]), "points must be finite numbers (n, 2)"),
    "points NaN": (lambda o: at(o, [[0.0, np.nan]]), "points must be finite numbers"),
    "points text": (lambda o: at(o, "state 0"), "points must be finite numbers"),
    "points none": (lambda o: at(o, np.zeros((0, 2))), "points must be finite numbers"),
    "ends one": (lambda o: between(o, 0), "ends must be two"),
    "ends three": (lambda o: between(o, (0, 1, 2)), "ends must be two"),
    "ends state": (lambda o: between(o, (99, 0)), "the model has states 0 to 2; got 99"),
    "ends text": (lambda o: between(o, ("state 0", "state 1")), "start and end must be 2 numbers"),
    "ends n": (lambda o: between(o, ([0, 0], [1, 1]), 1.5), "n must be 2 points or more"),
    "ends model": (lambda o: between(o, (0, 1), model="model.pt"), "LaTF.load('model.pt')"),
    "ends of another round": (lambda o: between(o, (0, 1), model=o.other), "exported from another model"),
    "Features topology": (lambda o: ls.Features("a.pdb", [{"torsions": "phi"}]), "mdtraj.load(file).topology"),
    "Features spec": (lambda o: ls.Features(o.topology, "torsions"), "torsions"),
    "Features spec None": (lambda o: ls.Features(o.topology, None), "one or more entries"),
    "Features transform": (lambda o: o.features.transform(X), "call the features, features(positions)"),
    "Features positions": (lambda o: o.features(X), "positions"),
    "Campaign number": (lambda o: ls.Campaign(3, str(o.folder / "c")), "path must be the path of a protocol"),
    "Campaign directory": (lambda o: ls.Campaign.load(3), "directory must be the path of a folder"),
    "Campaign missing": (lambda o: ls.Campaign(str(o.folder / "no.yaml"), str(o.folder / "c")), "no.yaml"),
}
TABLES = {"series": SERIES, "models": MODELS, "variables": VARIABLES, "biases": BIASES, "starts": STARTS}
CALLS = [pytest.param(*line, id=f"{table}: {name}") for table, lines in TABLES.items() for name, line in lines.items()]


@pytest.mark.parametrize("call, words", CALLS)
def test_wrong_arguments_are_refused_in_one_sentence(our, call, words):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(LatfError) as caught:
            call(our)
    sentence = str(caught.value)
    assert words in sentence
    assert not [word for word in RAW if word in sentence]
    assert sentence.endswith((".", ").")) or "Load the file first" in sentence
    assert len(sentence) < 400 + len(str(our.folder))
    assert not list(our.folder.glob("c/*"))
    assert our.system.getNumForces() == our.forces
