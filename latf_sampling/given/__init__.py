"""Trajectories that were there before a campaign: examined once, and streamed from where they lie."""

from latf_sampling.given.examination import Given, examine, stride_of
from latf_sampling.given.files import check_atoms, read_pieces
from latf_sampling.given.frames import GivenFrames

__all__ = ["Given", "GivenFrames", "check_atoms", "examine", "read_pieces", "stride_of"]
