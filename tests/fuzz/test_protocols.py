"""Mutations of protocols: each is refused in one sentence that names the key, or is read as it was written.

Every key and item of a protocol is deleted, misspelled, written twice, and given values of `WRONG`, some of them drawn
with a fixed seed; then several are changed at once, and the bytes of the file are damaged. Of these 1,572 protocols
1,243 are refused, and 329 are read as written. With LATF_FUZZ=every each key is given every value, in 10,710 protocols.
"""

from __future__ import annotations

import copy
import math
import os
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mdtraj
import pytest
import yaml

from latf_sampling import units
from latf_sampling.errors import LatfError, SettingsError
from latf_sampling.features.specification import read_specification
from latf_sampling.features.topology import Labels
from latf_sampling.settings import Protocol

FOLDER = Path(__file__).parents[2] / "protocols"
ALL_KEYS = """
name: all keys
seed: 7
system:
  structure: alanine-dipeptide.pdb
  force_field: [amber14-all.xml, amber14/tip3p.xml]
  nonbonded: PME
  cutoff: 1 nm
  constraints: h-bonds
  hydrogen_mass: 3 amu
  prepare: {pH: 7.5, missing_residues: inside, solvent: {model: tip3p, padding: 1 nm, ionic_strength: 0.1 M}}
  barostat: {pressure: 1 bar, interval: 25}
  restraints: [{atoms: name CA, stiffness: 1000 kJ/mol/nm^2}]
  platform: CPU
integrator: {timestep: 4 fs, friction: 1 / ps}
frame_interval: 100 fs
segment: 10 ps
features:
  - torsions: phi psi
  - distances: {between: name CA, and: name CB, skip: 0}
  - rmsd: {of: name CA, reference: alanine-dipeptide.pdb}
model: {latent_dim: 2, encoder_hidden: [16, 16], beta: 1.0e-4, flow: realnvp, temperature_mode: steered}
learning: {lag: 1 ps, flow_epochs: 5, balance_temperatures: true, select: {keep: 5, correlation: 0.9}}
from_trajectories:
  - {files: [alanine-dipeptide.pdb], temperature: 300 K, interval: 1 ps, energies: reference_alanine.json}
rounds:
  - walkers: [300 K]
    length: 20 ps
    restart: archive
    bias: {bias_factor: 8, height: 0.25 kcal/mol, interval: 200 fs, width: adaptive, trust: {threshold: 20}}
  - {walkers: [300 K], length: 20 ps, bias: {kind: opes, barrier: 40 kJ/mol, interval: 1 ps, stride: 5, backend: auto}}
  - walkers: [300 K]
    length: 20 ps
    bias: {kind: opes, barrier: 9 kJ/mol, interval: 1 ps, bias_factor: 9, width: adaptive, narrowest: 1, explore: true}
  - {walkers: [300 K], length: 20 ps, bias: {kind: flow, bias_factor: 5, interval: 1 ps}}
evaluate: {temperatures: [400 K], length: 20 ps}
starts: {temperature: 127 degC, count: 4, thermalise: 1 ps, release: 0 ps, tolerance: 4, allow_cis: true}
observe: {descriptor: {distances: {pairs: [[4, 6]]}}, above: 0.5 nm, reference: reference_alanine.json}
"""
PROTOCOLS = {**{file.stem: file.read_text("utf-8") for file in sorted(FOLDER.glob("*.yaml"))}, "all keys": ALL_KEYS}
WRONG: list[Any] = [
    *(None, True, False, "word", "", "yes", [], ["word"], [[1]], {}, {"key": 1}, {"key": {}}),
    *(-1, 0, 1, 1.5, -0.5, 1e30, 10**30, 1e-300, float("nan"), float("inf")),
    *(
        "-1 ps",
        "0 K",
        "1e30 s",
        "1e-300 fs",
        "nan nm",
        "3 furlongs",
        "1 ps 2",
        "1,5 nm",
        "300 K",
        "2 fs",
        "1e400 s",
        "%",
    ),
]
DELETED = object()
EVERY = os.environ.get("LATF_FUZZ") == "every"
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
FOREIGN = re.compile(
    r"pydantic|Input should|valid dictionary or instance|Traceback|function-|ValidationError|errors\.", re.I
)

Path_ = tuple[str | int, ...]


