"""The house stays the house: no room imports one above it, public names stay, files are written in one place."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import latf_sampling

PACKAGE = Path(latf_sampling.__file__).parent
ORDER = [  # from the ground up; a room imports only what stands before it
    "errors",
    "units",
    "schema",
    "system_settings",
    "settings",
    "runtime",
    "doctor",
    "store",
    "processes",
    "trajectories",
    "features",
    "testing",
    "given",
    "systems",
    "reweighting",
    "dataset",
    "columns",
    "selection",
    "flow",
    "model",
    "relevance",
    "trainer",
    "compiler",
    "cv",
    "bias.arguments",
    "bias.shapes",
    "bias.graph",
    "bias.force",
    "bias.grid",
    "bias.umbrella",
    "bias.path",
    "bias.mbar",
    "bias.windows",
    "bias.trust",
    "bias.history",
    "bias.kernels",
    "bias.density",
    "bias.adding",
    "bias.metadynamics",
    "bias.opes",
    "bias.flow_bias",
    "bias.respa",
    "bias",
    "simulate",
    "walkers",
    "starts",
    "analysis",
    "weighting",
    "feature_file",
    "kinetics",
    "lags",
    "evaluation",
    "report",
    "status",
    "campaign",
    "cli",
]
UPWARD_ON_PURPOSE = {("cv", "bias.force")}  # inside a function: a CV hands out its own forces as BiasVariables
# whose parts import each other freely
PACKAGES_OF_ONE_ROOM = {
    "analysis",
    "compiler",
    "evaluation",
    "features",
    "given",
    "report",
    "starts",
    "systems",
    "trainer",
}
SCRATCH = {"bias.force"}  # writes a table that running forces read, in a temporary folder that dies with them

PUBLIC = {
    "KB",
    "Campaign",
    "Dataset",
    "Features",
    "FlowBias",
    "LaTF",
    "LatentCV",
    "Metadynamics",
    "ModelSettings",
    "Opes",
    "Protocol",
    "Series",
    "TrainingSettings",
    "TrustRegion",
    "Umbrella",
    "UmbrellaWindows",
    "evaluate",
    "even_path",
    "free_energy_path",
    "generate_starts",
    "rank_descriptors",
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


def rooms() -> dict[str, list[Path]]:
    """The files of each room, by its name in `ORDER`."""
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        if parts and parts[0] in PACKAGES_OF_ONE_ROOM:
            parts = parts[:1]
        if parts:  # the package's own __init__ is the front door, not a room
            found.setdefault(".".join(parts), []).append(path)
    return found


ROOMS = rooms()


def room_of(dotted: str, name: str | None = None) -> str | None:
    """The room that `import dotted`, or `from dotted import name`, goes to; None outside the package."""
    parts = dotted.split(".")
    if parts[0] != "latf_sampling":
        return None
    if parts[1:2] and parts[1] in PACKAGES_OF_ONE_ROOM:
        return parts[1]
    for candidate in ([*parts[1:], name] if name else [], parts[1:]):
        if ".".join(candidate) in ROOMS:
            return ".".join(candidate)
    return ""  # the front door itself


def imports(path: Path) -> list[tuple[str, bool, int]]:
    """(room, whether inside a function, line) of each import that runs; those for type checkers do not."""
    found = []

    def visit(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                visit(child, inside)
            return
        if isinstance(node, ast.Import):
            found.extend((room_of(alias.name), inside, node.lineno) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                if node.module == "latf_sampling" and alias.name == "__version__":
                    continue
                found.append((room_of(node.module, alias.name), inside, node.lineno))
        inside = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(path.read_text()), False)
    return [entry for entry in found if entry[0] is not None]


def test_every_room_has_its_place_in_the_order():
    assert set(ROOMS) <= set(ORDER), "new room: give it a place in ORDER, and in docs/architecture.md"


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_no_room_imports_upward(room):
    for path in ROOMS[room]:
        for target, inside, line in imports(path):
            assert target != "", f"{path}:{line}: imports from the front door, and so everything"
            if target == room and room in PACKAGES_OF_ONE_ROOM:
                continue
            if (room, target) in UPWARD_ON_PURPOSE and inside:
                continue
            assert ORDER.index(target) < ORDER.index(room), f"{path}:{line}: {room} imports {target}, which is above it"


def test_the_check_for_upward_imports_would_find_one(tmp_path):
    module = tmp_path / "flow.py"
    module.write_text(
        "import numpy\nfrom latf_sampling import trainer\ndef f():\n    from latf_sampling.bias.force import x\n"
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from latf_sampling.cli import app\n"
        "from latf_sampling import KB\nimport latf_sampling.model\n"
    )
    assert imports(module) == [("trainer", False, 2), ("bias.force", True, 4), ("", False, 8), ("model", False, 9)]


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


# ---------------------------------------------------------------------------------------------- what an import costs


@pytest.mark.parametrize("statement", ["import latf_sampling", "import latf_sampling.errors, latf_sampling.runtime"])
def test_importing_the_package_loads_neither_torch_nor_openmm(statement):
    # `latf doctor` has to start where either crashes when it is loaded.
    code = f"import sys\n{statement}\nprint([n for n in ('torch', 'openmm', 'mdtraj', 'zuko') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


# ------------------------------------------------------------------------------------------------ writing

WRITERS = {"write_text", "write_bytes", "tofile", "savefig", "savez", "savez_compressed", "savetxt", "to_csv"}
MODULE_WRITERS = {"np.save", "numpy.save", "torch.save", "torch.jit.save", "json.dump", "pickle.dump", "yaml.dump"}
MOVERS = {f"os.{name}" for name in ("replace", "rename", "remove", "unlink")} | {"shutil.move", "shutil.copy"}


def writes(tree: ast.AST) -> list[int]:
    """Lines that write a file outside `with replacing(...)`; what goes to a buffer in memory is no file."""
    found = []

    def visit(node: ast.AST, allowed: bool) -> None:
        if isinstance(node, ast.With):
            allowed = allowed or any("replacing(" in ast.unparse(item.context_expr) for item in node.items)
        if isinstance(node, ast.Call) and not allowed:
            name = ast.unparse(node.func)
            last = name.rsplit(".", 1)[-1]
            to_buffer = any(isinstance(argument, ast.Name) and "buffer" in argument.id for argument in node.args)
            writer = (last in WRITERS or name in MODULE_WRITERS | MOVERS) and name != "store.write_text"
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


@pytest.mark.parametrize("room", sorted(set(ROOMS) - {"store"} - SCRATCH))
def test_files_are_written_through_the_store_alone(room):
    for path in ROOMS[room]:
        lines = writes(ast.parse(path.read_text()))
        assert not lines, f"{path}: writes a file by itself in lines {lines}; use store.replacing"


def test_the_check_for_writes_would_find_one():
    code = """
open("a", "w")
open("a")
open("a", mode="ab")
Path("a").open("x")
Path("a").write_text("b")
store.write_text("a", "b")
np.savez("a", x=1)
torch.save(x, "a")
torch.save(x, buffer)
with store.replacing("a") as t, open(t, "w") as handle:
    np.savez(t, x=1)
os.replace("a", "b")
"".replace("a", "b")
"""
    assert writes(ast.parse(code)) == [2, 4, 5, 6, 8, 9, 13]
    assert writes(ast.parse((PACKAGE / "store.py").read_text()))  # the store itself does write
