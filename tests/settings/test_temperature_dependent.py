"""A potential energy that depends on temperature: what would reweight between temperatures is refused."""

from pathlib import Path

import pytest
import yaml

from latf_sampling.errors import SettingsError
from latf_sampling.settings import Protocol
from latf_sampling.settings.yaml_file import read_yaml

PROTOCOLS = Path(__file__).resolve().parents[2] / "protocols"


def protocol(**changes) -> Protocol:
    data = read_yaml(PROTOCOLS / "alanine-dipeptide.yaml")
    data = {**data, "system": {"name": "alanine-dipeptide", "temperature_dependent": True}, **changes}
    return Protocol.model_validate(yaml.safe_load(yaml.safe_dump(data)))


def test_models_are_steered():
    assert protocol().model.temperature_mode == "steered"
    assert protocol(model={"latent_dim": 1}).model.temperature_mode == "steered"
    assert protocol(system={"name": "alanine-dipeptide"}).model.temperature_mode == "auto"


@pytest.mark.parametrize("mode", ["auto", "reweighted", "thermodynamic"])
def test_reweighting_is_refused(mode):
    with pytest.raises((SettingsError, ValueError), match=r"temperature_dependent\); the only possible one is steered"):
        protocol(model={"temperature_mode": mode})


def test_exchange_is_refused():
    rounds = [{"walkers": ["300 K", "450 K"], "length": "400 ps", "exchange": {"interval": "1 ps"}}]
    with pytest.raises(
        (SettingsError, ValueError), match=r"rounds\[0\]\.exchange: the potential energy depends on temp"
    ):
        protocol(rounds=rounds, starts=None, observe=None)
