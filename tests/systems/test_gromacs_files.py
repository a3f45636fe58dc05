"""Files of GROMACS as its programs write them, and what OpenMM's readers would pass over."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from latf_sampling.errors import SettingsError
from latf_sampling.settings.system import SystemSettings
from latf_sampling.systems import build
from latf_sampling.systems.gro import GroFile

TOP = """
[ defaults ]
1 2 yes 0.5 0.8333
[ atomtypes ]
C  6 12.01 0.0 A 0.34 0.36
[ moleculetype ]
ETH 3
[ atoms ]
1 C 16 ETH C1 1 0.0 12.01
2 C 17 ETH C2 2 0.0 12.01
[ bonds ]
1 2 1 0.15 1000
MORE
[ system ]
a title
[ molecules ]
ETH 2
"""
X = np.array([[0.1, 0.2, 0.3], [0.25, 0.2, 0.3], [-1.1, 1.2, -1.3], [-1.25, 1.2, -1.3]])


def gro(decimals: int = 3, box: str = "3 3 3", velocities: bool = False, positions: np.ndarray = X) -> str:
    lines = ["two", "4"]
    for k, x in enumerate(positions):
        line = f"{16 + k:>5}{'ETH':<5}{f'C{k % 2 + 1}':>5}{k + 1:>5}"
        line += "".join(f"{v:{decimals + 5}.{decimals}f}" for v in x)
        lines.append(line + ("".join(f"{v:{decimals + 5}.{decimals + 1}f}" for v in x) if velocities else ""))
    return "\n".join([*lines, box]) + "\n"


def built(folder: Path, coordinates: str, more: str = "", **keys):
    (folder / "a.gro").write_text(coordinates)
    (folder / "a.top").write_text(TOP.replace("MORE", more))
    files = {"topology": str(folder / "a.top"), "coordinates": str(folder / "a.gro")}
    return build(SystemSettings.model_validate({"gromacs": files, "nonbonded": "no cutoff", **keys}))


@pytest.mark.parametrize("velocities", [False, True])
@pytest.mark.parametrize("decimals", [3, 4, 6])
def test_coordinates_of_any_precision(tmp_path, decimals, velocities):
    assert np.allclose(built(tmp_path, gro(decimals, velocities=velocities)).positions, X)


def test_residues_have_the_numbers_of_the_topology(tmp_path):
    residues = list(built(tmp_path, gro()).topology.residues())
    assert [residue.id for residue in residues] == ["16", "17", "16", "17"]
    more = "[ moleculetype ]\nNA 1\n[ atoms ]\n1 C 1 NA C1 1 0 12"
    lines = gro().splitlines(True)
    both = (
        "".join(lines[:-1]).replace("\n4\n", "\n6\n") + lines[2].replace("0.1", "2.1") + lines[2].replace("0.1", "2.5")
    )
    (tmp_path / "x.top").write_text(TOP.replace("MORE", more) + "NA 2\n")
    (tmp_path / "x.gro").write_text(both + lines[-1])
    files = {"topology": str(tmp_path / "x.top"), "coordinates": str(tmp_path / "x.gro")}
    topology = build(SystemSettings.model_validate({"gromacs": files, "nonbonded": "no cutoff"})).topology
    assert [residue.id for residue in topology.residues()] == ["16", "17", "16", "17", "5", "6"]


def test_the_unit_cell_of_a_gro_file(tmp_path):
    def vectors(box: str) -> np.ndarray:
        (tmp_path / "a.gro").write_text(gro(box=box))
        found = GroFile.load(str(tmp_path / "a.gro")).box
        return np.array([]) if found is None else np.array([list(row) for row in found.value_in_unit(found.unit)])

    assert vectors("0 0 0").size == 0
    np.testing.assert_allclose(vectors("3 4 5"), np.diag([3, 4, 5]))
    np.testing.assert_allclose(vectors("3 4 5 0 0 1 0 -1 0.5"), [[3, 0, 0], [1, 4, 0], [-1, 0.5, 5]])
    np.testing.assert_allclose(vectors("3 4 5 0 0 4 0 0 0")[1], [1, 4, 0])  # in OpenMM's reduced form


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gro() + gro(), "it holds several frames; keep one of them"),
        (gro(box=""), "it has no line of three or nine numbers, the unit cell, after its 4 atoms"),
        (gro(box="3 3 3 0 1 0 0 0 0"), "its unit cell is not that of GROMACS"),
        (gro().replace("\n4\n", "\n5\n"), "line 7 has no three coordinates in their columns"),
        (
            gro().replace("\n4\n", "\n3\n"),
            "it has no line .* after its 3 atoms; it is cut off, or has another",
        ),
        (gro().replace("0.250", "nan  "), "line 4 has no three coordinates"),
        (gro().replace("4\n", "\n", 1), "its second line is not the number of atoms"),
    ],
)
def test_damaged_coordinates(tmp_path, content, words):
    with pytest.raises(SettingsError, match=rf"^system\.gromacs\.coordinates: .*a\.gro cannot be read \({words}"):
        built(tmp_path, content)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("[ position_restraints ]\n1 1 1000 1000 1000", r"\[ position_restraints \] of ETH.* system\.restraints"),
        ("[ distance_restraints ]\n1 2 1 0 1 0 1 2 1", r"\[ distance_restraints \] of ETH, which is not read"),
        ("[ virtual_sitesn ]\n2 1 1", r"\[ virtual_sitesn \] of ETH, .* only virtual_sites2 and virtual_sites3 are"),
        ("[ polarization ]\n1 2 1 0.001", r"\[ polarization \] of ETH, which is not read"),
        ("[ bond ]\n1 2 1", r"\[ bond \] of ETH, which is not read"),
        ("[ intermolecular_interactions ]\n[ bonds ]\n1 2 1 0.15 1000", r"\[ intermolecular_interactions \], which"),
        ("[ atomtypes ]\n[ moleculetype ]\nX 3\n[ atoms ]\n1 QQ 1 X Q 1 0 1", r"'QQ' is not defined; is the file of a"),
    ],
)  # fmt: skip
def test_sections_that_are_not_read_are_refused(tmp_path, more, words):
    molecules = "ETH 2\nX 1" if "QQ" in more else "ETH 2"
    with pytest.raises(SettingsError, match=r"^system\.gromacs\.topology: .*a\.top .*" + words):
        built(tmp_path, gro(), more + (f"\n[ molecules ]\n{molecules}" if "QQ" in more else ""))


def test_sections_of_molecules_that_are_not_there_are_allowed(tmp_path):
    unused = "[ moleculetype ]\nW 1\n[ atoms ]\n1 C 1 W C 1 0 12\n[ position_restraints ]\n1 1 9 9 9\n"
    hidden = "#ifdef POSRES\n[ position_restraints ]\n1 1 9 9 9\n#endif\n"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert len(built(tmp_path, gro(), hidden + unused).positions) == 4


@pytest.mark.parametrize(("number", "distance", "right"), [(1, 0.08, True), (1, 0.04, False), (6, 0.08, False)])
def test_hydrogens_of_a_box_that_was_just_filled(tmp_path, number, distance, right):
    """gmx solvate leaves hydrogens of two molecules of water 0.08 nm apart."""
    second = X[1] + [[distance, 0, 0], [distance + 0.15, 0, 0]]
    (tmp_path / "a.gro").write_text(gro(positions=np.concatenate([X[:2], second])))
    (tmp_path / "a.top").write_text(TOP.replace("MORE", "").replace("C  6 12.01", f"C  {number} 12.01"))
    files = {"topology": str(tmp_path / "a.top"), "coordinates": str(tmp_path / "a.gro")}
    settings = SystemSettings.model_validate({"gromacs": files, "nonbonded": "no cutoff"})
    if right:
        assert len(build(settings).positions) == 4
    else:
        with pytest.raises(SettingsError, match=rf"C2 of ETH 17 .* overlap, they are {distance:.3f} nm apart"):
            build(settings)
