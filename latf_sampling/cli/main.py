"""The command line; each command is one call that a script could make.

Exit codes: 0 for success; 1 where the installation is not healthy, there are fewer structures than requested, an error
is larger than with --until, or the reader of the output has ended; 2 for wrong input and for files that cannot be read
or written; 70 for a fault of the program; 75 where the same command should be run again, after --max-time or SIGUSR1;
128 and the number of the signal for another interruption: 130 by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP.
"""

from __future__ import annotations

import io
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from latf_sampling import __version__
from latf_sampling.cli import signals, tables
from latf_sampling.cli.failures import explain_failure
from latf_sampling.cli.progress import Bars
from latf_sampling.core.backends import check_environment
from latf_sampling.core.installation import installed
from latf_sampling.core.outputs import output_directory, output_file
from latf_sampling.core.words import plural
from latf_sampling.errors import SettingsError

if TYPE_CHECKING:
    from latf_sampling.records.records import Records

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Learn collective variables with Latent Thermodynamic Flows and drive OpenMM with them.",
)
_out, _err = Console(), Console(stderr=True)


def _say(text: str) -> None:
    """Print a line as it is: in names of files brackets and colons are no markup."""
    _out.print(Text(text), soft_wrap=True)


def _complain(text: str, style: str = "red") -> None:
    _err.print(Text(f"latf: {text}", style), soft_wrap=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"latf_sampling {__version__}\npython {platform.python_version()}")
        for name, version in installed().items():
            if version is not None:
                print(f"{name} {version}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the versions of this and other packages."
        ),
    ] = False,
) -> None:
    """Options of `latf` itself."""


Directory = Annotated[Path, typer.Argument(help="Directory of a campaign.")]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Run Python that came with the campaign and that you have not run before: own descriptors."
    ),
]
LastRound = Annotated[
    int | None,
    typer.Option("--round", help="Use the rounds up to this one; default: all whose simulation is finished."),
]


@app.command()
def init(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="The molecule: a structure (.pdb, .cif), or a topology of Amber, GROMACS or CHARMM with its "
            "coordinates and, for CHARMM, its parameters.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Protocol to write.")] = Path("protocol.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Propose a protocol for a molecule: a commented YAML file that runs, and how long it will take here."""
    from latf_sampling.campaign.proposal import propose
    from latf_sampling.cli.init import describe
    from latf_sampling.core.installation import check_installation

    check_installation()
    with Bars(_err) as bars:
        proposal = propose(files, output, force, progress=lambda fraction, words: bars("init", fraction, words))
    _say(describe(proposal, _out.width if _out.is_terminal else None))


@app.command()
def run(
    protocol: Annotated[Path, typer.Argument(help="Protocol, a YAML file.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Directory of the campaign.")] = None,
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke",
            help="Run everything that the protocol asks for in a minute, as little of it as possible, in a temporary "
            "folder that is removed: whether it works, without -o.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only print what would run: rounds, simulated time, frames, disk, and the time on this machine by ten "
            "seconds of dynamics.",
        ),
    ] = False,
    max_time: Annotated[
        str | None,
        typer.Option(
            help="Stop after this time on the clock, like '2 h', with exit code 75 if there is more to do; the same "
            "command continues."
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            help="Add rounds like the last one until the error of the free-energy difference is as small as this, "
            "like '0.2 kJ/mol'."
        ),
    ] = None,
    max_rounds: Annotated[int | None, typer.Option(help="Rounds at most with --until; default: 20.")] = None,
    settled: Annotated[
        bool,
        typer.Option(
            "--settled",
            help="With --until, also add rounds until the last one changes neither the free energy nor the states.",
        ),
    ] = False,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Not needed here: Python that the protocol names, such as own descriptors, runs, since you give the "
            "protocol. Other commands, which take a directory, ask for it.",
        ),
    ] = False,
) -> None:
    """Run a campaign, or continue it, also with a protocol that makes it longer or is learned from in another way."""
    from latf_sampling.data.layout import CampaignDirectory
    from latf_sampling.units import parse

    began = time.perf_counter()
    if dry_run:
        from latf_sampling.cli.plan import plan

        if smoke:
            raise SettingsError(
                "run: --dry-run simulates nothing, and --smoke a little of everything; give one of them."
            )
        _say(plan(protocol, output, _out.width if _out.is_terminal else None, timed=True))
        return
    if smoke:
        others = {"-o": output, "--max-time": max_time, "--until": until, "--max-rounds": max_rounds}
        _smoke(protocol, {**others, "--settled": settled or None})
        return
    if output is None:
        raise SettingsError("run: -o, the directory of the campaign, is missing.")
    settings = CampaignDirectory(output).load_protocol(
        protocol
    )  # its faults are told before anything that takes seconds is imported
    limit = signals.TimeLimit(None if max_time is None else signals.seconds(max_time, "--max-time"))
    if max_rounds is not None and until is None:
        raise SettingsError("run: --max-rounds goes with --until, which adds rounds.")
    if settled and until is None:
        raise SettingsError("run: --settled goes with --until, which adds rounds.")
    error = None if until is None else parse(until, "energy", "--until")
    output_directory(output)

    from latf_sampling.core.plugins import import_openmm

    import_openmm()

    from latf_sampling.campaign.campaign import Campaign
    from latf_sampling.campaign.extend import preview
    from latf_sampling.campaign.until import Until

    preview(CampaignDirectory(output), settings)  # before the system is built, which may take minutes
    goal = None if error is None else Until(error, 20 if max_rounds is None else max_rounds, settled)
    with limit, Bars(_err, output) as bars:
        campaign = Campaign(settings, output)
        for page in (campaign.directory.report, campaign.directory.evaluation):
            output_file(page)
        campaign.run(bars, until=goal)
    _say(f"Finished in {time.perf_counter() - began:.0f} s. Report: {campaign.directory.report}")
    if goal is not None and goal.reached > goal.error:
        _complain(f"after {plural(campaign.n_rounds, 'round')} {goal.words}.", "yellow")
        raise typer.Exit(1)


