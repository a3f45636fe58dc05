"""The command line: thin; everything it does is a call that a script could make.

Exit codes: 0 done; 1 the examined installation is not healthy, or there are fewer starts than asked for; 2 wrong input;
130 interrupted.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from latf_sampling.errors import ExtrapolationWarning, LatfError, SettingsError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Learn collective variables with Latent Thermodynamic Flows and drive OpenMM with them.",
)
_out, _err = Console(), Console(stderr=True)

Directory = Annotated[Path, typer.Argument(help="Directory of a campaign.")]


@app.command()
def run(
    protocol: Annotated[Path, typer.Argument(help="Protocol, a YAML file.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory of the campaign.")],
) -> None:
    """Run a campaign, or go on with it."""
    from latf_sampling.campaign.campaign import Campaign

    began = time.perf_counter()
    campaign = Campaign(protocol, output)
    with _Bars() as bars:
        campaign.run(bars)
    _out.print(f"Finished in {time.perf_counter() - began:.0f} s. Report: {campaign.store.report}", soft_wrap=True)


@app.command()
def status(directory: Directory) -> None:
    """Say where a campaign stands."""
    from latf_sampling.campaign.status import status as of

    table = Table("step", "done", "")
    for entry in of(directory):
        table.add_row(entry["step"], f"{100 * entry['done']:.0f} %", entry["words"])
    _out.print(table)


@app.command()
def train(
    directory: Directory,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where model.pt and cv.pt go.")],
    last_round: Annotated[
        int | None, typer.Option("--round", help="Use the rounds up to this one; default: all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
) -> None:
    """Train a model on a campaign's frames, with the settings of its protocol, and export its variable."""
    from latf_sampling.campaign.campaign import Campaign

    campaign = Campaign.of(directory)
    with _Bars() as bars:
        model, cv, _ = campaign.train(last_round, seed, progress=lambda fraction, words: bars("train", fraction, words))
    model.save(output / "model.pt")
    cv.save(output / "cv.pt")
    _out.print(f"{model.n_states} states. Model and variable are in {output}.", soft_wrap=True)


@app.command()
def evaluate(
    directory: Directory,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Page to write; default: evaluation.html in the directory.")
    ] = None,
) -> None:
    """Judge a campaign's last model by held-out frames and references: a table, and a page with pictures."""
    from latf_sampling.campaign.campaign import Campaign
    from latf_sampling.report import write_evaluation

    campaign = Campaign.of(directory)
    with _Bars() as bars:
        found = campaign.evaluate(lambda fraction, words: bars("evaluate", fraction, words))
    page = campaign.store.evaluation if output is None else output
    write_evaluation(found, page)
    _out.print(found.table())
    _out.print(f"Pictures: {page}", soft_wrap=True)


@app.command()
def lags(
    directory: Directory,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Page to write; default: lags.html in the directory.")
    ] = None,
) -> None:
    """Choose a lag time: states, time scales and VAMP-2 scores against it, and a recommendation."""
    from latf_sampling.campaign.campaign import Campaign
    from latf_sampling.learning.lag_scan import scan_lags
    from latf_sampling.report import write_lags

    campaign = Campaign.of(directory)
    with _Bars() as bars:
        scan = scan_lags(
            campaign.series(campaign.frames()), progress=lambda fraction, words: bars("lags", fraction, words)
        )
    page = directory / "lags.html" if output is None else output
    write_lags(scan, page)
    _out.print(scan.table())
    _out.print(f"{scan.reason}\nPictures: {page}", soft_wrap=True)


