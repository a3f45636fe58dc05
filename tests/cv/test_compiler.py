"""Machine code of a bias against the graph that it was compiled from, and every operation against torch."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import mdtraj
import numpy as np
import pytest
import torch
from helpers.molecules import SPECS, TRICLINIC, alanine_topology, frames, random_model
from helpers.nucleic import RNA, perturbed
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from latf_sampling.cv.compiler import kernel
from latf_sampling.cv.compiler.lowering import compile_graph, lower
from latf_sampling.cv.graph import example, trace
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.cv.shapes import Harmonic, Spline, Sum, Walls
from latf_sampling.features import Features

KINDS = {
    **SPECS,
    "coordination": [{"coordination": {"of": "element != H", "r0": "0.4 nm", "moments": [2, 3]}}],
    "coordinates": [{"coordinates": {"of": "element != H"}}],
}
# Descriptors do not depend on the latent dimension, nor shapes on descriptors: one case for each is enough, and "both"
# has the operations of distances and of torsions.
CASES = [
    *((2, kind, False) for kind in ("both", "coordination", "coordinates")),
    *((2, kind, True) for kind in ("both", "coordination")),
    *((dim, "coordinates", False) for dim in (1, 3)),
]


@pytest.fixture(scope="session", autouse=True)
def cache_directory(tmp_path_factory):
    """A separate cache for the machine code of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield kernel.cache_directory()


@cache
def variable(dim: int, kind: str, periodic: bool, seed: int = 0) -> LatentCV:
    features = Features(alanine_topology(), KINDS[kind], periodic=periodic)
    boxes = np.tile(TRICLINIC, (50, 1, 1)) if periodic else None
    model = random_model(features, features(frames(50), boxes), dim, seed=seed)
    return LatentCV.from_model(model, features, frames(4), boxes[:4] if periodic else None, force_limit=np.inf)


def grid(cv: LatentCV, nodes: int = 12) -> Sum:
    """A spline that ends 1 sigma outside the data, so that displaced atoms leave it, and walls."""
    size = cv.bounds[:, 1] - cv.bounds[:, 0] + 2 * cv.sigma
    spline = Spline(cv.bounds[:, 0] - cv.sigma, size / (nodes - 1), (nodes,) * cv.dim)
    return Sum(spline, Walls(cv.bounds[:, 0], cv.bounds[:, 1], 20 / cv.sigma**2))


def graph_of(cv: LatentCV, shape) -> tuple[torch.fx.GraphModule, tuple[torch.Tensor, ...]]:
    """The graph, and inputs of the right shapes."""
    return trace(cv, shape), example(cv, shape)


def configurations(cv: LatentCV) -> dict[str, np.ndarray]:
    """Positions (n, 3) of the variable's atoms, ordinary and extraordinary."""
    x = np.ascontiguousarray(frames(2, seed=1)[:, cv.atoms])
    images = np.random.default_rng(2).integers(-2, 3, x[0].shape) @ TRICLINIC
    together = x[1].copy()
    together[1] = together[0]
    return {
        "ordinary": x[0],
        "displaced": x[1] + np.random.default_rng(3).normal(scale=0.2, size=x[1].shape),
        "broken": x[0] + images,
        "coincident": together,
        "all in one place": np.zeros_like(x[0]),
    }


def compare(
    compiled: kernel.Kernel, graph: torch.fx.GraphModule, inputs: list[np.ndarray], tolerance: float = 1e-10
) -> None:
    expected = graph(*(torch.from_numpy(x) for x in inputs))
    outputs = compiled(*inputs)
    assert len(outputs) == len(expected)
    for output, reference in zip(outputs, (tensor.numpy() for tensor in expected)):
        assert np.shape(output) == reference.shape
        scale = np.abs(reference[np.isfinite(reference)]).max(initial=0.0)
        np.testing.assert_allclose(output, reference, rtol=tolerance, atol=tolerance * scale)


# ---------------------------------------------------------------------------------------------------- whole graphs