def _smoke(protocol: Path, others: Mapping[str, object]) -> None:
    """Make the campaign of a protocol small, and run it from end to end."""
    from latf_sampling.settings import Protocol

    if given := [name for name, value in others.items() if value is not None]:
        raise SettingsError(
            f"run: --smoke runs in a temporary folder, and {given[0]} has no meaning there; leave it out."
        )
    settings = Protocol.load(protocol)

    from latf_sampling.core.plugins import import_openmm

    import_openmm()

    from latf_sampling.campaign.smoke import smoke_test

    with Bars(_err) as bars:
        test = smoke_test(settings, bars)
    _say(test.summary(settings))


@app.command()
def check(
    protocol: Annotated[Path, typer.Argument(help="Protocol, a YAML file.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Directory of a campaign that would go on with it.")
    ] = None,
) -> None:
    """Check a protocol and its files in seconds, without writing anything, and print what would run."""
    from latf_sampling.cli.plan import plan

    _say(plan(protocol, output, _out.width if _out.is_terminal else None))


@app.command()
def status(
    directory: Directory,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Print it again whenever it changes, until the campaign is finished.")
    ] = False,
) -> None:
    """Show which steps of a campaign are done."""
    from latf_sampling.cli.inspection import print_status

    print_status(directory, _out, as_json, watch)


@app.command()
def verify(directory: Directory) -> None:
    """Read every file of a campaign, name what is damaged, and say what running it again would do about it."""
    from latf_sampling.records.verification import Verification

    with Bars(_err) as bars:
        verification = Verification.of(directory, lambda files: bars("verify", 0.0, f"{files:,} files"))
    for finding in verification.findings:
        _say(str(finding))
    _say(verification.summary)
    if verification.findings:
        raise typer.Exit(2)


@app.command()
def train(
    directory: Directory,
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory for model.pt and cv.pt.")],
    last_round: LastRound = None,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    trust: Trust = False,
) -> None:
    """Train a model on a campaign's frames with the settings of its protocol, and export its collective variable."""
    from latf_sampling.campaign.campaign import Campaign
    from latf_sampling.data.layout import LearningDirectory

    files = LearningDirectory(output_directory(output))
    targets = output_file(files.model), output_file(files.cv)
    campaign = Campaign.load(directory, trust)
    with Bars(_err) as bars:
        model, cv, _ = campaign.train(last_round, seed, progress=lambda fraction, words: bars("train", fraction, words))
    model.save(targets[0])
    cv.save(targets[1])
    _tell_unfinished(campaign.records, last_round)
    _say(f"{plural(model.n_states, 'state')}. Model and collective variable are in {output}.")


