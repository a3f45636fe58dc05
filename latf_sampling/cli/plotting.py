"""`latf plot` and `latf report --compare`: a picture of a campaign, and a page about several."""

from __future__ import annotations

from pathlib import Path

from latf_sampling.core.outputs import output_file
from latf_sampling.errors import SettingsError


def plot_command(what: str, directory: Path, output: Path, with_table: bool, trust: bool) -> str:
    """Write a picture and, beside it, its numbers; returns what to say."""
    from latf_sampling.records.records import Records
    from latf_sampling.report import plots

    plots.check(what, output)
    table = output.with_suffix(".csv") if with_table else None
    for file in (output, *([] if table is None else [table])):
        output_file(file)
    plots.write_plot(what, Records.load(directory, trust), output, table)
    return f"Written to {output}." if table is None else f"Written to {output}, its numbers to {table}."


def report_command(directories: list[Path], output: Path | None, compare: bool, trust: bool) -> str:
    """Write the report of a campaign, or a page that compares several; returns what to say."""
    if compare and len(directories) < 2:
        raise SettingsError("report: --compare needs the directories of two campaigns or more.")
    if not compare and len(directories) > 1:
        raise SettingsError(
            f"report: got {len(directories)} directories; give one, or --compare to put campaigns side by side."
        )
    target = None if output is None else output_file(output)

    from latf_sampling.records.records import Records

    if compare:
        from latf_sampling.report import write_comparison

        target = Path("comparison.html") if target is None else target
        write_comparison([Records.load(directory, trust) for directory in directories], target)
        return f"Comparison: {target}"

    from latf_sampling.report import write_report

    page = write_report(Records.load(directories[0], trust), target)
    return f"Report: {page if output is None else output}"
