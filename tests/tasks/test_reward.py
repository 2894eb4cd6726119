"""The reward and judge stages: parameters that contradict each other, and what the stages say of their models."""

import importlib

import pytest
import yaml

from tasks.adapters import stage
from tests.tasks.conftest import ROOT


def read(tmp_path, section="reward", **values):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params[section] |= values
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(params))
    return stage.read_params(importlib.import_module(f"tasks.{section}").Params, section, path)


@pytest.mark.parametrize("section", ["reward", "judge"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ties": "thirds"}, r"{}.ties = 'thirds': Input should be 'half', 'davidson' or 'rao_kupper'"),
        ({"tie_parameter": 0.5}, r"{}.tie_parameter = 0.5: .*`ties: half` has no tie parameter: set it to null"),
        ({"ties": "rao_kupper", "tie_parameter": 1.0}, r"{}.tie_parameter = 1.0: .*must be above 1"),
        ({"label_smoothing": 0.5}, r"{}.label_smoothing = 0.5: Input should be less than 0.5"),
        ({"margin": {"source": "length", "size": 1}}, r"{}.margin.source = 'length': Input should be"),
        ({"margin": {"source": "scores"}}, r"{}.margin.size: Field required"),
        ({"bound": 0}, r"{}.bound = 0: Input should be greater than 0"),
        ({"objectives": {"safety": 0}}, r"{}.objectives = .*weight of 'safety' is 0: leave the objective out"),
        (
            {"objectives": {"safety": 1.0}, "margin": {"source": "confidence", "size": 1.0}},
            r"{}.margin = .*confidence is about the rater's choice, and objectives has no 'choice'",
        ),
        (
            {"objectives": {"safety": 1.0}, "length_bias": "balanced"},
            r"{}.length_bias = 'balanced': .*with objectives use residual or off",
        ),
        ({"length_bias": "on"}, r"{}.length_bias = 'on': Input should be 'off', 'residual' or 'balanced'"),
        ({"pooling": "max"}, r"{}.pooling = 'max': Input should be 'last' or 'mean'"),
    ],
)
def test_bad_options_are_one_clear_line(tmp_path, section, values, message):
    with pytest.raises(ValueError, match=message.format(section)) as caught:
        read(tmp_path, section, **values)
    assert "\n" not in str(caught.value)


def test_good_options_pass(tmp_path):
    read(tmp_path, ties="davidson", tie_parameter=0.5, margin={"source": "confidence", "size": 0.5}, bound=5.0)
    assert read(tmp_path).length_bias == "off"  # bare in the file, where YAML 1.1 reads it as false
    read(tmp_path, ties="rao_kupper", tie_parameter=1.01, label_smoothing=0.1, pooling="mean", l2=0.01)