@app.command()
def evaluate(
    directory: Directory,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Page to write; default: evaluation.html in the directory.")
    ] = None,
    trust: Trust = False,
) -> None:
    """Evaluate a campaign's last model on held-out frames and references: a table, and a page with figures."""
    from latf_sampling.campaign.campaign import Campaign
    from latf_sampling.report import write_evaluation

    campaign = Campaign.load(directory, trust)
    page = _page(campaign.directory.evaluation, output)
    with Bars(_err) as bars:
        evaluation = campaign.evaluate(lambda fraction, words: bars("evaluate", fraction, words))
    write_evaluation(evaluation, page)
    tables.print_table(_out, evaluation.table())
    if evaluation.crossings is not None:
        _say(evaluation.crossings.sentence)
    _say(f"Figures: {page if output is None else output}")


@app.command()
def lags(
    directory: Directory,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Page to write; default: lags.html in the directory.")
    ] = None,
    last_round: LastRound = None,
    trust: Trust = False,
) -> None:
    """Choose a lag time: states, time scales and VAMP-2 scores at several lag times, and a recommendation."""
    from latf_sampling.learning.lag_scan import scan_lags
    from latf_sampling.records.records import Records
    from latf_sampling.report import write_lags

    records = Records.load(directory, trust)
    page = _page(records.directory.lags, output)
    with Bars(_err) as bars:
        scan = scan_lags(
            records.series(records.frames(last_round)), progress=lambda fraction, words: bars("lags", fraction, words)
        )
    write_lags(scan, page)
    _tell_unfinished(records, last_round)
    _say(f"{scan.table()}\n{scan.reason}\nFigures: {page if output is None else output}")


def _tell_unfinished(records: Records, last_round: int | None) -> None:
    """Say which rounds frames come from, where the protocol has more of them."""
    last = records.last_simulated() if last_round is None else last_round
    if last + 1 < records.n_rounds:
        _say(f"From the frames of round {last}{' and those before it' if last else ''} of {records.n_rounds} rounds.")


def _page(default: Path, output: Path | None) -> Path:
    """The page to write, which can be written."""
    return output_file(default) if output is None else output_file(output)


@app.command()
def features(
    source: Annotated[Path, typer.Argument(help="Directory of a campaign, or a protocol.")],
    trajectories: Annotated[
        list[Path] | None, typer.Argument(help="Trajectories of its system; default: the campaign's frames.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File to write, .npz, .npy or .csv; by default none is written."),
    ] = None,
    ranking: Annotated[
        bool,
        typer.Option(
            "--ranking",
            help="Also rank the descriptors by how much the last model's collective variable depends on each.",
        ),
    ] = False,
    trust: Trust = False,
) -> None:
    """Compute descriptors: write them, print their statistics, and name constant and duplicate columns."""
    from latf_sampling.learning.sensitivity import rank_descriptors
    from latf_sampling.records.feature_table import Source, feature_file, write_features
    from latf_sampling.records.records import Records
    from latf_sampling.records.setup import Setup
    from latf_sampling.settings import Protocol

    if output is not None:
        feature_file(output)
    records = Records.load(source, trust) if source.is_dir() else None
    if ranking and records is None:
        raise SettingsError("features: --ranking needs a model; give the directory of a campaign.")
    learned = records.last_learned() if ranking and records is not None else None
    setup = Setup(Protocol.load(source)) if records is None else records
    if trajectories:
        sources = Source.from_files(setup, trajectories)
    else:
        sources = Source.from_protocol(setup) if records is None else Source.from_records(records)
    with Bars(_err) as bars:
        statistics = write_features(
            setup.features, sources, output, lambda fraction, words: bars("features", fraction, words)
        )
    if records is not None and not trajectories:
        _tell_unfinished(records, None)
    _say("\n".join([statistics.table(), *statistics.remarks(most=1000)]))
    if learned is not None and records is not None:
        model, cv = records.model(learned)
        _say(f"\n{rank_descriptors(model, records.dataset(learned, records.features_of(cv))).table()}")
    if output is not None:
        _say(f"Written to {output}.")


