"""A learned variable as machine code, without torch, against the same CV file evaluated by torch."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.molecules import SPECS, TRICLINIC, alanine, alanine_topology, frames, random_model
from openmm import app
from torch import nn

from latf_sampling.cv import compiled_variable, graph
from latf_sampling.cv.compiled_variable import CompiledVariable, read_programs
from latf_sampling.cv.compiler.kernel import KernelError, compile_source
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.cv.shapes import Component, Harmonic, Spline, Sum, Walls, from_json, to_json
from latf_sampling.errors import CVError
from latf_sampling.features import Features


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def exported(path: Path, periodic: bool = False) -> LatentCV:
    features = Features(alanine_topology(), SPECS["torsions"], periodic=periodic)
    boxes = np.tile(TRICLINIC, (50, 1, 1)) if periodic else None
    model = random_model(features, features(frames(50), boxes), 2)
    cv = LatentCV.from_model(model, features, frames(8), None if boxes is None else boxes[:8], force_limit=np.inf)
    cv.save(path)
    return cv


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> tuple[Path, LatentCV]:
    path = tmp_path_factory.mktemp("plain") / "cv.pt"
    return path, exported(path)


@pytest.mark.parametrize("periodic", [False, True])
def test_it_is_the_variable_of_the_file(tmp_path, periodic):
    path = tmp_path / "cv.pt"
    cv = exported(path, periodic)
    compiled = CompiledVariable.load(path, alanine().topology)
    assert compiled.fingerprint() == cv.fingerprint() and compiled.dim == 2
    for name in ("atoms", "n_atoms", "bounds", "sigma", "periodic", "steepness"):
        assert np.array_equal(getattr(compiled, name), getattr(cv, name)), name
    x = frames(6, seed=3, noise=0.05)
    # Not in OpenMM's reduced form, one for each frame.
    box = None if not periodic else TRICLINIC * np.linspace(1, 1.1, 6)[:, None, None]
    if box is not None:
        x, box = x + np.random.default_rng(1).integers(-1, 2, x.shape) @ TRICLINIC, box.copy()
        box[:, 2] += box[:, 0] - box[:, 1]
    one = None if box is None else box[0]
    np.testing.assert_allclose(compiled(x, box), cv(x, box), rtol=0, atol=1e-12)
    np.testing.assert_allclose(compiled(x[0], one), cv(x[0], one), rtol=0, atol=1e-12)
    np.testing.assert_allclose(compiled(x.reshape(2, 3, 22, 3), one), cv(x.reshape(2, 3, 22, 3), one), atol=1e-12)
    copy = pickle.loads(pickle.dumps(compiled))
    assert np.array_equal(copy(x, box), compiled(x, box))
    if not periodic:
        return  # compiling takes seconds
    np.testing.assert_allclose(compiled.gradients(x, box), cv.gradients(x, box), rtol=1e-10, atol=1e-10)
    inputs = np.ascontiguousarray(x[0, cv.atoms]), np.array(TRICLINIC), np.array([0.1, -0.2, 30.0, 20.0])
    energy, forces = compiled.evaluator(Harmonic(2))(*inputs)
    expected = graph.trace(cv, Harmonic(2))(*(torch.from_numpy(each) for each in inputs))
    assert energy == pytest.approx(float(expected[0]), rel=1e-12)
    np.testing.assert_allclose(forces, expected[1].numpy(), rtol=1e-9, atol=1e-9)


def test_refusals(tmp_path, plain):
    path, cv = plain
    compiled, x = CompiledVariable.load(path), frames(1)[0]
    with pytest.raises(CVError, match=r"expected positions \(..., 22, 3\); got \(21, 3\)"):
        compiled(x[1:])
    x[4, 1] = np.nan
    with pytest.raises(CVError, match="the position of atom 4 is not finite"):
        compiled(x)
    with pytest.raises(CVError, match="the position of atom 4 in frame 1 is not finite"):
        compiled.gradients(np.stack([frames(1)[0], x]))
    assert compiled.undefined(x) == cv.undefined(x) != []
    with pytest.raises(CVError, match="made for another topology"):
        CompiledVariable.load(path, app.Topology())
    with pytest.raises(CVError, match=r"missing.pt: cannot be read as a CV file \(No such file"):
        CompiledVariable.load(tmp_path / "missing.pt")
    (tmp_path / "text.pt").write_text("no archive")
    with pytest.raises(CVError, match="text.pt: .*no file that torch writes"):
        CompiledVariable.load(tmp_path / "text.pt")


def test_a_box_is_needed(tmp_path):
    exported(tmp_path / "cv.pt", periodic=True)
    compiled = CompiledVariable.load(tmp_path / "cv.pt")
    with pytest.raises(CVError, match="give the box vectors"):
        compiled(frames(2))
    with pytest.raises(CVError, match=r"must be vectors \(..., 3, 3\); got \(3, 3, 3\)"):
        compiled(frames(2), np.tile(TRICLINIC, (3, 1, 1)))


def test_shapes_are_handed_on_with_all_their_bits():
    rng = np.random.default_rng(0)
    spline, walls = Spline(rng.normal(size=2), rng.random(2), (9, 12)), Walls(*np.sort(rng.normal(size=(3, 2)), 0))
    for shape in (Sum(spline, walls), spline, Harmonic(2), Component(2, 1)):
        again, u, table = from_json(to_json(shape)), torch.from_numpy(rng.normal(size=2)), rng.normal(size=shape.size)
        assert type(again) is type(shape) and again.size == shape.size and to_json(again) == to_json(shape)
        for one, other in zip(again(u, torch.from_numpy(table)), shape(u, torch.from_numpy(table))):
            assert torch.equal(one, other)
    with pytest.raises(CVError, match="a shape of the kind partial cannot be handed to another process"):
        to_json(partial(max))


class Unsupported(nn.Module):
    def forward(self, x):
        return torch.erfinv(x.tanh()[..., :1])


def test_an_operation_without_machine_code(tmp_path):
    features = Features(alanine_topology(), SPECS["torsions"])
    cv = LatentCV.from_torchscript(Unsupported(), features, frames(50), force_limit=np.inf)
    cv.save(tmp_path / "cv.pt")
    for _ in range(2):  # known from the file the second time
        with pytest.raises(KernelError, match="erfinv"):
            CompiledVariable.load(tmp_path / "cv.pt")


WITHOUT = """
import sys
import numpy as np
from latf_sampling.cv.compiled_variable import CompiledVariable
from latf_sampling.cv.shapes import Component, Harmonic, Spline, Sum, Walls, from_json, to_json
cv = CompiledVariable.load(sys.argv[1])
x = np.load(sys.argv[2])
print(repr(cv(x).tolist()), cv.evaluator(Harmonic(2))(x[0, cv.atoms], np.eye(3), np.ones(4))[0], "torch" in sys.modules)
"""


def test_no_torch_in_the_process(tmp_path, plain):
    path, cv = plain
    np.save(tmp_path / "x.npy", frames(2))
    command = [sys.executable, "-c", WITHOUT, str(path), str(tmp_path / "x.npy")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    values, energy, torch_loaded = done.stdout.rsplit(maxsplit=2)
    np.testing.assert_allclose(np.array(eval(values)), cv(frames(2)), atol=1e-12)
    assert float(energy) == pytest.approx(0.5 * ((cv(frames(2)[0]) - 1) ** 2).sum(), rel=1e-10)
    assert torch_loaded == "False"


def test_one_of_several_traces(tmp_path, plain, monkeypatch):
    """Threads stand for processes, since the lock of a file is one of its open file."""
    monkeypatch.setenv("LATF_CACHE", str(tmp_path))
    traced, trace = [], compiled_variable._trace

    def counted(path: Path, file: Path, request: str):
        traced.append(file)
        return trace(path, file, request)

    monkeypatch.setattr(compiled_variable, "_trace", counted)
    loaded: list[CompiledVariable] = []
    threads = [threading.Thread(target=lambda: loaded.append(CompiledVariable.load(plain[0]))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(traced) == 1 and len(loaded) == 3
    (file,) = tmp_path.rglob("latf_programs_*.npz")
    assert [*tmp_path.rglob("*.lock")] == []
    file.write_bytes(file.read_bytes()[:1000])
    assert read_programs(file) is None
    CompiledVariable.load(plain[0])
    assert len(traced) == 2 and read_programs(file) is not None
    # What nobody has read for a month goes when the next variable is traced.
    old = time.time() - 40 * 86400
    os.utime(file, (old, old))
    compiled_variable._remove_unused(file.parent)
    assert not file.exists()


def test_a_cache_that_cannot_be_written(tmp_path, plain, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LATF_CACHE", str(tmp_path / "file"))
    compile_source.cache_clear()
    compiled = CompiledVariable.load(plain[0])
    with pytest.warns(RuntimeWarning, match="set LATF_CACHE"):
        np.testing.assert_allclose(compiled(frames(2)), plain[1](frames(2)), atol=1e-12)