@pytest.mark.parametrize(("dim", "kind", "periodic"), CASES)
def test_kernel_is_the_graph(dim, kind, periodic):
    cv = variable(dim, kind, periodic)
    shape = grid(cv)
    graph, inputs = graph_of(cv, shape)
    compiled = compile_graph(graph, inputs)
    table = np.random.default_rng(0).normal(size=shape.size)
    for x in configurations(cv).values():
        for scale in (1.0, 1.1) if periodic else (1.0,):
            compare(compiled, graph, [x, scale * TRICLINIC, table])
    # Where the graph multiplies infinity by the zeros of a sparse matrix, the kernel does not: no comparison.
    x = configurations(cv)["ordinary"]
    x[2, 1] = np.nan
    energy, forces = compiled(x, TRICLINIC, table)
    assert np.isnan(energy) and np.isnan(forces).any()
    x[2, 1] = np.inf
    assert compiled(x, TRICLINIC, table)[1].shape == x.shape
    energy, forces = compiled(np.full_like(x, np.nan), TRICLINIC, table)
    assert np.isnan(energy) and np.isnan(forces).all()


def test_descriptors_of_nucleic_acids():
    """All in one graph, since compiling takes seconds; the eRMSD contains the G-vectors."""
    rna = perturbed(RNA, frames=50)
    spec = [{"angles": {"of": "resid 1 and name P OP1 OP2", "as": "angle"}}, {"pucker": "resid 2"}]
    features = Features(rna.topology, [*spec, {"ermsd": {"of": "resid 0 1 5", "reference": str(RNA)}}])
    x = rna.xyz.astype(float)
    cv = LatentCV.from_model(random_model(features, features(x), 1), features, x[:4], force_limit=np.inf)
    graph, inputs = graph_of(cv, Harmonic(1))
    compiled = compile_graph(graph, inputs)
    positions = np.ascontiguousarray(x[0, cv.atoms])
    reference = np.ascontiguousarray(mdtraj.load(str(RNA)).xyz[0, cv.atoms].astype(float))
    for x in (positions, positions * [1.0, 1.0, 0.0], reference, np.zeros_like(positions)):
        compare(compiled, graph, [x, TRICLINIC, np.array([0.3, 2.0])], 1e-8)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_umbrella(dim):
    cv = variable(dim, "coordinates", False)
    graph, inputs = graph_of(cv, Harmonic(dim))
    compiled = compile_graph(graph, inputs)
    for x in configurations(cv).values():
        compare(compiled, graph, [x, TRICLINIC, np.linspace(-1, 2, 2 * dim)])


def test_other_weights_and_another_grid_are_the_same_machine_code():
    first, second = variable(2, "distances", False), variable(2, "distances", False, seed=5)
    programs = [lower(*graph_of(cv, grid(cv, nodes))) for cv, nodes in ((first, 12), (second, 15))]
    assert programs[0].source == programs[1].source
    assert programs[0].floats.shape == programs[1].floats.shape
    assert not np.array_equal(programs[0].floats, programs[1].floats)
    table = np.random.default_rng(0).normal(size=15**2)
    graph, inputs = graph_of(second, grid(second, 15))
    compare(compile_graph(graph, inputs), graph, [configurations(second)["ordinary"], TRICLINIC, table])


def test_tables_may_be_read_only_and_results_are_new():
    cv = variable(2, "distances", False)
    graph, inputs = graph_of(cv, grid(cv))
    compiled, table = compile_graph(graph, inputs), np.random.default_rng(0).normal(size=144)
    table.flags.writeable = False
    one, two = configurations(cv)["ordinary"], configurations(cv)["coincident"]
    forces = compiled(one, TRICLINIC, table)[1]
    before = forces.copy()
    compiled(two, TRICLINIC, table)
    assert np.array_equal(forces, before)


def test_arrays_of_other_shapes_and_kinds_are_refused():
    cv = variable(2, "distances", False)
    compiled = compile_graph(*graph_of(cv, grid(cv)))
    x, table = configurations(cv)["ordinary"], np.zeros(144)
    with pytest.raises(ValueError, match=r"need arrays of shapes \[\(10, 3\), \(3, 3\), \(144,\)\], got"):
        compiled(x[:5], TRICLINIC, table)
    with pytest.raises(TypeError):
        compiled(x.astype(np.float32), TRICLINIC, table)
    with pytest.raises(TypeError):
        compiled(np.asfortranarray(x), TRICLINIC, table)


