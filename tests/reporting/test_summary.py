"""Summaries: the numbers in them, and their three forms."""

import dataclasses
import io
import math

import pytest
from rich.console import Console

from vtune.hyperparameters import HyperParameters
from vtune.reporting.summary import (
    print_summary,
    results_summary,
    search_space_summary,
)
from vtune.trial import Objective, Trial, TrialStatus


ACCURACY = Objective("val_accuracy")

TRIALS = (
    Trial(0, {"units": 32, "rate": 0.00031}, TrialStatus.PRUNED, 0, 2, 2, {}, 0.71, 2),
    Trial(
        1, {"units": 512, "rate": 0.01}, TrialStatus.COMPLETED, 0, 9, 9, {}, 0.8912, 7
    ),
    Trial(2, {"units": 64}, TrialStatus.DIVERGED, epoch=3, reason="loss is nan"),
    Trial(3, {}, TrialStatus.FAILED, reason="ValueError: no\n  line 3"),
    Trial(4, {"units": 64, "kind": "a"}, TrialStatus.RUNNING, 0, 2, 1, {}, math.nan, 1),
)


def shown(summary, width: int = 100) -> str:
    console = Console(
        file=io.StringIO(), width=width, force_terminal=True, color_system=None
    )
    console.print(summary)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_best_come_first():
    summary = results_summary(TRIALS, ACCURACY)
    assert [row.number for row in summary.rows] == [1, 0, 2, 4, 3]
    first = summary.rows[0]
    assert (first.score, first.status) == (0.8912, TrialStatus.COMPLETED)
    assert (first.epoch, first.best_epoch) == (9, 7)
    assert first.values == {"units": 512, "rate": 0.01}
    assert summary.counts == {status: 1 for status in TrialStatus}
    assert [(f.number, f.reason) for f in summary.failures] == [
        (2, "loss is nan"),
        (3, "ValueError: no\n  line 3"),
    ]
    lowest = results_summary(TRIALS, Objective("val_loss"), 2)
    assert [row.number for row in lowest.rows] == [0, 1]
    assert sum(lowest.counts.values()) == 5 and len(lowest.failures) == 2


def test_a_summary_does_not_change_afterwards():
    values = {"units": 32}
    summary = results_summary([Trial(0, values)], ACCURACY)
    values["units"] = 64
    assert summary.rows[0].values == {"units": 32}
    with pytest.raises(dataclasses.FrozenInstanceError):
        summary.rows = ()  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("num_trials", [0, -3, True])
def test_a_number_of_trials_that_is_none_is_refused(num_trials):
    with pytest.raises(ValueError, match=r"`results_summary\(num_trials=...\)`"):
        results_summary(TRIALS, ACCURACY, num_trials)


def test_the_plain_form():
    assert str(results_summary(TRIALS, ACCURACY)).splitlines() == [
        "5 trials (1 running, 1 pruned, 1 completed, 1 diverged, 1 failed), "
        "largest val_accuracy first",
        "trial   score  status     epochs  best epoch  units  rate     kind",
        "-----  ------  ---------  ------  ----------  -----  -------  ----",
        "    1  0.8912  completed       9           7  512    0.01",
        "    0  0.7100  pruned          2           2  32     0.00031",
        "    2       -  diverged        3           -  64",
        "    4     nan  running         1           1  64              a",
        "    3       -  failed          0           -",
        "trial 2 diverged: loss is nan",
        "trial 3 failed: ValueError: no\\n  line 3",
    ]


def test_many_hyperparameters_share_a_column():
    values = {f"a_rather_long_name_{i}": 0.5 for i in range(9)}
    summary = results_summary([Trial(0, values, score=0.5)], ACCURACY)
    header = str(summary).splitlines()[1]
    assert header.split() == [
        "trial",
        "score",
        "status",
        "epochs",
        "best",
        "epoch",
        "values",
    ]
    assert "a_rather_long_name_8=0.5" in str(summary)
    assert all(len(line) <= 60 for line in shown(summary, 60).splitlines())
    assert "a_rather_long_name_8</th>" in summary.html()


def test_many_failures_are_counted():
    trials = [Trial(n, {}, TrialStatus.FAILED, reason="no") for n in range(9)]
    summary = results_summary(trials, ACCURACY)
    assert len(summary.failures) == 9
    assert str(summary).splitlines()[-1] == "... and 4 more failed or diverged"


def test_no_trials():
    summary = results_summary([], ACCURACY)
    assert str(summary) == "0 trials, largest val_accuracy first"
    assert summary.rows == summary.failures == ()
    assert "0 trials" in shown(summary) and "<table" not in summary.html()


def test_hostile_names_and_values_are_shown_as_they_are():
    name, value = "[red]<b>&\n", "\x1b[2J</td>" + "🚀" * 500
    trial = Trial(0, {name: value}, TrialStatus.FAILED, reason="[/]<script>\x1b[0m")
    summary = results_summary([trial], Objective(name, direction="max"))
    for text in (str(summary), shown(summary)):
        assert "[red]<b>&\\n" in text and "\\x1b[2J</td>" in text
        assert "\x1b" not in text
        assert "[/]<script>" in text
    html = summary.html()
    assert "<script>" not in html and "<b>" not in html and "\x1b" not in html
    assert "[red]&lt;b&gt;&amp;\\n" in html


def space():
    hp = HyperParameters()
    hp.Int("units", 32, 512, step=32)
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log")
    hp.Int("size", 1, 64, step=2, sampling="log", default=8)
    hp.Choice("activation", ["relu", "tanh"])
    hp.Choice("many", list(range(100)))
    hp.Boolean("norm", default=True)
    hp.Fixed("classes", 10)
    return hp.parameters


def test_the_space():
    summary = search_space_summary(space())
    assert [row.name for row in summary.rows] == [p.name for p in space()]
    assert str(summary).splitlines()[3:] == [
        "units          Int      32 to 512, step 32                   linear    32",
        "learning_rate  Float    0.0001 to 0.01                       log       0.0001",
        "size           Int      1 to 64, factor 2                    log       8",
        "activation     Choice   relu, tanh                                     relu",
        "many           Choice   0, 1, 2, 3, 4, ..., 99 (100 values)            0",
        "norm           Boolean  False, True                                    True",
        "classes        Fixed    10                                             10",
    ]
    assert "learning_rate" in shown(summary) and "<td" in summary.html()
    assert repr(summary) == "<SearchSpaceSummary: 7 hyperparameters>"
    assert str(search_space_summary([])) == "0 hyperparameters"


def test_what_is_printed_is_returned():
    summary = results_summary(TRIALS, ACCURACY)
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert print_summary(summary, Console(file=file)) is summary
    file.seek(0)
    assert file.read() == f"{summary}\n"
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    assert print_summary(summary, terminal) is summary
    assert isinstance(terminal.file, io.StringIO)
    assert "0.8912" in terminal.file.getvalue()
