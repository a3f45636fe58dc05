"""Trees along the bonds of molecules, in which atoms that are joined are near each other in space."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import mdtraj
import numpy as np

_MAX_BONDS = 4  # atoms this many bonds apart are within 0.6 nm of each other, and every box is twice as wide
_STRIDE = 3  # bonds between the atoms that are added where selected atoms are farther apart


def molecule_labels(topology: mdtraj.Topology, atoms: Sequence[int] | np.ndarray) -> np.ndarray:
    """Number of the molecule of each of some atoms, counted in their order; (len(atoms),).

    Examples
    --------
    >>> topology = mdtraj.Topology()
    >>> residue = topology.add_residue("ARG", topology.add_chain())
    >>> argon = [topology.add_atom(name, mdtraj.element.argon, residue) for name in "ABCD"]
    >>> topology.add_bond(argon[0], argon[3])
    >>> molecule_labels(topology, [2, 3, 0, 1]).tolist()
    [0, 1, 1, 2]
    """
    owner = list(range(topology.n_atoms))

    def first(atom: int) -> int:
        while owner[atom] != atom:
            owner[atom] = owner[owner[atom]]
            atom = owner[atom]
        return atom

    for one, other in topology.bonds:
        owner[first(one.index)] = first(other.index)
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(first(int(atom)), len(numbers)) for atom in atoms])


def bonded_tree(topology: mdtraj.Topology, atoms: Sequence[int]) -> tuple[list[int], np.ndarray]:
    """Connect atoms along their molecules by a tree whose edges are short in space.

    Atoms with the fewest bonds between them are joined; where there are more than four bonds, atoms on the way are
    added. Molecules, which no bond connects, are joined by one edge each, from the first of their atoms to the first of
    all.

    Parameters
    ----------
    topology
        Topology with bonds.
    atoms
        Indices in the topology, each once.

    Returns
    -------
    list of int
        The atoms, then those that were added.
    numpy.ndarray of int64, shape (edges, 2)
        Parent and child of every edge, as indices into that list; parents come first, the root has index 0.

    Examples
    --------
    >>> topology = mdtraj.Topology()
    >>> residue = topology.add_residue("ARG", topology.add_chain())
    >>> chain = [topology.add_atom(name, mdtraj.element.argon, residue) for name in "ABCDEFG"]
    >>> for pair in zip(chain, chain[1:]):
    ...     topology.add_bond(*pair)
    >>> bonded_tree(topology, [0, 2, 6])
    ([0, 2, 6], array([[0, 1],
           [1, 2]]))
    >>> bonded_tree(topology, [0, 6])
    ([0, 6, 3], array([[0, 2],
           [2, 1]]))
    """
    neighbors: dict[int, list[int]] = {}
    for first, second in topology.bonds:
        neighbors.setdefault(first.index, []).append(second.index)
        neighbors.setdefault(second.index, []).append(first.index)
    # Breadth-first search from all atoms at once: for each atom of the molecules, the nearest of the given atoms and
    # the path to it. The shortest paths between neighboring regions contain a minimum spanning tree
    # (doi:10.1016/0020-0190(88)90066-X).
    nearest, predecessor, distance = {a: a for a in atoms}, {}, dict.fromkeys(atoms, 0)
    queue = deque(atoms)
    links = []
    while queue:
        atom = queue.popleft()
        for other in neighbors.get(atom, ()):
            if other not in nearest:
                nearest[other], predecessor[other], distance[other] = nearest[atom], atom, distance[atom] + 1
                queue.append(other)
            elif nearest[other] != nearest[atom]:
                links.append((distance[atom] + 1 + distance[other], atom, other))
    group = {a: a for a in atoms}

    def representative(atom: int) -> int:
        while group[atom] != atom:
            group[atom] = group[group[atom]]
            atom = group[atom]
        return atom

    def path_from(atom: int) -> list[int]:
        path = [atom]
        while path[-1] in predecessor:
            path.append(predecessor[path[-1]])
        return path

    joined: dict[int, list[int]] = {a: [] for a in atoms}
    for bonds, one, other in sorted(links):
        ends = [representative(nearest[atom]) for atom in (one, other)]
        if ends[0] == ends[1]:
            continue
        group[ends[0]] = ends[1]
        path = [*path_from(one)[::-1], *path_from(other)]
        stops = path[::_STRIDE] if bonds > _MAX_BONDS else path[:1]
        stops = [*stops, path[-1]] if stops[-1] != path[-1] else stops
        for a, b in zip(stops, stops[1:]):
            joined.setdefault(a, []).append(b)
            joined.setdefault(b, []).append(a)
    nodes = [*atoms, *(atom for atom in joined if atom not in group)]
    index = {atom: number for number, atom in enumerate(nodes)}
    edges, seen = [], set()
    for root in atoms:
        if root in seen:
            continue
        if seen:
            edges.append((0, index[root]))
        seen.add(root)
        queue = deque([root])
        while queue:
            atom = queue.popleft()
            for other in joined[atom]:
                if other not in seen:
                    seen.add(other)
                    edges.append((index[atom], index[other]))
                    queue.append(other)
    return nodes, np.array(edges, np.int64).reshape(-1, 2)
