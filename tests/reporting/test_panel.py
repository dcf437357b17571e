"""The picture of a search: what is in it, and that it fits."""

import math

import pytest
from hypothesis import given, settings, strategies as st
from rich.cells import cell_len
from rich.text import Text

from vtune.reporting.drawing import bar, ends, pack, sparkline
from vtune.reporting.panel import draw
from vtune.reporting.progress import Progress, Tick
from vtune.trial import Objective, Trial, TrialStatus


ACCURACY = Objective("val_accuracy")


def picture(progress: Progress, width: int = 100, height: int = 40) -> str:
    return "\n".join(line.plain for line in draw(progress, width=width, height=height))


@pytest.mark.parametrize(
    "values, width, drawn",
    [
        ([], 5, ""),
        ([1.0], 5, "▄"),
        ([0.0, 1.0], 5, "▁█"),
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 8, "▁▂▃▄▅▆▇█"),
        ([0.0, 9.0, 1.0, 9.0, 2.0, 9.0], 3, "▄▄▄"),
        ([1.0, math.nan, 3.0, math.inf], 4, "▁ █ "),
        ([math.nan, math.nan], 4, "  "),
        ([-1.7e308, 1.7e308], 4, "▁█"),
    ],
)
def test_sparkline(values, width, drawn):
    assert sparkline(values, width) == drawn


@given(st.lists(st.floats()), st.integers(1, 40))
def test_a_sparkline_shows_the_last_value_and_fits(values, width):
    drawn = sparkline(values, width)
    assert len(drawn) == min(len(values), width)
    if values:
        assert (drawn[-1] == " ") == (not math.isfinite(values[-1]))


@pytest.mark.parametrize(
    "fraction, failed, drawn",
    [
        (0.0, 0.0, "────"),
        (0.001, 0.0, "╸───"),
        (0.5, 0.0, "━━──"),
        (0.625, 0.0, "━━╸─"),
        (0.999, 0.0, "━━━╸"),
        (1.0, 0.0, "━━━━"),
        (1.0, 0.25, "━━━╍"),
        (0.25, 0.01, "━──╍"),
        (1.0, 1.0, "╍╍╍╍"),
    ],
)
def test_bar(fraction, failed, drawn):
    assert bar(fraction, 4, "cyan", failed=failed).plain == drawn


@given(st.lists(st.text("ab字", max_size=6)), st.integers(12, 40))
def test_packed_pieces_keep_their_order_and_fit(pieces, width):
    lines = pack([Text(piece) for piece in pieces], width, Text("|"))
    assert all(line.cell_len <= width for line in lines)
    assert "".join(line.plain for line in lines).replace("|", "") == "".join(pieces)


def test_two_ends_of_a_line():
    left, right = Text("left"), Text("right")
    assert [line.plain for line in ends(left, right, 12)] == ["left   right"]
    assert [line.plain for line in ends(left, right, 10)] == ["left", "right"]


def test_a_search_in_its_middle(search):
    running = search(fails={3: 0, 100: 2})
    for _ in range(5):
        running.tick()
    drawn = picture(running.progress(seconds=83.0))
    lines = [line.strip() for line in drawn.splitlines()]
    assert lines[0].startswith("vtune  maximises val_accuracy")
    assert lines[0].endswith("training · 64 lanes · 3 programs")
    assert "best -0.0580  trial 142 after 5 epochs" in drawn
    assert "units 32   learning_rate 0.00031" in drawn
    assert lines[2].endswith("▁▅▇██")
    (head,) = (line for line in lines if line.startswith("epochs"))
    assert head.split() == ["epochs", "1", "3", "9", "27", "81"]
    rows = [line.split() for line in lines if line.startswith("bracket")]
    counts = [[cell for cell in row[2:] if cell.isdigit()] for row in rows]
    assert counts == [
        ["81", "27", "9", "3", "1"],
        ["34", "11", "3", "1"],
        ["15", "5", "1"],
        ["8", "2"],
        ["5"],
    ]
    assert "1:23 elapsed" in drawn
    assert "trial-steps/s" in drawn and " left" in drawn
    assert "2 diverged" in drawn


def test_a_style_ends_where_its_text_ends(search):
    running = search(fails={0: 2})
    running.tick()
    for line in draw(running.progress(), width=100, height=40):
        assert not line.style
        covered = sorted((span.start, span.end) for span in line.spans if span.style)
        for (_, end), (start, _) in zip(covered, covered[1:], strict=False):
            assert end <= start


