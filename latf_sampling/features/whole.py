"""Molecules made whole: positions of some atoms on one side of the box's faces."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import mdtraj
import numpy as np
import torch

from latf_sampling.features.periodic import Differences, gathered, image_counts

_FAR = 4  # bonds; atoms so many apart are at most 0.6 nm from each other, and no box is less than twice as wide
_STRIDE = 3  # bonds between the atoms that are added where those of a selection are farther apart


def bonded_tree(topology: mdtraj.Topology, atoms: Sequence[int]) -> tuple[list[int], np.ndarray]:
    """Connect atoms along their molecules, so that nothing joined is far apart in space.

    Atoms with the fewest bonds between them are joined; where these are more than four, atoms between them are added.
    Molecules, which no bond connects, are joined by one edge each, from the first of their atoms to the first of the
    molecule before.

    Parameters
    ----------
    topology
        With its bonds.
    atoms
        Indices in the topology, each once.

    Returns
    -------
    list of int
        The atoms, then those that were added.
    numpy.ndarray of int64, shape (edges, 2)
        Parent and child of every edge, as places in that list; parents come first, the root is place 0.

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
    neighbours: dict[int, list[int]] = {}
    for first, second in topology.bonds:
        neighbours.setdefault(first.index, []).append(second.index)
        neighbours.setdefault(second.index, []).append(first.index)
    # From all atoms at once outwards: what each atom of the molecules is nearest to, and the way there. The shortest
    # ways between neighbouring regions contain a minimum spanning tree (doi:10.1016/0020-0190(88)90066-X).
    nearest, before, away = {a: a for a in atoms}, {}, dict.fromkeys(atoms, 0)
    queue = deque(atoms)
    ways = []
    while queue:
        here = queue.popleft()
        for other in neighbours.get(here, ()):
            if other not in nearest:
                nearest[other], before[other], away[other] = nearest[here], here, away[here] + 1
                queue.append(other)
            elif nearest[other] != nearest[here]:
                ways.append((away[here] + 1 + away[other], here, other))
    group = {a: a for a in atoms}

    def representative(atom: int) -> int:
        while group[atom] != atom:
            group[atom] = group[group[atom]]
            atom = group[atom]
        return atom

    def back(atom: int) -> list[int]:
        path = [atom]
        while path[-1] in before:
            path.append(before[path[-1]])
        return path

    joined: dict[int, list[int]] = {a: [] for a in atoms}
    for bonds, here, other in sorted(ways):
        ends = [representative(nearest[atom]) for atom in (here, other)]
        if ends[0] == ends[1]:
            continue
        group[ends[0]] = ends[1]
        path = [*back(here)[::-1], *back(other)]
        stops = path[::_STRIDE] if bonds > _FAR else path[:1]
        stops = [*stops, path[-1]] if stops[-1] != path[-1] else stops
        for a, b in zip(stops, stops[1:]):
            joined.setdefault(a, []).append(b)
            joined.setdefault(b, []).append(a)
    found = [*atoms, *(atom for atom in joined if atom not in group)]
    place = {atom: index for index, atom in enumerate(found)}
    edges, seen, last = [], set(), None
    for root in atoms:
        if root in seen:
            continue
        if last is not None:
            edges.append((place[last], place[root]))
        last = root
        seen.add(root)
        queue = deque([root])
        while queue:
            here = queue.popleft()
            for other in joined[here]:
                if other not in seen:
                    seen.add(other)
                    edges.append((place[here], place[other]))
                    queue.append(other)
    return found, np.array(edges, np.int64).reshape(-1, 2)


def whole_molecules(topology: mdtraj.Topology) -> Whole:
    """Module that makes all molecules whole, each where its first atom is.

    Examples
    --------
    >>> topology = mdtraj.Topology()
    >>> residue = topology.add_residue("ARG", topology.add_chain())
    >>> topology.add_bond(*(topology.add_atom(name, mdtraj.element.argon, residue) for name in "AB"))
    >>> whole_molecules(topology)(torch.tensor([[0.1, 0.0, 0.0], [1.9, 0.0, 0.0]]), 2 * torch.eye(3))[1]
    tensor([-0.1000,  0.0000,  0.0000])
    """
    atoms, tree = bonded_tree(topology, range(topology.n_atoms))
    bonds = {frozenset((first.index, second.index)) for first, second in topology.bonds}
    return Whole(atoms, tree[[frozenset(edge) in bonds for edge in tree.tolist()]], topology.n_atoms)


class Whole(torch.nn.Module):
    """Some of the positions (..., n, 3) -> (..., wanted, 3), whole if there is a box.

    In a box, each atom is placed next to its parent in the tree, at the shortest image; the atoms that an edge joins
    have to be nearer to each other than half the box's width. Between molecules, which may be any distance apart, the
    image is the shortest of the edge that joins them. What has no parent stays where it is, so that several trees are
    each made whole by itself. Without a box the positions are what they were.

    Which images they are counts as constant: the gradient with respect to the positions is the identity.

    Parameters
    ----------
    atoms
        Indices in the positions, those that `bonded_tree` added included.
    tree
        Its edges.
    n_atoms
        Number of positions.
    wanted
        Which to give, as places in ``atoms``; all of them if left out.
    """

    def __init__(self, atoms: Sequence[int], tree: np.ndarray, n_atoms: int, wanted: Sequence[int] | None = None):
        super().__init__()
        chosen = torch.as_tensor(atoms, dtype=torch.int64)
        self.differences = Differences(chosen[tree[:, 0]], chosen[tree[:, 1]], n_atoms)
        # Once around the tree, every edge there and back: a running sum is what an atom is moved by when it is reached.
        tour, signs, reached = _around(tree, len(atoms))
        self.connected: bool = len(tree) > 0
        places = list(range(len(atoms)) if wanted is None else wanted)
        self.register_buffer("atoms", chosen[places])
        self.register_buffer("tour", torch.as_tensor(tour, dtype=torch.int64))
        self.register_buffer("signs", torch.tensor(signs)[:, None])
        self.register_buffer("reached", torch.tensor([reached[place] for place in places]))

    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        x = gathered(positions, self.atoms)
        if box is not None and self.connected:
            vectors = self.differences(positions.detach(), None)
            counts = image_counts(vectors, box, self.differences.images)
            moved = torch.cumsum(gathered(counts, self.tour) * self.signs, -2)
            x = x - torch.matmul(gathered(moved, self.reached), box)
        return x


def _around(tree: np.ndarray, n_atoms: int) -> tuple[list[int], list[float], list[int]]:
    """Edges in the order of a walk around each tree, +1 on the way out and -1 back; where each atom is reached."""
    children: list[list[tuple[int, int]]] = [[] for _ in range(n_atoms)]
    for edge, (parent, child) in enumerate(tree.tolist()):
        children[parent].append((edge, child))
    tour, signs, reached = [0], [0.0], [0] * n_atoms
    roots = sorted(set(range(n_atoms)) - set(tree[:, 1].tolist()))
    stack = [(edge, child, False) for root in roots for edge, child in children[root]][::-1]
    while stack:
        edge, child, back = stack.pop()
        tour.append(edge)
        signs.append(-1.0 if back else 1.0)
        if not back:
            reached[child] = len(tour) - 1
            stack.append((edge, child, True))
            stack += [(edge, child, False) for edge, child in children[child][::-1]]
    return tour, signs, reached
