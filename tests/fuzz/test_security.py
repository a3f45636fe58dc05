"""Files from somebody else: none of them runs a program, or leads to a file elsewhere."""

from __future__ import annotations

import gzip
import importlib.util
import json
import pickle
import py_compile
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from py_compile import PycInvalidationMode

import openmm
import pytest
from helpers.molecules import STRUCTURE, TINY, write_protocol
from openmm import app
from typer.testing import CliRunner

from latf_sampling.campaign.campaign import Campaign
from latf_sampling.cli.main import app as cli
from latf_sampling.core.manifest import Manifest
from latf_sampling.core.openmm_xml import FORCES, FUNCTIONS, INTEGRATORS, deserialize, read_openmm_xml
from latf_sampling.core.storage import checksum
from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.errors import DataError, LatfError, SettingsError, StoreError
from latf_sampling.records.programs import trust_programs
from latf_sampling.records.records import Records
from latf_sampling.settings import Protocol, SystemSettings
from latf_sampling.systems import Molecule, build

PACKAGE = Path(__file__).resolve().parents[2] / "latf_sampling"

# ------------------------------------------------------------------------------------------------- OpenMM's XML files


class Touch:
    """An object that makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def python_force(file: Path) -> str:
    """A serialized PythonForce that makes a file when OpenMM reads it."""
    function = pickle.dumps(Touch(file)).hex()
    return (
        f'<Force forceGroup="0" function="{function}" name="x" type="PythonForce" usesPeriodic="0" version="1">'
        "<GlobalParameters/></Force>"
    )


def nested(force: str) -> str:
    """A CustomCVForce that holds a force."""
    return (
        '<Force energy="a" forceGroup="0" name="b" type="CustomCVForce" version="0"><GlobalParameters/>'
        "<EnergyParameterDerivatives/><CollectiveVariables>"
        f'<CollectiveVariable name="a">{force}</CollectiveVariable></CollectiveVariables><Functions/></Force>'
    )


def hidden(force: str, begin: str, end: str) -> str:
    return f"{begin} > {force} {end}"


ALANINE = app.PDBFile(str(STRUCTURE))
SYSTEM = openmm.XmlSerializer.serialize(
    app.ForceField("amber14/protein.ff14SB.xml").createSystem(ALANINE.topology, constraints=app.HBonds)
)


def with_force(force: str) -> str:
    return SYSTEM.replace("</Forces>", f"{force}</Forces>")


EXPLOITS = {
    "a force": lambda force: with_force(force),
    "inside a CustomCVForce": lambda force: with_force(nested(force)),
    "in a comment that ends early for OpenMM": lambda force: with_force(hidden(force, "<!--", "-->")),
    "in a processing instruction": lambda force: with_force(hidden(force, "<?x", "?>")),
    "in place of the System": lambda force: force,
    "under another name": lambda force: with_force(force.replace("<Force", "<F").replace("</Force", "</F")),
}  # fmt: skip
"""Where a PythonForce may stand in an XML file."""


@pytest.fixture(scope="module")
def exploits(tmp_path_factory) -> dict[str, tuple[Path, Path]]:
    """The XML file of each exploit, and the file that it makes."""
    folder = tmp_path_factory.mktemp("exploits")
    files = {}
    for number, (case, make) in enumerate(EXPLOITS.items()):
        xml, made = folder / f"{number}.xml", folder / f"made-{number}"
        xml.write_text(make(python_force(made)))
        files[case] = xml, made
    return files


@pytest.mark.skipif(not hasattr(openmm, "PythonForce"), reason="OpenMM before 8.5 has no PythonForce")
def test_openmm_itself_would_run_the_code(exploits):
    """One process reads all files with OpenMM alone, in which the code runs: those of the next test are no blanks."""
    program = "import sys, openmm\nfor file in sys.argv[1:]:\n    try: openmm.XmlSerializer.deserialize(open(file).read())\n    except Exception: pass"  # noqa: E501
    probed = {case: (xml, made) for case, (xml, made) in exploits.items() if case != "under another name"}
    subprocess.run([sys.executable, "-c", program, *(str(xml) for xml, _ in probed.values())], check=False, timeout=60)
    for case, (_, made) in probed.items():
        assert made.exists(), case
        made.unlink()


@pytest.mark.parametrize("case", EXPLOITS)
def test_serialized_python_is_refused_before_it_runs(exploits, tmp_path, case):
    """At every entry point: the System of a protocol, that of a received campaign, the State of a segment."""
    xml, made = exploits[case]
    with pytest.raises(SettingsError, match=r"^system\.openmm\.system: .*\.xml.* (PythonForce|which OpenMM does not)"):
        build(SystemSettings(openmm={"system": xml, "topology": STRUCTURE}))
    with pytest.raises(DataError, match=re.escape(str(xml))):
        read_openmm_xml(xml, openmm.State)
    received(tmp_path, xml.read_text())
    with pytest.raises(LatfError, match=r"system\.xml"):
        Molecule.load(tmp_path)
    assert not made.exists()


def received(folder: Path, xml: str) -> None:
    """The molecule of a campaign with another System, whose digests its sender has mended."""
    build(SystemSettings(name="alanine-dipeptide")).save(folder, "somebody")
    (folder / "system.xml").write_text(xml)
    manifest = Manifest.load(folder / "molecule.json")
    Manifest.write(manifest.path, manifest.content, [folder / name for name in manifest.files])


BOMB = '<!DOCTYPE a [<!ENTITY b "{0}"><!ENTITY c "{1}"><!ENTITY d "{2}">]><System type="System">&d;</System>'
WRONG = {
    "a force of a plugin": (with_force('<Force type="TorchForce" file="x.pt"/>'), "holds a TorchForce, which is a"),
    "an unknown force": (with_force('<Force type="Other"/>'), "holds a Other, which is none of OpenMM's own classes"),
    "entities": (BOMB.format("x" * 99, "&b;" * 99, "&c;" * 99), "holds a document type declaration"),
    "an external entity": (
        '<!DOCTYPE a [<!ENTITY b SYSTEM "/etc/passwd">]><System type="System">&b;</System>',
        "holds a document type declaration",
    ),
    "an integrator": (openmm.XmlSerializer.serialize(openmm.VerletIntegrator(0.001)), "VerletIntegrator, not a System"),
    "another XML": ("<html><body/></html>", r"cannot be read \(it begins with <html>"),
    "half": (SYSTEM[: len(SYSTEM) // 2], "cannot be read .*damaged"),
    "nothing": ("", "cannot be read"),
    "no XML": ('{"a": 1}', "cannot be read"),
    "a mass that is no number": (re.sub(r' mass="[^"]*"', ' mass="nan"', SYSTEM, count=1), "mass of Particle is 'nan'"),
    "an infinite length": (re.sub(r' d="[^"]*"', ' d="inf"', SYSTEM, count=1), "line 33: d of Constraint is 'inf'"),
    "words for a number": (re.sub(r' mass="[^"]*"', ' mass="heavy"', SYSTEM, count=1), "mass of Particle is 'heavy'"),
    "a missing number": (re.sub(r' mass="[^"]*"', "", SYSTEM, count=1), "cannot be read"),
    "a later version": (SYSTEM.replace('type="System" version="', 'type="System" version="99'), "cannot be read"),
    "far too deep": ("<System type='System'>" + "<a>" * 5000 + "</a>" * 5000 + "</System>", "nests more than"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_system_is_refused(case):
    text, words = WRONG[case]
    with pytest.raises(DataError, match=words) as refused:
        deserialize(text, openmm.System, "a.xml")
    assert str(refused.value).startswith("a.xml")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [(gzip.compress(SYSTEM.encode()), "gzip"), (SYSTEM.encode("utf-16"), "no XML"), (b"\x89PNG\r\n", "no XML")],
    ids=["gzip", "UTF-16", "PNG"],
)
def test_files_that_are_no_text_are_refused(tmp_path, content, words):
    (tmp_path / "a.xml").write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_openmm_xml(tmp_path / "a.xml", openmm.System)
    with pytest.raises(DataError, match="No such file"):
        read_openmm_xml(tmp_path / "b.xml", openmm.System)


def test_everything_that_openmm_writes_is_read():
    def classes(base: type) -> set[str]:
        return {name for name, kind in vars(openmm).items() if isinstance(kind, type) and kind.__base__ is base}

    # a new class of OpenMM fails here: it has to be looked at before it counts as data
    assert classes(openmm.Force) - FORCES <= {"PythonForce"}
    assert classes(openmm.Integrator) - INTEGRATORS <= {"DrudeIntegrator"}  # the abstract base of others
    assert classes(openmm.TabulatedFunction) <= FUNCTIONS
    system = deserialize(SYSTEM, openmm.System, "a.xml")
    assert openmm.XmlSerializer.serialize(system) == SYSTEM
    integrator = openmm.CustomIntegrator(0.001)
    integrator.addComputePerDof("x", "x+dt*v")
    context = openmm.Context(system, integrator, openmm.Platform.getPlatform("Reference"))
    context.setPositions(ALANINE.positions)
    state = openmm.XmlSerializer.serialize(context.getState(positions=True, velocities=True, parameters=True))
    assert openmm.XmlSerializer.serialize(deserialize(state, openmm.State, "a.xml")) == state
    written = openmm.XmlSerializer.serialize(integrator)
    assert openmm.XmlSerializer.serialize(deserialize(written, openmm.Integrator, "a.xml")) == written


# ---------------------------------------------------------------------------------- programs of a received campaign

DESCRIPTOR = """
from pathlib import Path
import torch
(Path(__file__).parent / "ran").touch()
class Mine(torch.nn.Module):
    def __init__(self, topology, last: int = 5):
        super().__init__()
        self.atoms, self.names, self.units = [4, last], ["mine"], ["nm"]
    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        return torch.linalg.vector_norm(positions[..., 1, :] - positions[..., 0, :], dim=-1, keepdim=True)
