"""What holds for all tests."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

# Compiling a bias takes seconds, and most tests make a new one: they let torch evaluate it, and processes that they
# start do the same. Tests in `cv/test_compiler.py`, the contract of biases, and long simulations compile.
os.environ["LATF_COMPILE"] = "0"

# One thread for each worker of pytest-xdist: threads of several would compete for the same cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A folder for what the processes of one pytest share. Workers of pytest-xdist find it in their environment.
MINE = "LATF_TESTS" not in os.environ
if MINE:
    os.environ["LATF_TESTS"] = tempfile.mkdtemp(prefix="latf-tests-")
os.environ["XDG_STATE_HOME"] = os.path.join(os.environ["LATF_TESTS"], "state")  # programs that were run are noted there


def pytest_unconfigure() -> None:
    if MINE:
        shutil.rmtree(os.environ.pop("LATF_TESTS"), ignore_errors=True)


@pytest.fixture
def machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Biases are compiled, as for users: ten times as fast, after seconds that only long simulations are worth."""
    monkeypatch.setenv("LATF_COMPILE", "1")
    monkeypatch.setenv("LATF_CACHE", str(Path(os.environ["LATF_TESTS"]) / "cache"))
