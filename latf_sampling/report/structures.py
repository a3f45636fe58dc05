"""Structures to look at: those of each state, paths between states and starts, beside the map of free energies."""

from __future__ import annotations

import base64
import itertools
import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import mdtraj
import numpy as np
from matplotlib.axes import Axes
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import KDTree

from latf_sampling.core import streams
from latf_sampling.core.words import plural
from latf_sampling.errors import ExtrapolationWarning
from latf_sampling.records.records import Records
from latf_sampling.records.rounds import LearnedModel
from latf_sampling.report import charts, page, words
from latf_sampling.report.estimates import Estimates
from latf_sampling.report.landscapes import components, draw_density, summed
from latf_sampling.report.structures_drawing import Drawing
from latf_sampling.starts.files import StartFiles

POINTS = 2000
"""Largest number of archived frames that structures are chosen from."""
MEMORY = 300e6
"""Bytes that their positions may take; of larger molecules there are fewer frames."""
FRAMES = 300
"""Largest number of structures on a page."""
COORDINATES = 1_000_000
"""Largest number of atoms of all structures together: 8 MB of a page."""
OVERLAY, PATH, STARTS, PATHS = 6, 24, 16, 10
"""Structures of a state, along a path and of a set of starts, and number of paths, where there is room."""
NEIGHBORS = 10
"""Frames that each frame of a path may be followed by, and among which the most similar structure is chosen."""
LIBRARY = "3Dmol.js 2.5.5"
DATA = "structures-data"
"""The id of the element with the structures, as JSON."""


def section(records: Records, estimates: Estimates) -> str:
    """Empty for a potential, which has no molecule, and where nothing but solvent was simulated."""
    if records.protocol.system.is_potential:
        return ""
    drawing = Drawing.from_topology(records.topology)
    if drawing is None:
        return ""
    learned = records.learned[-1] if records.learned else None
    archive = _Archive.read(records, drawing, None if learned is None else learned[1])
    return page.section("Structures", *_parts(records, drawing, archive, learned))


def scripts(sections: Iterable[str]) -> list[str]:
    """What draws the structures in a page: the library with its license, and the program that uses it."""
    if not any(f'id="{DATA}"' in text for text in sections):
        return []
    folder = resources.files("latf_sampling.report")
    license_text, library, program = (
        folder.joinpath(name).read_text(encoding="utf-8")
        for name in ("vendor/3Dmol-LICENSE.txt", "vendor/3Dmol-min.js", "structures.js")
    )
    return [f"/*! {LIBRARY}, https://3dmol.org\n{license_text}*/\n{library}", program]


# The archive


@dataclass(frozen=True)
class _Archive:
    """Structures that may be shown: archived frames, starts, and the prepared structure.

    Attributes
    ----------
    positions : numpy.ndarray (n, atoms, 3)
        Of the drawn atoms, aligned, nm.
    labels : list of str
        Where each comes from.
    latent : numpy.ndarray (n, d) or None
        By the last model; `None` without one.
    states : numpy.ndarray (n,) or None
    groups : list
        Names of walkers and of sets of starts with the indices of their structures.
    frames : int
        The first so many are archived frames.
    """

    positions: np.ndarray
    labels: list[str]
    latent: np.ndarray | None
    states: np.ndarray | None
    groups: list[tuple[str, np.ndarray]]
    frames: int

    @classmethod
    def read(cls, records: Records, drawing: Drawing, learned: LearnedModel | None) -> _Archive:
        most = int(min(POINTS, max(100, MEMORY / (12 * len(drawing.atoms)))))
        selected = charts.thin(sum(len(walker.frames) for walker in records.walkers), most)
        positions, labels, latent, groups, count = [], [], [], [], 0
        features = None if learned is None else records.features_of(learned.cv)

        def add(name: str, trajectory: mdtraj.Trajectory, names: Sequence[str]) -> None:
            nonlocal count
            positions.append(drawing.positions(trajectory))
            labels.extend(names)
            if features is not None and learned is not None:
                latent.append(learned.model.encode(features.transform(trajectory)))
            if groups and groups[-1][0] == name:
                groups[-1] = name, np.append(groups[-1][1], np.arange(count, count + len(names)))
            else:
                groups.append((name, np.arange(count, count + len(names))))
            count += len(names)

        block = max(1, int(MEMORY / (12 * records.topology.n_atoms)))
        for walker in records.walkers:
            frames, times = np.arange(len(walker.frames))[selected], 1000 * walker.time
            for start in range(0, len(frames), block):
                part = frames[start : start + block]
                about = [
                    f"{walker.frames.label}, {words.span(float(times[k]))}, {walker.frames.temperature:g} K"
                    for k in part
                ]
                add(walker.frames.label, walker.frames.take(part.tolist()), about)
        archived = count
        for name, trajectory in _starts(records):
            add(name, trajectory, [f"{name}, structure {k}" for k in range(len(trajectory))])
        add("prepared structure", _prepared(records), ["prepared structure"])
        points = None if learned is None else np.concatenate(latent)
        states = None if learned is None or points is None else learned.model.state_probabilities(points).argmax(1)
        return cls(drawing.aligned(np.concatenate(positions)), labels, points, states, groups, archived)