# --------------------------------------------------------------------------------------------------- the cache


ONE_KERNEL = """
import sys, warnings
warnings.simplefilter("error", RuntimeWarning)
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from latf_sampling.cv.compiler.lowering import compile_graph
x = torch.arange(6.0, dtype=torch.float64)
compiled = compile_graph(make_fx(lambda x: (x.tanh() * {factor},))(x), (x,))
assert abs(compiled(x.numpy())[0] - {factor} * x.tanh().numpy()).max() < 1e-15
(function,) = [m.kernel for n, m in sys.modules.items() if n.startswith("latf_kernel_")]
print(sum(function.stats.cache_hits.values()), sum(function.stats.cache_misses.values()))
"""


def start(factor: int, cache: Path) -> subprocess.Popen:
    environment = {**os.environ, "LATF_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    code = [sys.executable, "-c", ONE_KERNEL.format(factor=factor)]
    return subprocess.Popen(
        code, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )


def test_machine_code_is_cached_and_processes_may_compile_at_once(tmp_path, monkeypatch):
    def files() -> list[str]:
        return sorted(path.suffix for path in tmp_path.rglob("latf_kernel_*") if path.suffix != ".pyc")

    results = [process.communicate() for process in [start(3, tmp_path) for _ in range(2)]]
    assert [error for _, error in results if "Error" in error] == []
    assert {out.strip() for out, _ in results} <= {"0 1", "1 0"}
    assert files() == [".nbc", ".nbi", ".py"]
    monkeypatch.setenv("LATF_CACHE", str(tmp_path))
    x = torch.arange(6.0, dtype=torch.float64)
    compiled = compile_graph(make_fx(lambda x: (x.tanh() * 3,))(x), (x,))
    assert sum(compiled.function.stats.cache_hits.values()) == 1
    assert files() == [".nbc", ".nbi", ".py"]


def test_cache_that_cannot_be_written_is_a_warning(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LATF_CACHE", str(tmp_path / "file"))
    x = torch.rand(3, dtype=torch.float64)
    with pytest.warns(RuntimeWarning, match="set LATF_CACHE to a directory that can be written"):
        compiled = compile_graph(make_fx(lambda x: (x * 17,))(x), (x,))
    assert np.array_equal(compiled(x.numpy())[0], 17 * x.numpy())


def test_damaged_source_is_written_again(tmp_path, monkeypatch):
    monkeypatch.setenv("LATF_CACHE", str(tmp_path))
    x = torch.rand(3, dtype=torch.float64)
    graph = make_fx(lambda x: (x * 19,))(x)
    compile_graph(graph, (x,))
    (path,) = tmp_path.rglob("*.py")
    path.write_text("damaged")
    kernel.compile_source.cache_clear()
    assert np.array_equal(compile_graph(graph, (x,))(x.numpy())[0], 19 * x.numpy())


def test_location_of_the_cache(monkeypatch):
    monkeypatch.delenv("LATF_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/where")
    assert kernel.cache_directory() == Path("/some/where/latf_sampling/kernels")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert kernel.cache_directory() == Path.home() / ".cache/latf_sampling/kernels"


def test_machine_code_of_others_is_not_run(monkeypatch, tmp_path):
    """Without a home directory the cache is in the folder of temporary files, which everybody writes to."""
    monkeypatch.delenv("LATF_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mine = tmp_path / f"cache-{os.getuid()}"
    assert kernel.cache_directory() == mine / "latf_sampling/kernels"
    (tmp_path / "theirs").mkdir()
    mine.symlink_to(tmp_path / "theirs")
    assert mine not in kernel.cache_directory().parents


# ------------------------------------------------------------------------------------------------- operations

SMOOTH = [torch.exp, torch.expm1, torch.sin, torch.cos, torch.tan, torch.tanh, torch.sinh, torch.cosh, torch.atan]
SMOOTH += [torch.sinc]
SMOOTH += [torch.erf, torch.sigmoid, torch.neg, torch.abs, torch.square, torch.reciprocal, torch.asin, torch.acos]
SMOOTH += [torch.log, torch.log1p, torch.sqrt, torch.rsqrt, torch.sign, torch.floor, torch.ceil, torch.trunc]
SMOOTH += [torch.round, torch.clone, torch.relu, nn.functional.silu, nn.functional.gelu, nn.functional.elu]
SMOOTH += [nn.functional.softplus, nn.functional.leaky_relu]
EXPONENTS = [0, 1, 2, 3, 0.5, -1, -2, -0.5, 2.5, 4]


def with_gradients(*functions):
    """All functions of x, and the gradients of their sums."""

    def run(x, y, z):
        x = x.detach().requires_grad_(True)
        values = [function(x) for function in functions]
        return *values, *(torch.autograd.grad(v.sum(), x)[0] if v.requires_grad else v for v in values)

    return run


def index(z, count: int, size: int):
    """Integers computed from numbers: an index that is known only at run time."""
    return (z.reshape(-1)[:count].abs() * 10).to(torch.int64) % size


def in_place(x, y, z):
    a = x * 2
    b = a[1]  # a change of the view changes a, and vice versa
    b.mul_(3)
    c = a + 0
    a.add_(1)
    d = torch.zeros_like(x)
    d[1:, :2] = y[1:, :2]
    d.masked_fill_(x > 0.5, -1.0)
    e = torch.zeros(4, dtype=torch.float64)
    e[2:].copy_(z[0, 0, :2])
    return a, b, c, d, e


def views(x, y, z):
    w = (x.t() + 1).t()
    return (
        x.t().reshape(-1) * 2,
        w.view(-1) if w.is_contiguous() else w.t().reshape(4, 3) * x.t().reshape(4, 3),
        z.permute(2, 0, 1)[1:, :, ::2].flatten(1),
        torch.cat([part * k for k, part in enumerate(x.split(2, 1))], 0),
        torch.stack(z.unbind(1), -1).squeeze(0),
        x[:, None, :].expand(3, 2, 4) * z,
        x.unflatten(1, (2, 2)).transpose(0, 1).contiguous().view(3, 4) + 1,
        x.diagonal(),
    )


OPERATIONS = {
    "one argument": with_gradients(*SMOOTH),
    "powers": with_gradients(*(lambda x, p=p: x**p for p in EXPONENTS), lambda x: 2.0**x, lambda x: x**x),
    "activations": with_gradients(
        *(
            lambda x, f=f: f(4 * x - 2)
            for f in (nn.SiLU(), nn.ELU(0.7), nn.GELU(), nn.Softplus(2.0, 3.0), nn.Sigmoid())
        ),
        *(lambda x, f=f: f(4 * x - 2) for f in (nn.LeakyReLU(0.1), nn.ReLU(), nn.Tanh(), nn.CELU(0.5), nn.SELU())),
    ),
    "two arguments": lambda x, y, z: (
        x + y,
        torch.add(x, y, alpha=3),
        torch.sub(x, 2, alpha=0.5),
        1 - x,
        x * y[0],
        x / y[:, :1],
        torch.div(x, 0.3, rounding_mode="floor"),
        torch.remainder(x - 0.5, 0.2),
        torch.atan2(x, y),
        torch.maximum(x, y),
        torch.fmin(x, y),
        torch.addcmul(x, y, y, value=2.0),
        torch.addcdiv(x, y, y + 1),
        torch.outer(x[0], y[1]),
        torch.clamp(x, 0.2, 0.7),
        torch.clamp(x, max=y),
        torch.clamp_min(x, 0.5),
    ),
    "booleans": lambda x, y, z: tuple(
        t.double()
        for t in (
            x == y,
            x != 0.5,
            x < y,
            x <= 0.5,
            (x > y) & (x >= 0.3),
            (x > y) | ~(x < 0.3),
            torch.logical_not(x > 0.5),
            torch.logical_and(x > 0.5, y > 0.5),
            torch.where(x > y, x, y * 2),
            torch.where(x > y, 1.0, y),
            x.masked_fill(y > 0.5, -3.0),
            (x > 0.1).all(1),
            (x > 0.9).any(),
            (10 * x).to(torch.int64) * 3,
            torch.isnan(x),
        )
    ),
    "reductions": lambda x, y, z: (
        x.sum(),
        z.sum((0, 2)),
        z.mean(1, keepdim=True),
        z.mean(),
        x.prod(0),
        z.amax((1, 2)),
        x.amin(0),
        x.max(),
        *(t.double() for t in x.max(1)),
        x.argmin().double(),
        x.argmax(1, keepdim=True).double(),
        x.t().argmin().double(),
        z.cumsum(1),
        torch.linalg.vector_norm(z, dim=-1),
        torch.linalg.norm(x),
        (x > 0.5).sum(0).double(),
    ),
    "order": lambda x, y, z: (
        *(t.double() for t in x.sort(1)),
        *(t.double() for t in z.sort(0, descending=True)),
        torch.gather(x, 1, x.argsort(1, descending=True)),
    ),
    "indices": lambda x, y, z: (
        x.index_select(1, index(z, 5, 4)),
        x[index(z, 5, 3)],
        x[index(z, 4, 3), index(z, 4, 4) - 4],
        z[index(z, 3, 3), :, index(z, 3, 4)],
        z[:, index(z, 4, 2).view(2, 2)],
        torch.gather(z, 0, index(z, 24, 3).view(3, 2, 4)),
        x.scatter(1, x.argsort(1), y),
        x.scatter_add(0, index(z, 12, 3).view(3, 4), y),
        x.scatter(0, index(z, 1, 3).view(1, 1), 7.0),
        x.index_add(0, index(z, 5, 3), z.reshape(6, 4)[:5], alpha=2),
        x.index_put((index(z, 6, 3), index(z, 6, 4)), z[0, 0, 0].expand(6), accumulate=True),
        x.index_put((index(z, 1, 3),), y[0]),
        torch.select_scatter(x, y[0], 0, 1),
        torch.slice_scatter(x, y[:, :2], 1, 0, 4, 2),
    ),
    "backward": with_gradients(
        lambda x: (x[1, ::2] * x[0, 0]).cumsum(0),
        lambda x: x[[0, 2, 0]] ** 2,
        lambda x: torch.linalg.vector_norm(x[None] - x[:, None], dim=-1),
        lambda x: x.prod(0) * x.amax(1).sum(),
        lambda x: torch.linalg.cross(x[:, :3], x[:, 1:]) @ x[:, 1:].t(),
    ),
    "products": lambda x, y, z: (
        x @ y.t(),
        x @ y[0],
        torch.dot(x[0], y[1]),
        torch.bmm(z, z.transpose(1, 2)),
        torch.addmv(x[:, 0], x, y[0], beta=0.5, alpha=2.0),
        torch.addmm(y[0, :3], x, y.t(), alpha=3.0),
        torch.baddbmm(z[:, :, :2], z, z.mT),
        x @ torch.arange(12.0, dtype=torch.float64).view(4, 3),
        torch.eye(8, dtype=torch.float64)[:, :3] @ x,
        x.t() @ torch.eye(9, dtype=torch.float64)[:3],
        torch.eye(16, dtype=torch.float64)[:, :4] @ x[0],
        torch.linalg.cross(x[:, :3], y[:, 1:]),
        torch.linalg.cross(x, y[:, :1].expand(3, 4), dim=0),
        nn.functional.linear(x, torch.arange(20.0, dtype=torch.float64).view(5, 4), torch.ones(5, dtype=torch.float64)),
    ),
    "eigenvectors": lambda x, y, z: (
        *(
            t
            for a in (x @ x.t(), z @ z.mT, torch.ones(4, 4, dtype=torch.float64) * x[0, 0], x[:3, :3] * 0)
            for values, vectors in [torch.linalg.eigh(a + a.mT)]
            for t in (values, (vectors * values.unsqueeze(-2)) @ vectors.mT, vectors.mT @ vectors)
        ),
    ),
    "creation": lambda x, y, z: (
        torch.zeros(2, dtype=torch.float64),
        torch.ones_like(x) * x,
        x.new_full((2, 2), 3.5),
        torch.arange(4, dtype=torch.float64) + x[0],
        torch.full((), torch.inf, dtype=torch.float64),
        x,
    ),
    "views": views,
    "in place": in_place,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name):
    rng = np.random.default_rng(len(name))
    inputs = [rng.uniform(0.05, 0.95, shape) for shape in ((3, 4), (3, 4), (3, 2, 4))]
    tensors = tuple(torch.from_numpy(x) for x in inputs)
    graph = make_fx(OPERATIONS[name])(*tensors)
    graph.graph.eliminate_dead_code()
    compare(compile_graph(graph, tensors), graph, inputs, 1e-12)


def special(x):
    """Operations with special rules for NaN, infinity and zero."""
    other = x.flip(0)
    values = [torch.maximum(x, other), torch.minimum(x, other), torch.fmax(x, other), torch.fmin(x, other)]
    values += [torch.clamp(x, -1, 1), torch.clamp(x, min=other), torch.relu(x), torch.floor(x), torch.sign(x), x / 0.0]
    values += [torch.sinc(x)]
    values += [torch.round(x), x**0, x**2.5, torch.sqrt(x), torch.rsqrt(x), torch.log(x), torch.tanh(x), torch.exp(x)]
    values += [nn.functional.elu(x), nn.functional.softplus(x), nn.functional.silu(x), torch.sigmoid(x), x - x]
    values += [x.amax(), x.amin(), x[:4].amax(), x.argmax(), x[:4].argmin(), *x.sort(0), *x.sort(0, descending=True)]
    values += [x == x, x < other, x != other, torch.where(x > 0, x, -x), torch.isnan(x), x.sum(), x.to(torch.int64)]
    return tuple(value.double() for value in values)


def test_nan_and_infinity():
    numbers = [1.5, -0.5, 2.5, -0.0, 0.0, np.nan, np.inf, -np.inf, 1e300, -3.0, np.nan]
    x = np.array(numbers)
    graph = make_fx(special)(torch.from_numpy(x))
    compare(compile_graph(graph, (torch.from_numpy(x),)), graph, [x], 1e-12)


def test_index_out_of_range_becomes_the_closest():
    """Torch would raise an error."""
    x = torch.rand(5, dtype=torch.float64)

    def pick(x, place):
        at = torch.floor(place).to(torch.int64)
        return x.index_select(0, at), x[at], torch.zeros(5, dtype=torch.float64).index_add(0, at, place)

    compiled = compile_graph(make_fx(pick)(x, torch.zeros(2, dtype=torch.float64)), (x, x[:2]))
    for place, taken in ((np.nan, 0), (1e300, 0), (1e9, 4), (-1e9, 0)):
        for output in compiled(x.numpy(), np.array([place, 3.5]))[:2]:
            assert np.array_equal(output, x.numpy()[[taken, 3]])


def as_tuple(function, x):
    return (function(x),)


def test_error_names_the_unsupported_operation():
    x = torch.rand(3, 3, dtype=torch.float64)
    weight = torch.rand(3, dtype=torch.float64)
    for function, name in {
        lambda x: torch.linalg.inv(x): "aten.linalg_inv_ex",
        lambda x: torch.linalg.vector_norm(x, 3): "aten.linalg_vector_norm",
        lambda x: torch.round(x, decimals=2): "aten.round.decimals",
        lambda x: nn.functional.gelu(x, approximate="tanh"): "aten.gelu",
        lambda x: x.float().double(): "torch.float32",
        lambda x: x.clone().copy_(x) + weight.add_(x[0]): "aten.add_.Tensor",
        lambda x: torch.ops.aten.mul_.Tensor(x, 2): "aten.mul_.Tensor",
        lambda x: torch._foreach_add_([x.clone()], 1.0) or x: "aten._foreach_add_.Scalar",
    }.items():
        with pytest.raises(kernel.KernelError, match=name):
            compile_graph(make_fx(partial(as_tuple, function))(x), (x,))