@app.command()
def weights(
    directory: Directory,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write, .csv, .npz or .npy.")],
    temperature: Annotated[
        str | None,
        typer.Option(help="Temperature of the ensemble, like '350 K'; default: that of the report's estimate."),
    ] = None,
    by: Annotated[
        str,
        typer.Option(
            help="Weighting: mbar, which joins all rounds and temperatures; c(t) or last-bias, of biased walkers at "
            "this temperature."
        ),
    ] = "mbar",
    trust: Trust = False,
) -> None:
    """Write the weight of every frame at a temperature, with its round, walker, time, variable and state."""
    from latf_sampling.records.records import Records
    from latf_sampling.records.weight_table import WeightTable, weight_file
    from latf_sampling.units import parse

    kelvin = None if temperature is None else parse(temperature, "temperature", "--temperature")
    weight_file(output)
    records = Records.load(directory, trust)
    if kelvin is None:
        from latf_sampling.report.estimates import target_temperature

        kelvin = target_temperature(records)
    with Bars(_err) as bars:
        table = WeightTable.from_records(records, kelvin, by, lambda fraction, words: bars("weights", fraction, words))
        table.write(output)
        bars("weights", 1.0, plural(len(table), "frame"))
    _tell_unfinished(records, None)
    _say(f"{table.summary}\nWritten to {output}.")


@app.command()
def export(
    directory: Directory,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="CV file to write.")] = None,
    plumed: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the variable as input of PLUMED, without libtorch, with hills or OPES state of the "
            "round after it."
        ),
    ] = None,
    round_index: Annotated[
        int | None, typer.Option("--round", help="Take the model learned after this round; default: the last.")
    ] = None,
    trust: Trust = False,
) -> None:
    """Export the collective variable of a trained model as one TorchScript file, or as input of PLUMED."""
    from latf_sampling.records.records import Records

    if output is None and plumed is None:
        raise SettingsError("export: give -o, a CV file to write, or --plumed, a folder.")
    target = None if output is None else output_file(output)
    folder = None if plumed is None else output_directory(plumed)
    records = Records.load(directory, trust)
    index = records.last_learned() if round_index is None else round_index
    _, cv = records.model(index)
    if folder is not None:
        from latf_sampling.records.plumed import write_plumed

        _say(write_plumed(records, index, folder))
    if target is None:
        return
    cv.save(target)
    components, atoms = plural(cv.dim, "component"), plural(len(cv.atoms), "atom")
    _say(f"{output}: {components} from {plural(len(cv.metadata['names']), 'descriptor')} of {atoms}.")


