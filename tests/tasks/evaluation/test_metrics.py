"""The `evaluate` modules load from their folders, offline, and give the numbers of the plain functions."""

from pathlib import Path

import numpy as np
import pytest

from tasks.evaluation import calibration, comparisons

METRICS = Path(comparisons.__file__).parent / "metrics"
RNG = np.random.default_rng(0)
A, B = RNG.normal(0, 1, (2, 120)).round(1)
LABELS = RNG.choice([0.0, 0.5, 1.0], 120)

EXPECTED = {
    "pair_accuracy": {"pair_accuracy": comparisons.pair_accuracy(A - B, LABELS)},
    "win_rate": {"win_rate": float(comparisons.preference(A - B).mean())},
    "reward_auc": {
        name: getattr(comparisons, name)(A, B, LABELS) for name in ("auc_pooled", "auc_within", "auc_mirrored")
    },
    "calibration": {
        "ece": calibration.ece(A - B, LABELS),
        "ece_null": calibration.ece_null(A - B, 0),
        "brier": calibration.brier(A - B, LABELS),
        "nll": calibration.nll(A - B, LABELS),
        "temperature": calibration.temperature(A - B, LABELS),
    },
}
INPUTS = {
    "pair_accuracy": {"predictions": A - B, "references": LABELS},
    "win_rate": {"predictions": A, "references": B},
    "reward_auc": {"predictions": A, "rivals": B, "references": LABELS},
    "calibration": {"predictions": A - B, "references": LABELS},
}


@pytest.fixture(scope="module")
def evaluate(tmp_path_factory):
    """The library, with no way to the hub and one cache of its own (it imports modules from the first it sees)."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "HF_EVALUATE_OFFLINE", "HF_DATASETS_OFFLINE"):
            patch.setenv(name, "1")
        import evaluate

        for name in ("HF_MODULES_CACHE", "HF_METRICS_CACHE", "HF_EVALUATE_CACHE"):
            patch.setattr(evaluate.config, name, str(tmp_path_factory.mktemp(name)))
        yield evaluate


def test_every_metric_is_tested():
    assert {path.name for path in METRICS.iterdir() if path.is_dir() and path.name[0] != "_"} == set(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_loads_offline_and_gives_the_same_number(evaluate, tmp_path, name):
    metric = evaluate.load(str(METRICS / name), cache_dir=str(tmp_path))
    assert metric.compute(**INPUTS[name]) == pytest.approx(EXPECTED[name])


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_one_import_per_line(name):
    """`import datasets, evaluate` makes the loader ask for a package called "datasets,"."""
    source = (METRICS / name / f"{name}.py").read_text()
    assert not [line for line in source.splitlines() if line.startswith("import ") and "," in line]
