"""The evaluation and the report of a campaign.

Modules that load torch are imported where they are used: the process that runs a campaign leaves its pages to another
one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from latf_sampling.campaign.progress import StepProgress, silent
from latf_sampling.core.manifest import Manifest
from latf_sampling.core.provenance import Attempt
from latf_sampling.records.records import Records

if TYPE_CHECKING:
    from latf_sampling.learning.evaluation import Evaluation

SAMPLES = 100_000
"""Generated samples that an evaluation compares at each temperature."""


def evaluate_model(records: Records, samples: int = SAMPLES, progress: StepProgress = silent) -> Evaluation:
    """Evaluate the last model of a campaign, as `latf_sampling.Campaign.evaluate`."""
    from latf_sampling.learning.evaluation import evaluate

    learned = records.last_learned()
    model, cv = records.model(learned)
    features = records.features_of(cv)
    references = records.series(records.references(), features)
    dataset = records.dataset(learned, features)
    return evaluate(model, dataset, references, samples=samples, seed=records.protocol.seed, progress=progress)


def write_evaluation(records: Records, progress: StepProgress, samples: int) -> None:
    """Evaluate the last model, and write the page of it and its manifest."""
    from latf_sampling import report

    directory = records.directory
    attempt = Attempt(directory.path, "evaluation")
    report.write_evaluation(evaluate_model(records, samples, progress), directory.evaluation)
    learned = directory.round(records.last_learned()).learning.manifest().content
    made_from = {"variable": learned.get("variable")}
    Manifest.write(directory.evaluation_marker, made_from, [directory.evaluation], attempt.provenance())


def write_report(records: Records, progress: StepProgress) -> None:
    """Write the report."""
    from latf_sampling import report

    report.write_report(records, progress=progress)