"""
CUSTOM = {"custom": {"file": "mine.py", "class": "Mine"}}
OBSERVED = {"descriptor": CUSTOM, "above": "0.3 nm"}
FORCE_FIELD = ["amber14/protein.ff14SB.xml", "own.xml"]
SCRIPT = "<ForceField><InitializationScript>open('{made}', 'w').close()</InitializationScript></ForceField>"
EXPRESSION = """<ForceField><NonbondedForce coulomb14scale="0.8" lj14scale="0.5"
    useDispersionCorrection="open('{made}', 'w')"/></ForceField>"""
PROGRAMS = {
    "descriptor": ({"features": [CUSTOM]}, r"features\[0\]\.custom"),
    "observed descriptor": ({"observe": OBSERVED}, r"observe\.descriptor\.custom"),
    "script of a force field": (
        {"system": {**TINY["system"], "force_field": FORCE_FIELD}},
        r"system\.force_field\[1\]",
    ),
    "expression of a force field": ({"system": {**TINY["system"], "force_field": FORCE_FIELD}}, r"system\.force_field"),
}
"""Programs that a protocol may bring along, and their keys."""


@pytest.fixture
def campaign(tmp_path, monkeypatch):
    """Makes a campaign's directory of somebody else, with a program; gives it, and the file that the program makes."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def make(case: str) -> tuple[Path, Path]:
        sender, run = tmp_path / "sender", tmp_path / "run"
        made = run / "inputs" / "ran"
        sender.mkdir()
        (sender / "mine.py").write_text(DESCRIPTOR)
        (sender / "own.xml").write_text((EXPRESSION if "expression" in case else SCRIPT).format(made=made))
        protocol = Protocol.load(write_protocol(sender, **PROGRAMS[case][0]))
        with CampaignDirectory(run).acquire(protocol):
            if "force field" not in case:
                build(protocol.system).save(run / "system", protocol.made_from())
        return run, made

    return make


