"""The equilibrations before the first round: at which volume and density they ended, and whether they still drifted."""

from __future__ import annotations

from latf_sampling.core.manifest import Manifest
from latf_sampling.records.records import Records
from latf_sampling.report import page
from latf_sampling.report.estimates import Estimates
from latf_sampling.simulation.equilibration import FINISHED


def section(records: Records, estimates: Estimates) -> str:
    """Empty where the protocol asks for none."""
    if records.protocol.equilibrate is None:
        return ""
    rows, remarks = [], []
    for marker in sorted(records.directory.equilibration.glob(f"*/{FINISHED}.json")):
        content = Manifest.load(marker).content
        free = content["stages"]["free"]
        volume = content.get("volume")
        rows.append(
            (
                f"{content['temperature']:g} K",
                "–" if volume is None else f"{volume:.2f}",
                "–" if "density" not in free else f"{free['density']:.0f}",
                f"{free['energy']:.1f}",
                f"{free['energy_drift']:.1f}",
                "–" if volume is None else f"{free['volume_drift']:.1f}",
            )
        )
        remarks += content["warnings"]
    title = "Equilibration"
    if not rows:
        return page.section(title, page.missing("The equilibration is not finished yet."))
    text = (
        "Before the first round the system was minimized, heated with restraints on the solute's heavy atoms, and "
        "relaxed while these were let go; none of these frames counts. Drifts are differences between the last two "
        "quarters, in standard deviations; above 2 the equilibration was too short."
    )
    head = ("temperature", "volume, nm³", "density, kg/m³", "energy, kJ/mol", "drift of energy", "drift of volume")
    return page.section(title, page.paragraph(text), page.table(head, rows), *map(page.missing, remarks))