@app.command()
def starts(
    directory: Annotated[Path, typer.Argument(help="Directory of a campaign, or a model.pt in it.")],
    temperature: Annotated[str, typer.Option(help="Temperature with its unit, like '450 K'.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Directory for the structures; the same command continues there.")
    ],
    count: Annotated[int | None, typer.Option("-n", help="Number of structures.")] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(help="Instead of samples: values of the collective variable, like '0.3, -1.2'; can be repeated."),
    ] = None,
    between: Annotated[
        tuple[str, str] | None,
        typer.Option(
            help="A path of -n structures between two ends, each 'state 0' or values of the collective variable."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the targets and of the dynamics.")] = 0,
    processes: Annotated[
        int | None,
        typer.Option(
            help="Number of structures made at once; default: one per core. The structures do not depend on it."
        ),
    ] = None,
    thermalise: Annotated[
        str | None, typer.Option(help="Time of the dynamics restrained to the target, like '4 ps'.")
    ] = None,
    release: Annotated[
        str | None,
        typer.Option(help="Time without restraint after that; default: 0.1 ps, and '0 ps' for --at and --between."),
    ] = None,
    allow_cis: Annotated[bool, typer.Option("--allow-cis", help="Peptide bonds may go between cis and trans.")] = False,
    allow_inversion: Annotated[
        bool, typer.Option("--allow-inversion", help="Stereocenters may change their handedness.")
    ] = False,
    cif: Annotated[bool, typer.Option("--cif", help="Write PDBx/mmCIF even where PDB can hold the system.")] = False,
    trust: Trust = False,
) -> None:
    """Generate structures at a temperature, simulated or not, from the last model of a campaign."""
    from latf_sampling.cli.starting import StartsCommand

    times = {"thermalise": thermalise, "release": release}
    command = StartsCommand(temperature, output, count, at or [], between, seed)
    options = command.options(processes, cif, times, {"allow_cis": allow_cis, "allow_inversion": allow_inversion})
    output_directory(output)
    with Bars(_err) as bars:
        structures = command.run(directory, trust, options, lambda f, words: bars("starts", f, words))
    _say(structures.summary())
    if len(structures) < structures.requested:
        raise typer.Exit(1)


@app.command()
def report(
    directories: Annotated[list[Path], typer.Argument(help="Directory of a campaign; of two or more with --compare.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Page to write; default: report.html in the directory, or comparison.html here with --compare.",
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Put campaigns side by side: answers, weights, crossings, states and cost."),
    ] = False,
    trust: Trust = False,
) -> None:
    """Write a campaign's report from its current files, or compare campaigns."""
    from latf_sampling.cli.plotting import report_command

    _say(report_command(directories, output, compare, trust))


@app.command()
def plot(
    what: Annotated[str, typer.Argument(help="Picture, like landscape or melting; any other word lists them.")],
    directory: Directory,
    output: Annotated[Path, typer.Option("-o", "--output", help="Figure to write: .pdf, .svg or .png.")],
    table: Annotated[
        bool, typer.Option("--csv", help="Also write the numbers of the figure beside it, as .csv.")
    ] = False,
    trust: Trust = False,
) -> None:
    """Draw one of the report's pictures, for a paper or a talk."""
    from latf_sampling.cli.plotting import plot_command

    _say(plot_command(what, directory, output, table, trust))


@app.command()
def schema() -> None:
    """Print the JSON schema of protocols, with which an editor completes and checks one."""
    from latf_sampling.settings.schema import protocol_schema

    print(json.dumps(protocol_schema(), indent=1))


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check the installation: versions, platforms and bias backends; each fault with the command that fixes it."""
    from latf_sampling.cli.doctor import examine, render

    result = examine()
    if as_json:
        print(json.dumps(result.as_dict(), indent=1))
    else:
        render(result, _out)
    raise typer.Exit(0 if result.healthy else 1)


def _warnings_once() -> Callable[..., None]:
    """Shows each warning once, however often the command comes by it."""
    shown: set[str] = set()

    def show(message: Warning | str, *_: object) -> None:
        if (sentence := str(message)) not in shown:
            shown.add(sentence)
            _complain(sentence, "yellow")

    return show


def main() -> NoReturn:
    """Run the command line: whatever goes wrong becomes one sentence and an exit code, see the top of this file."""
    _use_utf8()
    warnings.showwarning = _warnings_once()
    with signals.as_exceptions() as caught:
        try:
            code = _run()
        except signals.Interrupted as interruption:
            code = _interrupted(interruption)
        except Exception as error:
            # A signal that arrived in a function called from C is lost there, and may appear as another error.
            code = _failed(error) if caught.received is None else _interrupted(caught.received)
    sys.exit(code)


def _run() -> int:
    """Run the command; returns its exit code."""
    check_environment()
    try:
        app(standalone_mode=True)
    except SystemExit as ended:
        if sys.stdout is not None:  # closed, as by >&-
            sys.stdout.flush()
        if ended.code == 130:  # typer's exit code for Ctrl-C, where no signal was raised
            _complain(f"interrupted{_kept()}.")
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _interrupted(interruption: signals.Interrupted) -> int:
    with suppress(OSError):  # the terminal may be closed
        _err.show_cursor()  # also where the signal came between hiding it and the bars
        _complain(f"{interruption.words}{_kept()}.")
    return interruption.exit_code


def _kept() -> str:
    """What the same command would do after an interruption, of those that go on where they were."""
    goes_on = sys.argv[1:2] in (["run"], ["starts"]) and "--smoke" not in sys.argv
    return "; what is finished is kept, and the same command continues" if goes_on else ""


def _failed(error: Exception) -> int:
    """Say in one sentence what went wrong; returns the exit code."""
    sentence, code = explain_failure(error, _err)
    if sentence:
        _complain(sentence)
    return code


def _use_utf8() -> None:
    """Read and write UTF-8 whatever the locale is, and print what the terminal cannot show as an escape sequence.

    In a locale that knows ASCII alone (C, POSIX), Python cannot even name a file "é", and libraries that read text in
    the encoding of the locale fail: there the command is run anew in Python's UTF-8 mode.
    """
    if sys.getfilesystemencoding() == "ascii":
        environment = {**os.environ, "PYTHONUTF8": "1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
