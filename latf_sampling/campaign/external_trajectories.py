"""The external trajectories of a campaign are read from end to end, each once.

Modules that load torch are imported where they are used: the process that runs a campaign leaves this to another one.
"""

from __future__ import annotations

from pathlib import Path

from latf_sampling.campaign.progress import StepProgress
from latf_sampling.core import platforms
from latf_sampling.core.words import plural
from latf_sampling.records.records import Records


def read_trajectories(records: Records, progress: StepProgress) -> str:
    """Read those that were not read yet, and find again those that were moved; returns what was read, in words."""
    from latf_sampling.data.external import ExternalTrajectory, examine, relocate

    protocol, directory, molecule = records.protocol, records.directory, records.molecule
    trajectories = ExternalTrajectory.from_settings(protocol.from_trajectories)
    system, barostat, earlier = molecule.system, protocol.system.barostat, 0
    platform = platforms.pick_platform(protocol.system.platform, system.getNumParticles())
    contents: list[dict] = []
    for number, external in enumerate(trajectories):
        target = directory.round(0).external(number)
        before = earlier if external.position else 0
        if target.marker.exists():
            relocate(external, target)
        else:
            done, name = number / len(trajectories), Path(external.path).name
            examine(
                external,
                before,
                records.topology,
                system,
                platform,
                protocol.frame_interval,
                None if barostat is None else barostat.pressure,
                target,
                lambda frames, done=done, name=name: progress(done, f"{name}: {plural(frames, 'frame')}"),
                molecule.positions,
                contents,
            )
        contents.append(target.manifest().content)
        earlier = before + contents[-1]["frames"]
    frames = sum(map(len, records.external_frames()))
    words = f"{plural(frames, 'frame')} of {plural(len(trajectories), 'trajectory')}"
    if skipped := sum(content.get("skip", 0) for content in contents):
        words += f", {plural(skipped, 'frame')} left out that the file before has too"
    return words
