"""A folder imports only folders before it, no two files import each other, public names stay, one file writes."""

import ast
import functools
import graphlib
import inspect
import pydoc
import subprocess
import sys
import types
from pathlib import Path

import pytest

import latf_sampling

PACKAGE = Path(latf_sampling.__file__).parent
LINE = [  # a folder, or a file beside the folders, imports only what stands before it; see docs/architecture.md
    *("errors", "units", "core", "settings", "features", "testing", "systems", "analysis", "data", "learning", "cv"),
    *("bias", "simulation", "starts", "records", "report", "campaign", "cli"),
]

PUBLIC = {
    "KB",
    "OPES",
    "CVError",
    "Campaign",
    "DataError",
    "Dataset",
    "Features",
    "FlowBias",
    "InstallationError",
    "LaTF",
    "LatentCV",
    "LatfError",
    "Metadynamics",
    "ModelSettings",
    "Protocol",
    "Series",
    "SettingsError",
    "SimulationError",
    "SingleStateError",
    "StoreError",
    "TrainingError",
    "TrainingSettings",
    "TrustRegion",
    "Umbrella",
    "UmbrellaWindows",
    "evaluate",
    "even_path",
    "expected_crossings",
    "free_energy_path",
    "generate_starts",
    "rank_descriptors",
    "rank_models",
    "respa_integrator",
    "scan_lags",
    "select_columns",
    "step_together",
    "structures_at",
    "structures_between",
    "train",
}

SIGNATURES = {  # the contract with scripts: these parameters, in this order, by these names; more may follow
    "Features": ["topology", "spec"],
    "Features.__call__": ["self", "positions", "box"],
    "Features.transform": ["self", "traj"],
    "Series": ["x", "temperature", "weights", "labels", "energies", "interval"],
    "Dataset": ["series", "lag", "boltzmann"],
    "LaTF.encode": ["self", "x"],
    "LaTF.assign": ["self", "x"],
    "LaTF.sample": ["self", "n", "temperature"],
    "LaTF.log_prob": ["self", "u", "temperature"],
    "LaTF.free_energy": ["self", "u", "temperature"],
    "LaTF.populations": ["self", "temperature", "return_std"],
    "LaTF.effective_sample_size": ["self", "temperature"],
    "LaTF.extrapolates": ["self", "temperature"],
    "LaTF.save": ["self", "path"],
    "LaTF.load": ["path"],
    "train": ["model", "dataset", "seed"],
    "LatentCV.from_model": ["model", "features"],
    "LatentCV.save": ["self", "path"],
    "LatentCV.load": ["path"],
    "LatentCV.__call__": ["self", "positions", "box"],
    "LatentCV.bias_variables": ["self"],
    "Metadynamics": ["system", "cv", "temperature", "bias_factor", "height", "frequency"],
    "Metadynamics.step": ["self", "simulation"],
    "Metadynamics.values": ["self", "context"],
    "Metadynamics.free_energy": ["self"],
    "Metadynamics.weights": ["self"],
    "Umbrella": ["system", "cv", "centers", "stiffness"],
    "Umbrella.move_to": ["self", "context", "centers"],
    "Umbrella.step": ["self", "simulation"],
    "Umbrella.values": ["self", "context"],
    "FlowBias": ["system", "cv", "model", "temperature", "bias_factor"],
    "FlowBias.step": ["self", "simulation"],
    "FlowBias.values": ["self", "context"],
    "FlowBias.free_energy": ["self"],
    "FlowBias.weights": ["self"],
    "generate_starts": ["model", "cv", "archive", "system", "topology", "temperature", "n"],
    "Campaign": ["protocol", "directory"],
    "Campaign.run": ["self"],
}
DEFAULTS = {
    "Series": {"temperature": 300.0, "weights": None, "labels": None, "energies": None, "interval": None},
    "Dataset": {"boltzmann": latf_sampling.KB},
    "LaTF.populations": {"temperature": None, "return_std": False},
    "train": {"seed": 0},
    "Features.__call__": {"box": None},
    "LatentCV.__call__": {"box": None},
}