@app.command()
def features(
    source: Annotated[Path, typer.Argument(help="Directory of a campaign, or a protocol.")],
    trajectories: Annotated[
        list[Path] | None, typer.Argument(help="Trajectories of its system; default: the campaign's frames.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write, .npz, .npy or .csv; default: none.")
    ] = None,
    ranking: Annotated[
        bool, typer.Option("--ranking", help="Also rank them by how much the last model's variable depends on each.")
    ] = False,
) -> None:
    """Measure descriptors: write them, print their statistics, and name columns that hardly change or say the same."""
    from latf_sampling.campaign.campaign import Campaign
    from latf_sampling.learning.sensitivity import rank_descriptors
    from latf_sampling.records.feature_table import Source, write_features

    kept = source.is_dir()
    campaign = Campaign.of(source) if kept else Campaign(source, source.parent / f"{source.stem}-features")
    if trajectories:
        sources = Source.of_files(campaign, trajectories)
    else:
        sources = Source.of_campaign(campaign) if kept else Source.of_protocol(campaign)
    with _Bars() as bars:
        found = write_features(
            campaign.features, sources, output, lambda fraction, words: bars("features", fraction, words)
        )
    print(found.table())
    for remark in found.remarks(most=1000):
        _out.print(remark, soft_wrap=True, markup=False, highlight=False)
    if ranking:
        learned = campaign.last_learned()
        model, cv = campaign.model(learned)
        print(f"\n{rank_descriptors(model, campaign.dataset(learned, campaign.features_of(cv))).table()}")
    if output is not None:
        _out.print(f"Written to {output}.", soft_wrap=True)


@app.command()
def export(
    directory: Directory,
    output: Annotated[Path, typer.Option("-o", "--output", help="CV file to write.")],
    round_index: Annotated[
        int | None, typer.Option("--round", help="Take the model learned after this round; default: the last.")
    ] = None,
) -> None:
    """Export the collective variable of a trained model as one TorchScript file."""
    from latf_sampling.campaign.campaign import Campaign

    campaign = Campaign.of(directory)
    _, cv = campaign.model(campaign.last_learned() if round_index is None else round_index)
    cv.save(output)
    words = f"{cv.dim} components from {len(cv.metadata['names'])} descriptors of {len(cv.atoms)} atoms"
    _out.print(f"{output}: {words}.", soft_wrap=True)


