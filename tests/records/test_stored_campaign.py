"""The part of protocols/chignolin-night.yaml that was run, whose files are in the repository, can go on."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from latf_sampling.cli.main import app
from latf_sampling.records.records import Records

PROTOCOL = Path(__file__).parents[2] / "protocols" / "chignolin-night.yaml"


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    with tarfile.open(PROTOCOL.with_suffix(".tar.xz")) as archive:
        archive.extractall(folder, filter="data")
    return folder / "chignolin-night"


def test_every_file_is_as_it_was_written(stored):
    result = CliRunner().invoke(app, ["verify", str(stored)])
    assert result.exit_code == 0, result.output


def test_the_protocol_goes_on_with_it(stored):
    result = CliRunner().invoke(app, ["check", str(PROTOCOL), "-o", str(stored)])
    assert result.exit_code == 0, result.output
    assert "What is finished stays. Left to do: round" in result.output
    assert "Changed in" not in result.output


def test_its_last_model_generates(stored):
    records = Records.load(stored)
    model, cv = records.model(records.last_learned())
    values, errors = model.populations(325.0, return_std=True)
    assert values.sum() == pytest.approx(1.0)
    assert np.isfinite(errors).all()
    assert cv.dim == model.latent_dim