def _prepared(records: Records) -> mdtraj.Trajectory:
    """The structure that the system was built with."""
    molecule = records.molecule
    trajectory = mdtraj.Trajectory(molecule.positions[None].astype(np.float32), records.topology)
    box = molecule.topology.getPeriodicBoxVectors()
    if records.periodic and box is not None:
        trajectory.unitcell_vectors = np.array([[list(vector) for vector in box.value_in_unit(box.unit)]], np.float32)
    return trajectory


def _starts(records: Records) -> list[tuple[str, mdtraj.Trajectory]]:
    """Names and structures of each set of starts, some of each."""
    sets = []
    if records.protocol.starts is not None:
        sets.append((f"starts at {records.protocol.starts.temperature:g} K", records.directory.starts))
    for entry in records.rounds[1:]:
        files = records.directory.round(entry.index)
        for first in files.start_sets():
            later = f", from walker {first} on" if first else ""
            sets.append((f"starts of round {entry.index}{later}", files.start_set(first)))
    found = []
    for name, folder in sets:
        files = StartFiles(folder)
        count = files.read_table()["valid"] if files.complete else 0
        arrays = [files.read_arrays(k) for k in range(count)[charts.thin(count, STARTS)]]
        if not arrays:
            continue
        trajectory = mdtraj.Trajectory(
            np.stack([entry["positions"] for entry in arrays]).astype(np.float32), records.topology
        )
        if all("box" in entry for entry in arrays):
            trajectory.unitcell_vectors = np.stack([entry["box"] for entry in arrays]).astype(np.float32)
        found.append((name, trajectory))
    return found


# What is shown of it


@dataclass(frozen=True)
class _Set:
    """Structures that belong together, by their indices in the archive; the first one is shown first."""

    kind: str
    name: str
    frames: list[int]
    state: int | None = None


