"""A campaign's variable, with the bias that its walkers have built along it, as input of PLUMED."""

from __future__ import annotations

from pathlib import Path

from latf_sampling.bias.from_settings import BiasTask, make_bias
from latf_sampling.bias.metadynamics import Metadynamics
from latf_sampling.bias.opes import OPES
from latf_sampling.bias.plumed import export_plumed
from latf_sampling.records.records import Records
from latf_sampling.settings import RoundSettings


def write_plumed(records: Records, index: int, directory: Path) -> str:
    """Write the variable that was learned after a round; the bias of the next round with it, if there is one.

    Returns
    -------
    str
        What was written, for people.

    Raises
    ------
    CVError, SettingsError
        As by `export_plumed`.
    StoreError
        No model was learned after this round.
    """
    _, cv = records.model(index)
    bias = _bias_along(records, index)
    protocol = records.protocol
    files = export_plumed(
        directory,
        cv,
        records.features_of(cv),
        bias,
        stride=max(1, round(protocol.frame_interval / protocol.integrator.timestep)),
        timestep=_timestep(records, index + 1) if bias is not None else protocol.integrator.timestep,
    )
    names = ", ".join(path.name for path in files)
    hint = f"with the bias of round {index + 1}"
    if bias is None:
        hint = "without a bias, since no later round has hills; --round takes the variable of an earlier one"
    return f"{directory}: {names}, {hint}."


def _timestep(records: Records, index: int) -> float:
    """ps of a step of the walkers of a biased round."""
    bias = records.protocol.runs[index].bias
    return records.protocol.integrator.timestep * (1 if bias is None else bias.stride)


def _bias_along(records: Records, index: int) -> Metadynamics | OPES | None:
    """The bias of the round after a model, along its variable; `None` where that round has none, or not begun."""
    if index + 1 >= records.n_rounds:
        return None
    settings, files = records.protocol.runs[index + 1], records.directory.round(index + 1)
    if not isinstance(settings, RoundSettings) or settings.bias is None or settings.bias.variable is not None:
        return None
    walker = files.walker(0)
    if not walker.markers():
        return None
    model, cv = records.model(index)
    task = BiasTask(
        records.molecule.system,
        cv,
        lambda: model,
        settings.walkers[0],
        _timestep(records, index + 1),
        directory=files.hills_of(settings.walkers, 0),
        walker=walker.path.name,
        read_only=True,
    )
    bias = make_bias(settings.bias, task)
    return bias if isinstance(bias, (Metadynamics, OPES)) else None