def modules() -> dict[str, Path]:
    """Every module below the package by its dotted name, a folder's `__init__` by that of the folder."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


MODULES = modules()


def imports(path: Path) -> list[tuple[str, int]]:
    """(module of this package, line) of each import in a file, those in functions and for type checkers included."""
    targets = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            targets += [(alias.name, node.lineno) for alias in node.names]
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            ("import_module", "__import__", "resolve_name")
        ):
            targets += [(a.value, node.lineno) for a in node.args if isinstance(a, ast.Constant)]
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                if (node.module, alias.name) == ("latf_sampling", "__version__"):
                    continue
                submodule = f"{node.module}.{alias.name}"
                targets.append((submodule if submodule in MODULES else node.module, node.lineno))
    return [(target, line) for target, line in targets if target.split(".")[0] == "latf_sampling"]


def place(module: str) -> int:
    """Where the folder of a module stands in the line."""
    return LINE.index(module.split(".")[1])


def test_the_line_names_every_folder():
    assert {module.split(".")[1] for module in MODULES if "." in module} == set(LINE)


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"latf_sampling"}))
def test_a_folder_imports_only_folders_before_it(module):
    for target, line in imports(MODULES[module]):
        where = f"{MODULES[module]}:{line}"
        assert target != "latf_sampling", f"{where}: imports the package itself, and so everything"
        same = target.split(".")[1] == module.split(".")[1]
        assert same or place(target) < place(module), f"{where}: imports {target}, which stands after it"


def test_no_two_files_import_each_other():
    graph = {module: {target for target, _ in imports(path)} for module, path in MODULES.items()}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_the_check_finds_imports_wherever_they_stand(tmp_path):
    module = tmp_path / "flow.py"
    module.write_text(
        "import numpy\nfrom latf_sampling.learning import training\n"
        "def f():\n    from latf_sampling.cv.force import x\n"
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from latf_sampling.cli.main import app\n"
        "from latf_sampling import KB\nimport latf_sampling.learning.model\n"
        "importlib.import_module('latf_sampling.bias.grid')\n"
    )
    assert sorted(imports(module), key=lambda entry: entry[1]) == [
        ("latf_sampling.learning.training", 2),
        ("latf_sampling.cv.force", 4),
        ("latf_sampling.cli.main", 7),
        ("latf_sampling", 8),
        ("latf_sampling.learning.model", 9),
        ("latf_sampling.bias.grid", 10),
    ]


# ------------------------------------------------------------------------------------------------ public names


def test_public_names():
    assert set(latf_sampling.__all__) == PUBLIC
    assert len(latf_sampling.__all__) == len(PUBLIC)
    assert set(dir(latf_sampling)) >= PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_each_public_name_is_there_and_documented(name):
    value = getattr(latf_sampling, name)
    if name == "KB":
        assert value == pytest.approx(8.314462618e-3)
    else:
        assert value.__name__ == name
        assert value.__module__.startswith("latf_sampling.")
        assert inspect.getdoc(value)


def test_other_names_are_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = latf_sampling.Nonsense


@pytest.mark.parametrize("call", SIGNATURES)
def test_parameters_that_scripts_rely_on(call):
    name, *method = call.split(".")
    function = getattr(latf_sampling, name)
    for part in method:
        function = getattr(function, part)
    parameters = inspect.signature(function).parameters
    wanted = SIGNATURES[call]
    assert list(parameters)[: len(wanted)] == wanted
    for parameter in parameters.values():
        optional = parameter.default is not parameter.empty or parameter.kind in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        )
        assert parameter.name in wanted or optional or call.endswith((".step", ".weights")), parameter
    for parameter, default in DEFAULTS.get(call, {}).items():
        assert parameters[parameter].default == default


def _public_members(value: type) -> dict[str, type]:
    """Methods and properties of a class that help shows, each with the class of this package that defines it."""
    members = {
        name: next(base for base in value.__mro__ if name in vars(base)) for name in dir(value) if name[0] != "_"
    }
    return {
        name: base
        for name, base in members.items()
        if base.__module__.startswith("latf_sampling.")
        and isinstance(vars(base)[name], property | functools.cached_property | classmethod | types.FunctionType)
    }


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_each_method_of_a_public_class_is_documented_there_and_in_the_reference(name, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "docs" / "_ext"))
    import reference  # pyright: ignore[reportMissingImports]

    monkeypatch.delitem(sys.modules, "reference")
    listed = {entry.split(".")[-1] for entries in reference.NAMES.values() for entry in entries}
    value = getattr(latf_sampling, name)
    for member, base in _public_members(value).items() if isinstance(value, type) else ():
        assert inspect.getdoc(getattr(value, member, None)), member
        assert base.__name__ in listed, f"{member} of {base.__name__}"


@pytest.mark.parametrize(
    ("name", "own"), [("Metadynamics", {"hills"}), ("OPES", {"kernels", "epsilon", "effective_sample_size"})]
)
def test_adaptive_biases_show_what_scripts_call(name, own):
    """What a kind of bias has to define is of no use in a script, and would hide what is."""
    assert set(_public_members(getattr(latf_sampling, name))) == {
        *("step", "prepare", "update", "save", "saved", "close", "rewind"),
        *("values", "energy", "applied_bias", "past_energy", "shared_time", "on_grid", "own_kernels", "all_kernels"),
        *("offset", "weights", "free_energy", "free_energy_history"),
        *("force", "group", "backend", "backend_reason", "hill_width", "low", "high"),
        *own,
    }


@pytest.mark.parametrize("name", ["ModelSettings", "TrainingSettings", "Protocol"])
def test_help_of_settings_shows_nothing_of_pydantic(name):
    text = pydoc.render_doc(getattr(latf_sampling, name), renderer=pydoc.plaintext)
    assert "Attributes" in text
    assert "inherited from pydantic" not in text and "model_validate" not in text and "model_fields" not in text


# ---------------------------------------------------------------------------------------------- what an import costs


@pytest.mark.parametrize("module", ["latf_sampling", "latf_sampling.errors, latf_sampling.core.installation"])
def test_importing_the_package_loads_neither_torch_nor_openmm(module):
    # `latf doctor` has to start where either crashes when it is loaded.
    code = f"import sys\nimport {module}\nprint([n for n in ('torch', 'openmm', 'mdtraj', 'zuko') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


# ------------------------------------------------------------------------------------------------ writing

WRITERS = {"write_text", "write_bytes", "tofile", "savefig", "savez", "savez_compressed", "savetxt", "to_csv"}
MODULE_WRITERS = {"np.save", "numpy.save", "torch.save", "torch.jit.save", "json.dump", "pickle.dump", "yaml.dump"}
MOVERS = {f"os.{name}" for name in ("replace", "rename", "remove", "unlink")} | {"shutil.move", "shutil.copy"}


def writes(tree: ast.AST) -> list[int]:
    """Lines that write a file outside `with atomic_write(...)`; what goes to a buffer in memory is no file."""
    found = []

    def visit(node: ast.AST, allowed: bool) -> None:
        if isinstance(node, ast.With):
            allowed = allowed or any("atomic_write(" in ast.unparse(item.context_expr) for item in node.items)
        if isinstance(node, ast.Call) and not allowed:
            name = ast.unparse(node.func)
            last = name.rsplit(".", 1)[-1]
            to_buffer = any(isinstance(argument, ast.Name) and "buffer" in argument.id for argument in node.args)
            writer = (last in WRITERS or name in MODULE_WRITERS | MOVERS) and name != "storage.write_text"
            if last == "open" and name != "os.open":
                place = 1 if name in ("open", "io.open") else 0
                modes = [k.value for k in node.keywords if k.arg == "mode"] + node.args[place : place + 1]
                writer = any(isinstance(mode, ast.Constant) and set("wax+") & set(str(mode.value)) for mode in modes)
            if writer and not to_buffer:
                found.append(node.lineno)
        for child in ast.iter_child_nodes(node):
            visit(child, allowed)

    visit(tree, False)
    return sorted(found)


WRITE = {
    "latf_sampling.core.storage",
    "latf_sampling.core.outputs",  # a try, which it removes
    "latf_sampling.core.readers",  # to nowhere
    "latf_sampling.data.trajectory_writers",  # to the name that it is given
    "latf_sampling.data.layout",  # the lock of a campaign
    "latf_sampling.cv.force",  # a table that running forces read, in a temporary folder that dies with them
}


@pytest.mark.parametrize("module", sorted(set(MODULES) - WRITE))
def test_files_are_written_through_storage_alone(module):
    lines = writes(ast.parse(MODULES[module].read_text()))
    assert not lines, f"{MODULES[module]}: writes a file by itself in lines {lines}; use storage.atomic_write"


def test_the_check_for_writes_would_find_one():
    code = """