def test_each_cell_stands_under_its_budget(search):
    lines = picture(search().progress()).splitlines()
    (head,) = (line for line in lines if line.strip().startswith("epochs"))
    (last,) = (line for line in lines if line.strip().startswith("bracket 5"))
    assert head.index("81") == last.index("5", 12)


@pytest.mark.parametrize("width", [24, 60, 200])
@pytest.mark.parametrize("ticks", [0, 5, 90])
def test_a_picture_fits_its_screen(search, width, ticks):
    running = search([rungs for _ in range(4) for rungs in search().plan])
    for _ in range(ticks):
        running.tick()
    lines = draw(running.progress(), width=width, height=24)
    assert max(line.cell_len for line in lines) <= width
    assert len(lines) <= 24
    if width > 24:
        (left_out,) = (line.plain for line in lines if "more brackets" in line.plain)
        assert left_out.endswith("ended" if ticks == 90 else "at work")


def test_brackets_at_work_are_shown_before_others(search):
    plan = [[(1, 1)], [(1, 2)], [(2, 9), (1, 27)], [(1, 9)]]
    running = search(plan)
    running.tick()
    running.tick()
    running.trials.pop()
    drawn = picture(running.progress(), height=13)
    assert "bracket 3" in drawn
    assert "… 3 more brackets: 2 ended, 1 waiting" in drawn


def test_many_budgets_show_those_around_the_present(search):
    rungs = [(2 ** (12 - i), 2**i) for i in range(13)]
    progress = search([rungs]).progress(trials=(Trial(0, {}, budget=256, epoch=130),))
    lines = picture(progress, width=60).splitlines()
    (head,) = (line for line in lines if "256 epochs" in line or " 256" in line)
    assert "4,096" in head and "1 epoch" not in head


def test_before_anything_is_known():
    drawn = picture(Progress(ACCURACY, phase="tracing 1 of 22"))
    assert "tracing 1 of 22" in drawn
    assert "no score yet" in drawn
    assert "no trials yet" in drawn
    assert "left" not in drawn


def test_all_failed():
    trials = [Trial(n, {"a": 1}, status=TrialStatus.FAILED, budget=2) for n in range(3)]
    progress = Progress(ACCURACY, trials=trials, brackets=[[(3, 2), (1, 4)]])
    drawn = picture(progress)
    assert "no score yet" in drawn and "3 failed" in drawn and "╍" in drawn


def test_the_last_picture_promises_nothing(search):
    running = search([[(4, 2), (2, 6)]])
    while running.tick():
        pass
    drawn = picture(running.progress(finished=True, phase=""))
    assert "16 trial-epochs" in drawn
    assert "2 pruned" in drawn and "2 completed" in drawn
    for word in ("%", "left", "lanes", "running"):
        assert word not in drawn


def test_a_search_of_unknown_length():
    trials = [Trial(n, {}, budget=4, epoch=2, score=0.5) for n in range(37)]
    progress = Progress(
        ACCURACY, trials=trials, brackets=[[(None, 4)]], ticks=[Tick(37, 1.0)]
    )
    drawn = picture(progress)
    assert "74 trial-epochs" in drawn and "%" not in drawn


hostile = st.text(
    st.characters() | st.sampled_from("\n\r\x1b[]/字🚀\u0301\u202e"), max_size=99
)
numbers = st.floats() | st.integers() | st.booleans()
facts = st.fixed_dictionaries(
    {
        "number": st.integers(0, 99),
        "values": st.dictionaries(hostile, numbers | hostile, max_size=9),
        "status": st.sampled_from(TrialStatus),
        "bracket": st.integers(0, 4),
        "budget": st.integers(0, 9),
        "epoch": st.integers(0, 9),
        "metrics": st.fixed_dictionaries(
            {"val_accuracy": st.lists(st.floats(), max_size=9).map(tuple)}
        ),
        "score": st.none() | st.floats(),
        "best_epoch": st.none() | st.integers(1, 9),
        "reason": st.none() | hostile,
    }
)


@settings(max_examples=60)
@given(
    st.lists(facts, max_size=4),
    st.lists(
        st.lists(st.tuples(st.none() | st.integers(1, 99), st.integers(1, 9))),
        max_size=4,
    ),
    hostile,
    st.integers(24, 120),
)
def test_no_record_breaks_the_picture(trials, brackets, phase, width):
    progress = Progress(
        Objective("val_accuracy"),
        trials=[Trial(**fact) for fact in trials],
        brackets=brackets,
        phase=phase,
        ticks=[Tick(3, 0.5), Tick(2, 0.0)],
        steps_per_epoch=10,
    )
    for line in draw(progress, width=width, height=24):
        assert line.plain.isprintable()
        assert cell_len(line.plain) <= width
