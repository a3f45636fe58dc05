"""Times of external trajectories, and files that are parts of one run."""

from __future__ import annotations

import json
from pathlib import Path

import mdtraj
import numpy as np
import openmm
import pytest
from helpers import molecules

from latf_sampling.data.external import ExternalTrajectory, examine, stride_of
from latf_sampling.data.external_frames import ExternalFrames
from latf_sampling.data.layout import ExternalFiles
from latf_sampling.errors import DataError
from latf_sampling.settings.protocol import TrajectoriesSettings

TOPOLOGY = mdtraj.Topology.from_openmm(molecules.alanine().topology)
SYSTEM = molecules.alanine_system()
REFERENCE = openmm.Platform.getPlatformByName("Reference")
X = molecules.frames(40, noise=0.001).astype(np.float32)


def written(folder: Path, name: str, frames: slice | list[int], times: np.ndarray | None = None) -> Path:
    x = X[frames]
    times = np.arange(40.0)[frames] if times is None else times
    mdtraj.Trajectory(x, TOPOLOGY, times).save(str(folder / name))
    return folder / name


def read(folder: Path, files: list[Path], stride: int = 1, **changes) -> list[ExternalFrames]:
    """The frames of an entry's files, as a campaign reads them."""
    settings = TrajectoriesSettings(files=[str(file) for file in files], temperature=300.0, **changes)
    contents, earlier = [], 0
    for number, external in enumerate(ExternalTrajectory.from_settings([settings])):
        target = ExternalFiles(folder / f"mark-{number}")
        examine(external, earlier, TOPOLOGY, SYSTEM, REFERENCE, stride, None, target, previous=contents)
        contents.append(target.manifest().content)
        earlier += contents[-1]["frames"]
    return [
        ExternalFrames.load(ExternalFiles(folder / f"mark-{number}"), TOPOLOGY, False, number)
        for number in range(len(files))
    ]


ANEW = np.concatenate([np.arange(30.0), np.arange(10.0)])


@pytest.mark.parametrize("times", [ANEW, np.concatenate([np.arange(30.0), np.arange(10.0) + 29]), np.arange(40.0) ** 2])
def test_the_interval_of_a_protocol_overrules_times_that_begin_anew(tmp_path, times):
    file = written(tmp_path, "run.xtc", slice(None), times)
    with pytest.raises(
        DataError, match=r"run\.xtc: .* ps; interval: in the protocol overrules the times, if it is one"
    ):
        read(tmp_path, [file])
    (frames,) = read(tmp_path, [file], 2, interval=1.0)
    assert len(frames) == 20
    np.testing.assert_allclose(frames.trajectory.xyz, X[::2], atol=6e-4)


def test_an_interval_that_differs_from_even_times_is_said(tmp_path):
    file = written(tmp_path, "run.xtc", slice(None))
    with pytest.warns(UserWarning, match=r"a frame every 1 ps by its times; 0\.5 ps count, as interval says"):
        assert stride_of(ExternalTrajectory(str(file), 300.0, 0.5), TOPOLOGY, False, 1.0) == 2


@pytest.mark.parametrize("overlap", [0, 1, 4])
@pytest.mark.parametrize("suffix, interval", [("xtc", None), ("xtc", 1.0), ("dcd", 1.0), ("trr", None)])
def test_frames_that_two_files_of_a_chain_have_count_once(tmp_path, overlap, suffix, interval):
    first, second = (
        written(tmp_path, f"a.{suffix}", slice(0, 20)),
        written(tmp_path, f"b.{suffix}", slice(20 - overlap, 40)),
    )
    np.save(tmp_path / "w.npy", np.concatenate([np.arange(20), np.arange(20 - overlap, 40)]) + 1.0)
    changes = {"interval": interval, "chain": True, "weights": [str(tmp_path / "w.npy")]}
    parts = read(tmp_path, [first, second], **changes)
    assert [len(part) for part in parts] == [20, 20]
    np.testing.assert_allclose(np.concatenate([part.trajectory.xyz for part in parts]), X, atol=6e-4)
    np.testing.assert_array_equal(np.concatenate([part.external_weights for part in parts]), np.arange(40) + 1.0)
    np.testing.assert_array_equal(parts[1].take([3, 0]).xyz, parts[1].trajectory.xyz[[3, 0]])
    assert json.loads((tmp_path / "mark-1.json").read_text())["skip"] == overlap
    if overlap:
        thinned = read(tmp_path, [first, second], 3, **changes)
        np.testing.assert_allclose(thinned[1].trajectory.xyz, X[20::3], atol=6e-4)


def test_a_frame_of_two_files_is_refused_without_a_chain(tmp_path):
    files = [written(tmp_path, "a.dcd", slice(0, 20)), written(tmp_path, "b.dcd", slice(19, 40))]
    with pytest.raises(DataError, match=r"b\.dcd: frame 0 is also in .*a\.dcd, and would count twice; .* chain: true"):
        read(tmp_path, files, interval=1.0)
    files = [written(tmp_path, "a.xtc", slice(0, 20)), written(tmp_path, "b.xtc", slice(10, 15))]
    for order in (files, [written(tmp_path, "c.xtc", slice(20, 40)), files[0]]):
        with pytest.raises(DataError, match=r"none of its frames is later than the end of .*\.xtc; a chain"):
            read(tmp_path, order, chain=True)
    files = [written(tmp_path, "a.xtc", slice(0, 20)), written(tmp_path, "b.xtc", slice(15, 40))]
    for order, frame in ((files, 4), (files[::-1], 15)):
        with pytest.raises(DataError, match=rf"frame {frame} is also in .*\.xtc, and would count twice"):
            read(tmp_path, order)
