"""Provenance, with which a campaign can be reproduced: versions, settings, seeds and checksums."""

from __future__ import annotations

import json

from latf_sampling import __version__
from latf_sampling.core import installation, storage
from latf_sampling.core.words import plural
from latf_sampling.records.records import Records
from latf_sampling.report import page
from latf_sampling.report.estimates import Estimates
from latf_sampling.systems.contents import chemistry


def section(records: Records, estimates: Estimates) -> str:
    protocol = records.protocol
    settings = json.loads(protocol.canonical())
    files = [(file.name, storage.checksum(file)) for file in protocol.files]
    for number in range(len(protocol.all_rounds[0].walkers) if protocol.from_trajectories else 0):
        external = records.directory.round(0).external(number)
        if external.marker.exists():
            summary = external.manifest().content
            files.append((summary["path"], summary["sha256"]))
    parts = [
        page.paragraph(
            f"Seed of the campaign: {protocol.seed}; every random stream is derived from it by name. This report was "
            f"written by latf_sampling {__version__}."
        ),
        *_models(records),
        page.heading("Versions"),
        _versions(records),
        page.heading("Inputs"),
        *(page.paragraph(f"{line[0].upper()}{line[1:]}.") for line in chemistry(records.molecule.topology)),
        page.table(("file", "SHA-256"), files),
        page.details("Settings", page.code(json.dumps(settings, indent=1, sort_keys=True))),
    ]
    return page.section("Provenance", *parts)


def _models(records: Records) -> list[str]:
    if not records.learned:
        return []
    rows = [
        (
            f"after round {index}",
            learned.model.provenance.get("seed", "unknown"),
            f"{learned.model.provenance.get('frames', 0):,}",
            learned.model.n_states,
            f"{plural(len(learned.cv.metadata['names']), 'descriptor')}, {plural(len(learned.cv.atoms), 'atom')}",
            learned.cv.metadata["provenance"].get("exported", "unknown"),
        )
        for index, learned in records.learned
    ]
    return [
        page.heading("Models"),
        page.table(("model", "seed", "frames", "states", "collective variable", "exported"), rows),
    ]


def _versions(records: Records) -> str:
    """Versions of packages for this report and, where they differ, for the training of the last model."""
    current = {name: version for name, version in installation.installed().items() if version}
    training = records.learned[-1][1].cv.metadata["versions"] if records.learned else current
    rows = [
        (name, training.get(name, "not installed"), current.get(name, "not installed"))
        for name in sorted(training.keys() | current.keys())
    ]
    if training == current:
        return page.table(("package", "version"), [row[:2] for row in rows])
    return page.table(("package", "learned with", "reported with"), rows)