def _sets(records: Records, archive: _Archive, learned: LearnedModel | None, room: int) -> list[_Set]:
    """States, paths and starts; without a model, walkers in the course of time."""
    sets, starts = [], archive.groups[:-1]
    if archive.latent is None or archive.states is None or learned is None:
        share = max(2, room // (len(archive.groups) + 1))
        sets = [
            _Set("walker" if members[0] < archive.frames else "starts", name, _evenly(members, min(PATH, share)))
            for name, members in starts
        ]
    else:
        rng = streams.stream(records.protocol.seed, "report", "structures")
        representatives = _representatives(archive, learned)
        few = max(1, min(OVERLAY, room // (4 * len(representatives) or 1)))
        for state, first in representatives.items():
            others = np.flatnonzero(archive.states[: archive.frames] == state)
            others = rng.permutation(others[others != first])[: few - 1].tolist()
            sets.append(_Set("state", f"state {state}", [first, *others], state))
        pairs = min(PATHS, len(representatives) * (len(representatives) - 1) // 2)
        points = max(2, min(PATH, room // (3 * pairs or 1)))
        sets += _paths(archive, representatives, points)
        groups = [(name, members) for name, members in starts if members[0] >= archive.frames]
        few = max(1, min(STARTS, room // (4 * len(groups) or 1)))
        sets += [_Set("starts", name, _evenly(members, few)) for name, members in groups]
    name, members = archive.groups[-1]
    return [*sets, _Set("prepared", name, members.tolist())]


def _evenly(members: np.ndarray, most: int) -> list[int]:
    return members[np.unique(np.linspace(0, len(members) - 1, min(most, len(members))).astype(int))].tolist()


def _representatives(archive: _Archive, learned: LearnedModel) -> dict[int, int]:
    """Of each state with archived frames, the frame where the flow's density is highest."""
    assert archive.latent is not None and archive.states is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)  # which the section of landscapes states
        density = learned.model.marginal_log_prob(archive.latent[: archive.frames][:, learned.model.used_components])
    found = {}
    for state in range(learned.model.n_states):
        members = np.flatnonzero(archive.states[: archive.frames] == state)
        if len(members):
            found[state] = int(members[np.argmax(density[members])])
    return found


def _paths(archive: _Archive, representatives: dict[int, int], points: int) -> list[_Set]:
    """Frames along the ways between states that take the smallest steps through the archive.

    A step costs the square of its length in latent space, so that a way goes where frames are many. Of the frames
    nearest to a point of the way, the one whose structure differs least from that before is taken.
    """
    assert archive.latent is not None
    latent = archive.latent[: archive.frames]
    latent = (latent - latent.mean(0)) / np.maximum(latent.std(0), 1e-9)
    if len(representatives) < 2 or len(latent) <= NEIGHBORS:
        return []
    tree = KDTree(latent)
    lengths, others = tree.query(latent, NEIGHBORS + 1)
    rows = np.repeat(np.arange(len(latent)), NEIGHBORS + 1)
    # Steps between any two representatives, so that every pair has a way.
    ends = np.array(list(representatives.values()))
    direct = np.array(list(itertools.permutations(ends, 2))).T
    far = ((latent[direct[0]] - latent[direct[1]]) ** 2).sum(1)
    costs = np.concatenate([lengths.ravel() ** 2 + 1e-12, far])  # a cost of zero would be no step at all
    edges = np.concatenate([rows, direct[0]]), np.concatenate([others.ravel(), direct[1]])
    graph = csr_matrix((costs, edges), shape=(len(latent),) * 2)
    distances, before = dijkstra(graph, directed=False, indices=ends, return_predecessors=True)
    pairs = sorted(itertools.combinations(range(len(ends)), 2), key=lambda pair: distances[pair[0], ends[pair[1]]])
    states, sets = list(representatives), []
    for first, last in sorted(pairs[:PATHS]):
        way = [ends[last]]
        while way[-1] != ends[first]:
            way.append(before[first, way[-1]])
        frames = _along(archive.positions, latent, tree, np.array(way[::-1]), points)
        sets.append(_Set("path", f"path {states[first]} to {states[last]}", frames))
    return sets


def _along(positions: np.ndarray, latent: np.ndarray, tree: KDTree, way: np.ndarray, points: int) -> list[int]:
    """Frames near evenly spaced points of a way, from its first to its last frame."""
    length = np.append(0, np.cumsum(np.linalg.norm(np.diff(latent[way], axis=0), axis=1)))
    wanted = np.linspace(0, length[-1], points)
    targets = np.stack([np.interp(wanted, length, column) for column in latent[way].T], axis=1)
    frames = [int(way[0])]
    for target in targets[1:-1]:
        near = np.atleast_1d(tree.query(target, NEIGHBORS)[1])
        deviations = ((positions[near] - positions[frames[-1]]) ** 2).sum((1, 2))
        chosen = int(near[np.argmin(deviations)])
        if chosen != frames[-1]:
            frames.append(chosen)
    return [*frames, int(way[-1])]


def _spread(latent: np.ndarray, chosen: Sequence[int], count: int) -> list[int]:
    """As many more frames, each the one farthest in latent space from all before."""
    scaled = latent / np.maximum(latent.std(0), 1e-9)
    distance = np.full(len(scaled), np.inf)
    for index in chosen:
        distance = np.minimum(distance, ((scaled - scaled[index]) ** 2).sum(1))
    more: list[int] = []
    while len(more) < min(count, len(scaled) - len(set(chosen))) and distance.max() > 0:
        more.append(int(np.argmax(distance)))
        distance = np.minimum(distance, ((scaled - scaled[more[-1]]) ** 2).sum(1))
    return more


# The page


def _parts(
    records: Records, drawing: Drawing, archive: _Archive, learned: tuple[int, LearnedModel] | None
) -> list[str]:
    room = max(12, min(FRAMES, COORDINATES // len(drawing.atoms)))
    sets = _sets(records, archive, learned and learned[1], room)
    shown = list(dict.fromkeys(index for entry in sets for index in entry.frames))
    if archive.latent is not None:
        known = [index for index in shown if index < archive.frames]
        shown += _spread(archive.latent[: archive.frames], known, room - len(shown))
    places, figure = None, ""
    if learned is not None and archive.latent is not None:
        places, figure = _map(learned[0], learned[1], archive.latent[shown], sum(k < archive.frames for k in shown))
    data = {**_data(drawing, archive, sets, shown), "places": places}
    block = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    viewer = (
        '<div class="viewer" id="structures"><p class="soft">Structures are drawn by JavaScript and WebGL, which are '
        "off in this browser, or missing in it.</p></div>"
    )
    return [
        page.paragraph(_about(drawing, learned is not None), "soft"),
        f'<div class="structures">\n{figure}\n{viewer}\n</div>',
        f'<script type="application/json" id="{DATA}">{block}</script>',
    ]


def _about(drawing: Drawing, with_model: bool) -> str:
    """How structures were chosen, and what is left out of them."""
    atoms = f"{len(drawing.atoms):,} of {drawing.topology.n_atoms:,} atoms are drawn"
    how = (
        "The first structure of a state is its most probable one among archived frames, by the flow; the others are "
        "drawn at random from its frames. A path takes the smallest steps through the archive in latent space, and is "
        "not a trajectory."
        if with_model
        else "No model is learned yet: the structures of each walker are in the order of time."
    )
    return f"{how} Structures are aligned, and molecules are whole; {atoms}, without solvent, ions and most hydrogens."


def _map(index: int, learned: LearnedModel, latent: np.ndarray, archived: int) -> tuple[list[list[float]], str]:
    """Where structures are in the drawing of the free energy, in its own units, and the figure."""
    temperature, shown, model = learned.model.settings.reference_temperature, components(learned), learned.model
    profile: list[np.ndarray] = []
    top = np.inf

    def draw(axes: Axes) -> None:
        nonlocal top
        draw_density(axes, learned, temperature)
        if len(shown) == 1:
            profile.append(np.asarray(axes.lines[0].get_xydata()))
            top = axes.get_ylim()[1]

    svg, to_view = charts.placed_chart(draw, height=3.5)
    x = latent[:, shown[0]]
    if len(shown) == 1:
        y = np.minimum(np.interp(x, *profile[0].T), top)
    else:
        y = latent[:, shown[1]]
    caption = (
        f"Latent free energy by the model learned after round {index}, at {temperature:g} K, "
        f"with {plural(archived, 'archived frame')} (dots) and the {plural(model.n_states, 'state')} (numbers). Click "
        "anywhere to see the archived structure nearest to that place; the ring marks the structure that is shown."
        f"{summed(learned)}"
    )
    return np.round(to_view(x, y), 1).tolist(), page.figure(svg, caption, "map")


def _data(drawing: Drawing, archive: _Archive, sets: Sequence[_Set], shown: Sequence[int]) -> dict[str, Any]:
    """Everything that the program needs. Positions are integers, multiples of "step" in nm, little-endian."""
    positions = archive.positions[list(shown)]
    step = max(0.001, float(np.abs(positions).max()) / 32_767)
    integers = np.round(positions / step).astype("<i2")
    number = {index: place for place, index in enumerate(shown)}
    states = archive.states
    return {
        "pdb": drawing.pdb,
        "atoms": len(drawing.atoms),
        "step": step,
        "coordinates": base64.b64encode(integers.tobytes()).decode("ascii"),
        "labels": [archive.labels[index] for index in shown],
        "states": None if states is None else [int(states[index]) for index in shown],
        "archived": [bool(index < archive.frames) for index in shown],
        "sets": [
            {"kind": entry.kind, "name": entry.name, "frames": [number[k] for k in entry.frames], "state": entry.state}
            for entry in sets
        ],
        "colors": list(charts.PALETTE),
        "style": drawing.style,
        "sideChains": drawing.side_chains,
        "bonds": drawing.topology.n_bonds > 0,
    }
