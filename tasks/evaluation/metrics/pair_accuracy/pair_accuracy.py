"""Pair accuracy as an `evaluate` module: `evaluate.load("tasks/evaluation/metrics/pair_accuracy")`."""

# One import per line: the loader of `evaluate` reads these lines to find what has to be installed.
import datasets
import evaluate

from tasks.evaluation import comparisons

_DESCRIPTION = "Share of pairs whose margin agrees with the label; a tied margin or label counts 0.5."


class PairAccuracy(evaluate.Metric):  # type: ignore[misc]
    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("float64")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description="predictions: score of a - score of b; references: P(a preferred), 1, 0 or 0.5",
            features=datasets.Features({"predictions": number, "references": number}),
        )

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        return {"pair_accuracy": comparisons.pair_accuracy(predictions, references)}