def use(records: Records) -> None:
    """Build everything that a program may take part in."""
    _ = records.molecule, records.features, records.observed


@pytest.mark.parametrize("case", PROGRAMS)
def test_programs_of_a_received_campaign_run_only_with_consent(campaign, case):
    run, made = campaign(case)
    words = rf"^{PROGRAMS[case][1]}.*: .* is a program that you have not run before, .*--trust"
    for load in (Records.load, lambda path: Campaign.load(path).records):
        with pytest.raises(StoreError, match=words) as refused:
            use(load(run))
        assert "\n" not in str(refused.value)
    assert not made.exists()
    with suppress(SettingsError):  # OpenMM refuses the rest of such a force field
        use(Records.load(run, trust=True))
    assert made.exists()  # so that the refusals above are no blanks
    made.unlink()
    with pytest.raises(StoreError, match=words):  # a flag is for one command
        use(Records.load(run))
    assert not made.exists()


def test_one_has_consented_to_what_one_has_run(campaign):
    """On the same protocol in another directory, by its content: not in that of a changed program or argument."""
    run, made = campaign("descriptor")
    trust_programs(Protocol.load(run.parent / "sender" / "protocol.yaml"))
    shutil.copytree(run, run.parent / "moved")
    use(Records.load(run.parent / "moved"))
    use(Records.load(run))
    made.unlink()
    manifest = Manifest.load(run / "protocol.json")
    files = [run / name for name in manifest.files]
    (run / "inputs" / "mine.py").write_text(DESCRIPTOR + "\n")
    with pytest.raises(StoreError, match=r"mine\.py: was changed"):
        use(Records.load(run, trust=True))
    content = json.loads(json.dumps(manifest.content))
    content["features"][0]["custom"]["file"]["sha256"] = checksum(run / "inputs" / "mine.py")
    Manifest.write(run / "protocol.json", content, files)
    with pytest.raises(StoreError, match="is a program that you have not run before"):
        use(Records.load(run))
    (run / "inputs" / "mine.py").write_text(DESCRIPTOR)
    content = json.loads(json.dumps(manifest.content))
    content["features"][0]["custom"]["settings"] = {"last": 6}
    Manifest.write(run / "protocol.json", content, files)
    with pytest.raises(StoreError, match="is a program that you have not run before"):
        use(Records.load(run))
    assert not made.exists()


