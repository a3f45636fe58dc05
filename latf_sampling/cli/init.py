"""What `latf init` prints about the protocol that it wrote."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from latf_sampling.cli import tables

if TYPE_CHECKING:
    from latf_sampling.campaign.proposal import Proposal


def describe(proposal: Proposal, width: int | None) -> str:
    """The plan of a proposal as `latf check` prints it, its time on this machine, and the commands to go on with.

    Parameters
    ----------
    proposal
        The protocol that was written.
    width
        Characters of a line; `None` wraps nothing.
    """
    from latf_sampling.campaign.check import summary

    protocol = proposal.setup.protocol
    rows = [("found", proposal.contents), *summary(proposal.setup)]
    if proposal.speed is not None:
        rows.append(("time", proposal.speed.words(protocol)))
    first, *more = rows
    path = shlex.quote(str(proposal.path))
    lines = [f"{proposal.path}: written. It would run:", tables.aligned(first, more, width)]
    if proposal.advice is not None:
        lines.append(proposal.advice)
    lines.append("Every value has its reason beside it: read the file, and change what you know better. Then:")
    lines += [
        f"  latf run {path} --smoke    # everything once, as little of it as possible",
        f"  latf run {path} -o runs/{shlex.quote(proposal.path.stem)}",
    ]
    return "\n".join(lines)