@app.command()
def starts(
    directory: Annotated[Path, typer.Argument(help="Directory of a campaign, or a model.pt in it.")],
    temperature: Annotated[str, typer.Option(help="With its unit, like '450 K'.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Directory for the structures; the same command goes on there.")
    ],
    count: Annotated[int | None, typer.Option("-n", help="Number of structures.")] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(help="In place of samples: values of the variable, like '0.3, -1.2'; repeatable."),
    ] = None,
    between: Annotated[
        tuple[str, str] | None,
        typer.Option(help="A path of -n structures between two of: 'state 0', or values of the variable."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of targets and dynamics.")] = 0,
    processes: Annotated[
        int | None, typer.Option(help="Structures made at once; default: one a core. Does not change them.")
    ] = None,
    thermalise: Annotated[str | None, typer.Option(help="Time on the target, like '4 ps'.")] = None,
    release: Annotated[
        str | None, typer.Option(help="Free time after that; by default 0.1 ps, and '0 ps' for --at and --between.")
    ] = None,
    allow_cis: Annotated[bool, typer.Option("--allow-cis", help="Peptide bonds may go between cis and trans.")] = False,
    allow_inversion: Annotated[
        bool, typer.Option("--allow-inversion", help="Stereocentres may change their handedness.")
    ] = False,
    cif: Annotated[bool, typer.Option("--cif", help="Write PDBx/mmCIF also where PDB would do.")] = False,
) -> None:
    """Generate structures at a temperature, simulated or not, from the last model of a campaign."""
    from latf_sampling.campaign.campaign import Campaign
    from latf_sampling.units import parse

    if at and between:
        raise SettingsError("latf starts: give --at or --between, not both.")
    if at and count is not None:
        raise SettingsError("latf starts: --at says how many structures there are; leave out -n.")
    if not at and count is None:
        raise SettingsError("latf starts: -n, the number of structures, is missing.")
    kelvin = parse(temperature, "temperature", "--temperature")
    options = {"processes": processes, "directory": output, "structures": "cif" if cif else None}
    for name, text in (("thermalise", thermalise), ("release", release)):
        if text is not None:
            options[name] = parse(text, "time", f"--{name}")
    options |= {
        name: True for name, wanted in (("allow_cis", allow_cis), ("allow_inversion", allow_inversion)) if wanted
    }
    learned = None
    if directory.name == "model.pt" and len(directory.absolute().parents) > 3:
        learned = directory.absolute().parent.parent
        directory, learned = learned.parent.parent, int(learned.name) if learned.name.isdigit() else None
    campaign = Campaign.of(directory)
    with _Bars() as bars, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of too few structures: the summary says it
        warnings.simplefilter("always", ExtrapolationWarning)
        options |= {"learned": learned, "progress": lambda f, words: bars("starts", f, words)}
        if at:
            made = campaign.structures_at(kelvin, [_values(text) for text in at], seed, **options)
        elif between:
            made = campaign.structures_between(kelvin, [_place(text) for text in between], count, seed, **options)
        else:
            made = campaign.generate_starts(kelvin, count, seed, **options)
    _out.print(made.summary(), soft_wrap=True, highlight=False)
    if len(made) < made.requested:
        raise typer.Exit(1)


def _values(text: str) -> list[float]:
    """Values of the variable, as text."""
    try:
        return [float(part) for part in text.replace(",", " ").split()]
    except ValueError as error:
        raise SettingsError(f"latf starts: {text!r} are no values of the variable, like '0.3, -1.2'.") from error


def _place(text: str) -> int | list[float]:
    """A metastable state, as in "state 0", or values of the variable."""
    name, _, number = text.strip().partition(" ")
    return int(number) if name == "state" and number.strip().isdigit() else _values(text)


@app.command()
def report(directory: Directory) -> None:
    """Write a campaign's report anew."""
    from latf_sampling.campaign.campaign import Campaign
    from latf_sampling.report import write_report

    campaign = Campaign.of(directory)
    write_report(campaign)
    _out.print(f"Report: {campaign.store.report}", soft_wrap=True)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Examine the installation: versions, platforms, bias back ends; each fault with the command that mends it."""
    from latf_sampling.cli.doctor import examine, render

    found = examine()
    if as_json:
        print(json.dumps(found.as_dict(), indent=1))
    else:
        render(found, _out)
    raise typer.Exit(0 if found.healthy else 1)


class _Bars:
    """One progress bar per stage on a terminal; elsewhere one line when a stage is done."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
                   TimeRemainingColumn(), TextColumn("{task.fields[words]}"))  # fmt: skip
        self._bars = Progress(*columns, console=_err, disable=not _err.is_terminal)
        self._tasks: dict[str, TaskID] = {}
        self._done: set[str] = set()

    def __enter__(self) -> _Bars:
        self._bars.start()
        return self

    def __exit__(self, *_) -> None:
        self._bars.stop()

    def __call__(self, stage: str, fraction: float, words: str) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=1.0, words="")
        self._bars.update(self._tasks[stage], completed=fraction, words=words)
        if fraction >= 1 and stage not in self._done:
            self._done.add(stage)
            if not _err.is_terminal:
                _err.print(f"{stage}: done. {words}", soft_wrap=True)


def _warn(message: Warning | str, *_) -> None:
    _err.print(f"latf: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def main() -> NoReturn:
    """Run the command line; errors of the package become one sentence and exit code 2."""
    warnings.showwarning = _warn
    try:
        app(standalone_mode=True)
    except LatfError as error:
        _err.print(f"latf: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except SystemExit as ended:
        if ended.code == 130:  # typer's answer to Ctrl-C
            _err.print("latf: interrupted; what is finished is kept, the same command goes on.", soft_wrap=True)
        raise
    sys.exit(0)


if __name__ == "__main__":
    main()
