"""Calibration of a reward model as an `evaluate` module: `evaluate.load("tasks/evaluation/metrics/calibration")`."""

# One import per line: the loader of `evaluate` reads these lines to find what has to be installed.
import datasets
import evaluate

from tasks.evaluation import calibration as measures

_DESCRIPTION = "ECE and its expectation under perfect calibration, Brier score, NLL and the best temperature."


class Calibration(evaluate.Metric):  # type: ignore[misc]
    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("float64")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description="predictions: raw margins, score of a - score of b; references: P(a preferred)",
            features=datasets.Features({"predictions": number, "references": number}),
        )

    def _compute(self, predictions: list[float], references: list[float], seed: int = 0) -> dict[str, float]:
        return {
            "ece": measures.ece(predictions, references),
            "ece_null": measures.ece_null(predictions, seed),
            "brier": measures.brier(predictions, references),
            "nll": measures.nll(predictions, references),
            "temperature": measures.temperature(predictions, references),
        }
