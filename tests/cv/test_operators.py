"""Programs in TorchScript files that do more than compute: refused before anything in them is run."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.molecules import alanine_cv, alanine_topology

from latf_sampling.cv import operators
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.errors import CVError

TARGET = "written by a variable"


class Writes(torch.nn.Module):
    def forward(self, x: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        torch.save(x, "written by a variable")
        return x[..., 0, :2]


class WritesInABranch(torch.nn.Module):
    def forward(self, x: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        if x.sum() > 1e6:
            for _ in range(3):
                torch.save(x, "written by a variable")
        return x[..., 0, :2]


class Maps(torch.nn.Module):
    def forward(self, x: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        return x[..., 0, :2] + torch.from_file("written by a variable", True, 2)


class Prints(torch.nn.Module):
    def forward(self, x: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        print(x)
        return x[..., 0, :2]


def helper(x: torch.Tensor) -> torch.Tensor:
    torch.save(x, "written by a variable")
    return x


class Calls(torch.nn.Module):
    def forward(self, x: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        return helper(x)[..., 0, :2]


class Forks(torch.nn.Module):
    def forward(self, x: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        return torch.jit.wait(torch.jit.fork(helper, x))[..., 0, :2]


class Hidden(torch.nn.Module):
    def forward(self, x: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        return x[..., 0, :2]

    @torch.jit.export
    def another(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "written by a variable")
        return x


class Nested(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Writes()

    def forward(self, x: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        return x[..., 0, :2]


class AtLoading(torch.nn.Module):
    def forward(self, x: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        return x[..., 0, :2]

    @torch.jit.export
    def __getstate__(self) -> tuple[bool]:
        return (self.training,)

    @torch.jit.export
    def __setstate__(self, state: tuple[bool]) -> None:
        torch.save(torch.zeros(1), "written by a variable")
        self.training = state[0]


HARMFUL = {
    Writes: "aten::save",
    WritesInABranch: "aten::save",
    Maps: "aten::from_file",
    Prints: "prim::Print",
    Calls: "aten::save",
    Forks: "prim::fork",
    Hidden: "aten::save",
    Nested: "aten::save",
    AtLoading: "__setstate__",
}


@pytest.mark.parametrize("kind", HARMFUL)
def test_a_program_that_does_more_than_compute_is_not_run(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    metadata = {"metadata.json": json.dumps(alanine_cv().metadata)}
    torch.jit.save(torch.jit.script(kind()), "cv.pt", _extra_files=metadata)
    with pytest.raises(CVError, match=r"cv.pt: cannot be read as a CV file \(.*" + HARMFUL[kind]):
        LatentCV.load("cv.pt", alanine_topology())
    assert not (tmp_path / TARGET).exists()
    if kind is AtLoading:  # which torch would have run
        torch.jit.load("cv.pt")
        assert (tmp_path / TARGET).exists()


def test_a_variable_consists_of_operators_on_the_list():
    operators.check_operators(alanine_cv(2, "both", periodic=True).module)


@pytest.mark.parametrize("name", ["aten::add_", "aten::linalg_eigh", "aten::__and__", "prim::If", "aten::fft_rfft"])
def test_allowed(name):
    assert operators._allowed(name)


@pytest.mark.parametrize(
    "name",
    ["aten::save", "aten::from_file", "prim::PythonOp", "image::write_file", "rpc::rpc_async", "aten::set_", "add"],
)
def test_not_allowed(name):
    assert not operators._allowed(name)
