"""Win rate as an `evaluate` module: `evaluate.load("tasks/evaluation/metrics/win_rate")`."""

# One import per line: the loader of `evaluate` reads these lines to find what has to be installed.
import datasets
import evaluate

from tasks.evaluation import comparisons

_DESCRIPTION = "Share of prompts on which the candidate's reply scores higher than the rival's; ties count 0.5."


class WinRate(evaluate.Metric):  # type: ignore[misc]
    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("float64")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description="predictions: scores of the candidate's replies; references: scores of the rival's",
            features=datasets.Features({"predictions": number, "references": number}),
        )

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        margins = [a - b for a, b in zip(predictions, references, strict=True)]
        return {"win_rate": float(comparisons.preference(margins).mean())}