def test_bytecode_beside_a_program_is_not_run_in_its_place(campaign, tmp_path):
    run, made = campaign("descriptor")
    trust_programs(Protocol.load(run.parent / "sender" / "protocol.yaml"))
    program, other = run / "inputs" / "mine.py", tmp_path / "other.py"
    other.write_text(DESCRIPTOR.replace('"ran"', '"other"'))
    bytecode = importlib.util.cache_from_source(str(program))
    py_compile.compile(str(other), bytecode, str(program), invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
    spec = importlib.util.spec_from_file_location("mine", program)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert (program.parent / "other").exists()  # Python's own loader does run it
    (program.parent / "other").unlink()
    use(Records.load(run))
    assert made.exists()
    assert not (program.parent / "other").exists()


def test_the_command_line_asks_for_consent(campaign):
    run, made = campaign("descriptor")
    runner = CliRunner()
    command = ["features", str(run), str(STRUCTURE)]
    result = runner.invoke(cli, command)
    assert isinstance(result.exception, StoreError)
    assert "--trust" in str(result.exception)
    for name in ("lags", "report", "starts", "evaluate", "train", "export"):
        assert "--trust" in runner.invoke(cli, [name, "--help"], env={"COLUMNS": "200"}).output, name
    assert runner.invoke(cli, ["status", str(run)]).exit_code == 0
    assert not made.exists()
    assert runner.invoke(cli, [*command, "--trust"]).exit_code == 0
    assert made.exists()


def test_consent_that_cannot_be_remembered_is_said(campaign, monkeypatch):
    run, _ = campaign("descriptor")
    (run / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(run / "file"))
    with pytest.warns(UserWarning, match="cannot be written .*commands that read it later need --trust"):
        trust_programs(Records.load(run).protocol)
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError))
    with pytest.warns(UserWarning, match="no home directory"):
        trust_programs(Records.load(run).protocol)


@pytest.mark.parametrize("name", ["../../../../etc/passwd", "/etc/passwd", "..", "a/../../b.pdb", "../protocol.json"])
@pytest.mark.parametrize("key", ["structure", "force field", "descriptor"])
def test_a_received_protocol_leads_nowhere_else(campaign, name, key):
    run, _ = campaign("descriptor")
    manifest = Manifest.load(run / "protocol.json")
    if key == "structure":
        manifest.content["system"]["structure"]["name"] = name
    elif key == "force field":
        manifest.content["system"]["force_field"] = [{"name": name, "sha256": "0" * 64}]
    else:
        manifest.content["features"][0]["custom"]["file"]["name"] = name
    Manifest.write(manifest.path, manifest.content, [run / file for file in manifest.files])
    with pytest.raises(LatfError) as refused:
        use(Records.load(run, trust=True))
    assert "root:" not in str(refused.value)
    assert re.search(r"structure|force_field|features", str(refused.value))


def test_no_other_module_reads_xml_or_pickles():
    """`core.tasks` and `core.backends` read what the driver of the same run has serialized."""
    calls = r"XmlSerializer\.deserialize|\.loadState\(|pickle\.loads?\(|yaml\.(unsafe_|full_)?load\(|allow_pickle=True|weights_only=False"  # noqa: E501
    found = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        if re.search(calls, re.sub(r'"""[\s\S]*?"""', "", file.read_text()))
    }
    assert found <= {"core/openmm_xml.py", "core/tasks.py", "core/backends.py"}
