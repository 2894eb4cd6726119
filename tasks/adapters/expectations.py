"""Great Expectations, kept in one place: suites as JSON in git, an ephemeral context, static Data Docs."""

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

SEVERITIES = ("critical", "warning")  # only a critical failure stops the pipeline
NUM_EXAMPLES = 3
_ROW = "row"  # a column beside those of the data


@dataclass(frozen=True)
class Outcome:
    """What became of one expectation of a suite."""

    expectation: str  # "expect_column_values_to_be_between(confidence)"
    severity: str
    success: bool
    rows: int
    unexpected: int | None  # rows that break it; None for an expectation about the table as a whole
    observed: Any  # the value of such an expectation
    examples: list[dict[str, Any]]  # {row: its number in the frame, from 1, id and the columns asked about: values}
    quota: dict[str, Any] | None = None  # {task, case, least} of a cell of the taxonomy


def read_suite(path: Path) -> list[dict[str, Any]]:
    """The expectations of a suite file: `{type, kwargs, severity, meta}` each. Raises ValueError."""
    try:
        expectations = json.loads(path.read_text(encoding="utf-8"))["expectations"]
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such suite; restore it with git") from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a suite of expectations ({error}); mend its JSON") from None
    for expectation in expectations:
        if expectation.get("severity") not in SEVERITIES:
            name = expectation.get("type")
            raise ValueError(f"{path}: {name}: severity must be one of {', '.join(SEVERITIES)}")
    return list(expectations)


def check(frames: Mapping[str, "DataFrame"], suites: Path, docs: Path) -> dict[str, list[Outcome]]:
    """Hold each frame against the suite of its name and write Data Docs to `docs`, which show no value of a row.

    Of a frame without rows only the expectations about the table as a whole are asked; those with `asked_of` in their
    meta, `{column: value}`, of a frame with such a row alone.
    Raises ValueError for a suite that cannot be asked of its frame, RuntimeError where the tool itself fails.
    """
    wanted = {name: _applicable(suites / f"{name}.json", frame) for name, frame in frames.items()}
    shutil.rmtree(docs, ignore_errors=True)
    with _quiet():
        import great_expectations as gx
        from great_expectations.exceptions import GreatExpectationsError

        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.resolve())}
        site = {"class_name": "SiteBuilder", "store_backend": store, "site_index_builder": _INDEX}
        context.add_data_docs_site("local", site)
        source = context.data_sources.add_pandas("raw")
        try:
            found = {
                name: [
                    _outcome(result.to_json_dict(), suites / f"{name}.json", frame)
                    for result in _run(gx, context, source, name, frame, wanted[name])
                ]
                for name, frame in frames.items()
            }
        except GreatExpectationsError as error:
            raise ValueError(f"{suites}: a suite is not valid: {' '.join(str(error).split())[:300]}") from None
        _forget_values(context.validation_results_store)
        context.build_data_docs()
    return found


def _forget_values(store: Any) -> None:
    """Leave of rows that break an expectation their numbers: values and ids may name people, and many see the pages."""
    for key in store.list_keys():
        validated = store.get(key)
        for each in validated.results:
            for name in [name for name in each.result if name.startswith("partial_unexpected")]:
                found = each.result.pop(name)
                if name == "partial_unexpected_index_list":
                    each.result[name] = [{_ROW: row[_ROW]} for row in found]
        store.set(key, validated)


_INDEX = {"class_name": "DefaultSiteIndexBuilder"}


def _applicable(suite: Path, frame: "DataFrame") -> list[dict[str, Any]]:
    expectations = read_suite(suite)
    for expectation in expectations:
        for column in (*_asked_of(expectation), expectation["kwargs"].get("column")):
            if column is not None and column not in frame.columns:
                known = ", ".join(frame.columns)
                raise ValueError(f"{suite}: {expectation['type']}: no column `{column}`; the columns are {known}")
    expectations = [
        expectation
        for expectation in expectations
        if all((frame[column] == value).any() for column, value in _asked_of(expectation).items())
    ]
    if len(frame):
        return expectations
    return [expectation for expectation in expectations if expectation["type"].startswith("expect_table_")]


def _asked_of(expectation: dict[str, Any]) -> dict[str, Any]:
    """{column: value} that some row must have, or the expectation is about other data."""
    return (expectation.get("meta") or {}).get("asked_of") or {}


def _run(
    gx: Any, context: Any, source: Any, name: str, frame: "DataFrame", expectations: list[dict[str, Any]]
) -> list[Any]:
    try:
        suite = gx.ExpectationSuite(name=name, expectations=expectations)
    except ValueError as error:
        raise ValueError(f"the suite of {name} is not valid: {' '.join(str(error).split())[:300]}") from None
    if len(suite.expectations) < len(expectations):  # it logs what it cannot understand, and goes on without
        known = {expectation.expectation_type for expectation in suite.expectations}
        lost = sorted({expectation["type"] for expectation in expectations} - known) or "some, by their kwargs"
        raise ValueError(f"the suite of {name} is not valid: Great Expectations does not understand {lost}")
    context.suites.add(suite)
    batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("rows")
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
    shape = {
        "result_format": "SUMMARY",
        "partial_unexpected_count": NUM_EXAMPLES,
        "unexpected_index_column_names": [_ROW],
    }
    given = {"dataframe": frame.assign(**{_ROW: range(1, len(frame) + 1)})}
    return list(definition.run(batch_parameters=given, result_format=shape).results)


def _outcome(result: dict[str, Any], suite: Path, frame: "DataFrame") -> Outcome:
    config, found = result["expectation_config"], result["result"]
    quota = _quota(config)
    cell = f"{quota['task']}: {quota['case']}" if quota else None
    subject = config["kwargs"].get("column") or cell or config["kwargs"].get("row_condition") or ""
    name = f"{config['type']}({subject})"
    if message := _exception(result["exception_info"]):
        raise RuntimeError(f"{suite}: {name}: Great Expectations failed: {message}")
    return Outcome(
        expectation=name,
        severity=config["severity"],
        success=bool(result["success"]),
        rows=int(found.get("element_count", found.get("observed_value") if "table" in name else 0) or 0),
        unexpected=found.get("unexpected_count"),
        observed=found.get("observed_value"),
        examples=_examples(found.get("partial_unexpected_index_list") or [], frame),
        quota=quota,
    )


def _examples(found: list[dict[str, Any]], frame: "DataFrame") -> list[dict[str, Any]]:
    return [{**each, "id": frame["id"].iloc[each[_ROW] - 1]} for each in found[:NUM_EXAMPLES]]


def _quota(config: dict[str, Any]) -> dict[str, Any] | None:
    meta = config.get("meta") or {}
    if not {"task", "case"} <= meta.keys():
        return None
    return {"task": meta["task"], "case": meta["case"], "least": config["kwargs"].get("min_value", 0)}


def _exception(info: dict[str, Any]) -> str | None:
    """The message of an error inside the tool, which is not a failure of the data."""
    for part in (info, *(value for value in info.values() if isinstance(value, dict))):
        if part.get("raised_exception"):
            return " ".join(str(part.get("exception_message")).split())
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """No phoning home; and its use of deprecated modules is not ours to mend."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