def places(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Every key and item of a protocol."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*path, key))


def at(content: Any, path: Path_) -> Any:
    for part in path:
        content = content[part]
    return content


def mutated(content: dict, path: Path_, value: Any) -> dict:
    content = copy.deepcopy(content)
    *parents, last = path
    parent = at(content, tuple(parents))
    if value is DELETED:
        del parent[last]
    else:
        parent[last] = value
    return content


@pytest.fixture(scope="module")
def labels() -> Labels:
    return Labels(mdtraj.load_topology(str(FOLDER / "alanine-dipeptide.pdb")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("protocols")
    for file in (*FOLDER.glob("*.pdb"), FOLDER / "reference_alanine.json"):
        shutil.copy(file, folder)
    return folder


def load(folder: Path, data: bytes) -> Protocol | str:
    """The protocol, or the sentences that refuse it; any other error fails the test."""
    file = folder / "protocol.yaml"
    file.write_bytes(data)
    try:
        return Protocol.load(file)
    except SettingsError as error:
        message = str(error)
    for line in message.splitlines():
        assert line.startswith(f"{file}: ") and line.endswith((".", "?")), line
        assert not FOREIGN.search(line), line
        assert len(line) < 2000, line
    return message.replace(str(file), "FILE")


def as_written(value: Any, read: Any) -> bool:
    """Whether a value was read as it was written: a number as this number, a quantity in the internal unit."""
    if isinstance(value, bool) or isinstance(read, bool) or value is None:
        return value is read
    if isinstance(value, (int, float)):
        return isinstance(read, (int, float)) and (float(value) == float(read) or (value != value and read != read))
    if isinstance(value, str) and isinstance(read, float):
        for dimension in units.UNITS:
            try:
                if math.isclose(units.parse(value, dimension), read, rel_tol=1e-9):
                    return True
            except LatfError:
                continue
        return False
    if isinstance(value, str):
        return str(read) == value or Path(str(read)).name == value
    if isinstance(value, list) and isinstance(read, (list, tuple)):
        return len(value) == len(read) and all(map(as_written, value, read))
    if isinstance(value, dict) and isinstance(read, dict):
        return all(key in read and as_written(part, read[key]) for key, part in value.items())
    return False


def named(message: str, path: Path_) -> bool:
    """Whether a sentence names the key that was changed, or one around it."""
    keys = [part for part in path if isinstance(part, str)]
    return any(re.search(rf"(?<![\w-]){re.escape(key)}(?![\w-])", message) for key in keys)


def check(folder: Path, content: dict, changes: dict[Path_, Any], labels: Labels | None = None) -> bool:
    """Whether the protocol is accepted, after the assertions about it."""
    result = load(folder, yaml.dump(content, Dumper=DUMPER, allow_unicode=True).encode())
    if isinstance(result, str):
        without_external = "the first round has no" in result and any("from_trajectories" in path for path in changes)
        assert without_external or any(named(result, path) for path in changes), (changes, result)
        return False
    dumped = result.model_dump()
    for path, value in changes.items():
        if value is not DELETED:
            assert as_written(value, at(dumped, path)), (path, value, at(dumped, path))
    if labels is not None and any(path[0] == "features" for path in changes):
        try:
            read_specification(list(result.features), labels)
        except LatfError as error:
            assert not FOREIGN.search(str(error)), error
            assert "features" in str(error)
            return False
    return True


def values(rng: random.Random, count: int) -> list[Any]:
    return [DELETED, *(WRONG if EVERY else rng.sample(WRONG, count))]


@pytest.mark.parametrize(("name", "count"), [(name, 3 if name == "all keys" else 2) for name in PROTOCOLS])
def test_one_change(name, count, folder, labels):
    content, rng = yaml.safe_load(PROTOCOLS[name]), random.Random(name)
    assert check(folder, content, {}) or name == "all keys"
    changes = [(path, value) for path in places(content) for value in values(rng, count)]
    accepted = sum(check(folder, mutated(content, path, value), {path: value}, labels) for path, value in changes)
    assert 0 < accepted < len(changes) / 3


def test_several_changes_at_once(folder, labels):
    content, rng = yaml.safe_load(ALL_KEYS), random.Random(1)
    paths = list(places(content))
    for _ in range(3000 if EVERY else 100):
        changed, changes = content, {}
        for path in rng.sample(paths, rng.randint(2, 4)):
            if not any(path[: len(other)] == other or other[: len(path)] == path for other in changes):
                value = rng.choice(WRONG)
                changed, changes[path] = mutated(changed, path, value), value
        check(folder, changed, changes, labels)


def lines_with_keys(text: str) -> Iterator[tuple[int, str]]:
    """Lines that begin with a key, and the key."""
    for number, line in enumerate(text.splitlines()):
        if found := re.match(r"\s*(?:- )?(\w+):", line):
            yield number, found[1]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_key_twice_or_misspelled(name, folder):
    lines = PROTOCOLS[name].splitlines()
    for number, key in lines_with_keys(PROTOCOLS[name]):
        indented = re.sub(r"^(\s*)- ", r"\1  ", lines[number])
        twice = [*lines[: number + 1], indented.split(":")[0] + ": 1", *lines[number + 1 :]]
        result = load(folder, "\n".join(twice).encode())
        assert isinstance(result, str), (name, key)
        if "not a YAML file" not in result:  # where the value of the key follows in the next lines
            assert f"{key}: this key stands twice, in lines {number + 1} and {number + 2}" in result
        letters = list(key)
        letters[len(key) // 2 - 1 : len(key) // 2 + 1] = reversed(letters[len(key) // 2 - 1 : len(key) // 2 + 1])
        other = "".join(letters) if "".join(letters) != key else f"{key}s"
        misspelled = [*lines[:number], lines[number].replace(key, other, 1), *lines[number + 1 :]]
        result = load(folder, "\n".join(misspelled).encode())
        if isinstance(result, str):  # kinds of descriptors and their keys are known to `Features`
            assert f"{other}: no such key, did you mean '" in result, result
            assert f"'{key}'" in result
        else:
            assert other in repr((result.features, result.observe))


@pytest.mark.parametrize("name", ["chignolin", "all keys"])
def test_damaged_bytes(name, folder):
    """A cut or changed file is refused, or is a protocol that says something else; never another error."""
    data, rng = PROTOCOLS[name].encode(), random.Random(name)
    damages = [data[: rng.randrange(len(data))] for _ in range(20)]
    for byte in (b"\xff", b"\x00", b"\t", b"\xc3", b'"', b"*a", b"&a ", b"{", b"!!binary ", b"\xef\xbb\xbf"):
        for _ in range(5):
            place = rng.randrange(len(data))
            damages.append(data[:place] + byte + data[place + rng.randint(0, 1) :])
    damages += [data.decode().encode(encoding) for encoding in ("utf-16", "utf-32")]
    results = [load(folder, damage) for damage in damages]
    assert sum(isinstance(result, str) for result in results) > len(results) / 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("name: é\n".encode("latin-1"), "byte 6 is not text in UTF-8"),
        (b"name: x\n\tseed: 1", "found character '\\t' that cannot start any token; indent with spaces"),
        (b"seed: 1\nname: a\nseed: 2\n", "seed: this key stands twice, in lines 1 and 3; remove one of them."),
        (b"model: {beta: 1, tau: 2,\n beta: 3}", "model.beta: this key stands twice, in lines 1 and 2"),
        (b"rounds:\n - {length: 1 ps}\n - {length: 1 ps, length: 2 ps}", "rounds[1].length: this key stands twice"),
        (b"1: 2", "line 1: the key '1' is not text; write it in quotes."),
        (b"model: {no: 2}", "model: line 1: the key 'no' is not text"),
        (b"a: &a [*a]", "a[0]: contains itself"),
        (b"a: &a {b: [1, *a]}", "a.b[1]: contains itself"),
        (b"a: &a [1,2,3,4,5,6,7,8,9]\n" + b"".join(
            b"%c: &%c [%s]\n" % (c + 1, c + 1, b",".join([b"*%c" % c] * 9)) for c in range(97, 105)
        ), "has more than 1,000,000 values"),
        (b"[" * 3000, "nested too deeply"),
        (b"seed: " + b"9" * 5000, "not a YAML file"),
        (b"--- {}\n--- {}", "expected a single document"),
        (b"!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        (b"name: !!binary aGVsbG8=", "could not determine a constructor"),
        (b"", "the file is empty"),
        (b"# only a comment", "the file is empty"),
        (b"- a", "got list"),
    ],
)  # fmt: skip
def test_no_protocol_at_all(text, why, folder):
    result = load(folder, text)
    assert isinstance(result, str) and why in result and len(result.splitlines()) == 1, result
    assert "not a YAML file" not in result or "stands twice" not in result


def test_numbers_are_read_as_people_write_them(folder):
    """YAML 1.1 would make text of 1e-4, eight of 010, and minutes of 1:30."""
    content = PROTOCOLS["lj7"].replace("seed: 1\n", "seed: 010\n").replace("latent_dim: 2", "beta: 1e-4")
    protocol = load(folder, content.encode())
    assert isinstance(protocol, Protocol)
    assert (protocol.seed, protocol.model.beta) == (10, 1e-4)
    assert "seed: must be a valid integer, got '1:30'" in load(folder, content.replace("010", "1:30").encode())
    assert "must be a valid integer, got true" in load(folder, content.replace("010", "yes").encode())


def test_protocols_are_utf8_in_any_locale(folder, monkeypatch):
    monkeypatch.setattr("locale.getpreferredencoding", lambda *_: "ascii")
    monkeypatch.setattr("locale.getencoding", lambda: "ascii", raising=False)
    text = PROTOCOLS["lj7"].replace("Lennard-Jones cluster", "Énergie µ 水")
    for encoding in ("utf-8", "utf-8-sig"):
        assert load(folder, text.encode(encoding)).name == "Énergie µ 水 of seven"