open("a", "w")
open("a")
open("a", mode="ab")
Path("a").open("x")
Path("a").write_text("b")
storage.write_text("a", "b")
np.savez("a", x=1)
torch.save(x, "a")
torch.save(x, buffer)
with storage.atomic_write("a") as t, open(t, "w") as handle:
    np.savez(t, x=1)
os.replace("a", "b")
"".replace("a", "b")
"""
    assert writes(ast.parse(code)) == [2, 4, 5, 6, 8, 9, 13]
    assert writes(ast.parse((PACKAGE / "core" / "storage.py").read_text()))  # storage itself does write


# ------------------------------------------------------------------------------------------------ encoding


def locale_dependent(tree: ast.AST) -> list[int]:
    """Lines that open a text file, or read from a process, in the encoding of the locale."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name, given = ast.unparse(node.func), {keyword.arg for keyword in node.keywords}
        last = name.rsplit(".", 1)[-1]
        if last in ("read_text", "write_text"):
            text = name not in ("read_text", "write_text", "storage.write_text")  # functions of ours
        elif last in ("open", "fdopen", "NamedTemporaryFile", "TemporaryFile"):
            place = 1 if name in ("open", "io.open", "os.fdopen") else 0
            modes = [keyword.value for keyword in node.keywords if keyword.arg == "mode"] + node.args[place : place + 1]
            binary = any(isinstance(mode, ast.Constant) and "b" in str(mode.value) for mode in modes)
            text = name not in ("os.open", "mdtraj.open", "archive.open") and not binary
            text = text and not (last.endswith("TemporaryFile") and not modes)
        else:
            text = name in ("np.loadtxt", "np.savetxt", "np.genfromtxt") or (
                last in ("run", "Popen") and "text" in given
            )
        if text and "encoding" not in given:
            found.append(node.lineno)
    return found


def test_text_is_utf8_whatever_the_locale():
    found = {module: locale_dependent(ast.parse(path.read_text(encoding="utf-8"))) for module, path in MODULES.items()}
    assert {module: lines for module, lines in found.items() if lines} == {}
    assert locale_dependent(ast.parse('open("a")\nopen("a", "rb")\nPath("a").read_text()\np.open("w")')) == [1, 3, 4]
