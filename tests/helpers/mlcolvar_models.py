"""Writes data/mlcolvar-*.pt: variables that mlcolvar 1.2.2 trained and exported, for cv/test_external_module.py.

mlcolvar is not needed to run the tests; later releases ask for another pydantic than this package. Beside the
environment of the tests, and without changing it:

    pip install --no-deps --target mlcolvar mlcolvar==1.2.2 lightning lightning-utilities torchmetrics \
        pytorch-lightning pandas KDEpy python-dateutil six tqdm pytz
    PYTHONPATH=mlcolvar:tests python tests/helpers/mlcolvar_models.py

Each file is what `to_torchscript(method="trace")` writes. `mlcolvar.json` has the values that mlcolvar itself gives.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from helpers.molecules import SPECS, alanine_topology, frames

from latf_sampling.features import Features

DATA = Path(__file__).resolve().parents[1] / "data"
NAMES = ("deeptica", "autoencoder", "deeptda")


def file(name: str) -> Path:
    return DATA / f"mlcolvar-{name}.pt"


def walk(n: int = 400) -> np.ndarray:
    """Positions (n, 22, 3) of atoms that wander about those of alanine dipeptide, nm."""
    steps = np.random.default_rng(0).normal(scale=0.002, size=(n, 22, 3)).cumsum(0)
    return frames(n, seed=0) + steps - np.linspace(0, 1, n)[:, None, None] * steps[-1]


def features(periodic: bool = False) -> Features:
    return Features(alanine_topology(), SPECS["distances"], periodic=periodic)


def main() -> None:
    import lightning
    import torch
    from mlcolvar.cvs import AutoEncoderCV, DeepTDA, DeepTICA
    from mlcolvar.data import DictDataset, DictModule
    from mlcolvar.utils.timelagged import create_timelagged_dataset

    torch.manual_seed(0)
    x = torch.from_numpy(features()(walk())).float()
    labels = (x[:, 0] > x[:, 0].median()).float()
    columns = x.shape[1]
    models = {
        "deeptica": (
            DeepTICA([columns, 12, 2], n_cvs=2),
            create_timelagged_dataset(x, t=torch.arange(len(x)).float(), lag_time=5),
        ),
        "autoencoder": (AutoEncoderCV([columns, 12, 2]), DictDataset({"data": x})),
        "deeptda": (
            DeepTDA(2, 1, target_centers=[-5, 5], target_sigmas=[0.2, 0.2], layers=[columns, 12, 1]),
            DictDataset({"data": x, "labels": labels}),
        ),
    }
    values = {}
    for name, (model, dataset) in models.items():
        quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        trainer = lightning.Trainer(max_epochs=30, accelerator="cpu", **dict.fromkeys(quiet, False))
        trainer.fit(model, DictModule(dataset, lengths=[0.8, 0.2]))
        model.eval()
        model.to_torchscript(str(file(name)), method="trace")
        values[name] = model(x[::50]).detach().numpy().tolist()
    (DATA / "mlcolvar.json").write_text(json.dumps(values) + "\n")


if __name__ == "__main__":
    main()
