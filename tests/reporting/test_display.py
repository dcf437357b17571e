"""Displays: which one is opened, and that none of them harms a search."""

import io
import json
import re
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import nbformat
import pytest
import rich
from nbclient import NotebookClient
from rich.console import Console

from vtune.reporting import notebook
from vtune.reporting.display import LiveDisplay, SilentDisplay, open_display
from vtune.reporting.lines import PlainDisplay
from vtune.reporting.progress import Progress, Tick
from vtune.reporting.surfaces import NotebookSurface, TerminalSurface
from vtune.trial import Objective, Trial


ROOT = Path(__file__).parents[2]
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def terminal(width: int = 100) -> Console:
    return Console(
        file=io.StringIO(),
        force_terminal=True,
        width=width,
        height=40,
        _environ={"TERM": "xterm-256color"},
    )


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def plain_console() -> Console:
    return Console(file=io.StringIO(), width=80)


@pytest.mark.parametrize(
    "verbose, console, kind",
    [
        (0, terminal(), SilentDisplay),
        (1, terminal(), LiveDisplay),
        (True, terminal(), LiveDisplay),
        (2, terminal(), PlainDisplay),
        (1, plain_console(), PlainDisplay),
        (1, Console(force_jupyter=True), LiveDisplay),
        (2, Console(force_jupyter=True), PlainDisplay),
        (1, Console(force_terminal=True, _environ={"TERM": "dumb"}), PlainDisplay),
    ],
)
def test_the_place_decides_on_the_display(verbose, console, kind):
    assert isinstance(open_display(verbose, console), kind)


@pytest.mark.parametrize("verbose", [-1, 3])
def test_another_verbosity_is_refused(verbose):
    with pytest.raises(ValueError, match=f"`verbose` is 0 .* got {verbose}"):
        open_display(verbose)


def test_silence(search, capsys):
    console = terminal()
    with open_display(0, console) as display:
        display.update(search().progress(notes=("hear me",)))
        display.note("hear me")
    assert written(console) == ""
    assert capsys.readouterr() == ("", "")


# ------------------------------------------------------------------ in a terminal


def test_a_live_display_shows_the_last_record_and_the_notes(search):
    console, running = terminal(), search()
    with open_display(1, console) as display:
        while running.tick():
            display.update(running.progress(notes=("one", "two")))
        display.note("a [bold]warning[/]\x1b[2J")
        display.update(running.progress(notes=("one", "two"), finished=True))
    shown = ESCAPES.sub("", written(console))
    assert "best 0.1297  trial 142 after 81 epochs" in shown
    assert "a [bold]warning[/]\\x1b[2J" in shown
    assert shown.count("one\n") == shown.count("two\n") == 1
    assert shown.endswith("\n")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_the_terminal_is_restored_after_an_error(search, error):
    console, before = terminal(), (sys.stdout, sys.stderr)
    with pytest.raises(error):
        with open_display(1, console) as display:
            display.update(search().progress())
            raise error
    shown = written(console)
    assert HIDE in shown
    assert shown.rindex(SHOW) > shown.rindex(HIDE)
    assert (sys.stdout, sys.stderr) == before
    assert not any(t.name == "vtune-display" for t in threading.enumerate())


def test_a_live_display_draws_by_itself_and_the_clock_goes_on(search):
    console = terminal()
    with open_display(1, console) as display:
        display.update(search().progress(seconds=59.0))
        deadline = time.monotonic() + 10
        while "1:00 elapsed" not in written(console) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "0:59 elapsed" in written(console)
        assert "1:00 elapsed" in written(console)


def test_updating_is_cheap(search):
    progress = search().progress()
    with open_display(1, terminal()) as display:
        started = time.perf_counter()
        for _ in range(1000):
            display.update(progress)
        seconds = time.perf_counter() - started
    assert seconds < 1.0


def test_a_live_display_survives_a_record_that_cannot_be_drawn(search, capsys):
    broken = Progress(Objective("val_accuracy"), trials=(Trial(0, {}, score=0.5),))
    object.__setattr__(broken, "trials", None)
    console = terminal()
    with open_display(1, console) as display:
        display.update(broken)
        time.sleep(0.5)
        display.note("not shown any more")
        display.update(search().progress())
    assert written(console).rindex(SHOW) > written(console).rindex(HIDE)
    assert "The display stopped, the search goes on. Type" in capsys.readouterr().out


def test_a_live_display_survives_a_terminal_that_is_gone(search):
    console = terminal()
    with open_display(1, console) as display:
        assert isinstance(console.file, io.StringIO)
        console.file.close()
        display.update(search().progress())
        display.note("nobody reads this")


def test_closing_twice_is_closing_once(search):
    console = terminal()
    with open_display(1, console) as display:
        display.update(search().progress())
        display.close()
        once = written(console)
    assert written(console) == once


def test_prints_pass_above_the_picture(search, monkeypatch):
    console = terminal()
    monkeypatch.setattr(sys, "stdout", console.file)
    monkeypatch.setattr(console.file, "isatty", lambda: True, raising=False)
    with LiveDisplay(TerminalSurface(console)) as display:
        display.update(search().progress())
        print("[red]from a callback[/]")
    assert "[red]from a callback[/]\n" in ESCAPES.sub("", written(console))


# ------------------------------------------------------------------ plain lines


def test_plain_lines_tell_the_whole_story(search):
    console, running = plain_console(), search([[(4, 2), (2, 6)], [(3, 6)]])
    with open_display(1, console) as display:
        display.update(running.progress(notes=("not stored",)))
        while running.tick():
            display.update(running.progress(notes=("not stored",)))
        display.update(running.progress(finished=True))
    assert written(console).splitlines() == [
        "not stored",
        "vtune maximises val_accuracy: 7 trials in 2 brackets, of up to 6 epochs",
        "[0:01] bracket 1, 2 epochs: 2 of 4 trials go on; "
        "best val_accuracy -0.4940 (trial 6)",
        "[0:04] bracket 1, 6 epochs: 2 of 2 trials completed; "
        "best val_accuracy -0.1607 (trial 6)",
        "[0:04] bracket 2, 6 epochs: 3 of 3 trials completed; "
        "best val_accuracy -0.1607 (trial 6)",
        "[0:04] 7 trials (2 pruned, 5 completed), 34 trial-epochs; "
        "best val_accuracy -0.1607 (trial 6)",
    ]


def test_plain_lines_become_rarer(search):
    console, running, seconds = plain_console(), search([[(1, 100_000)]]), 0
    with open_display(1, console) as display:
        for _ in range(3000):
            seconds += 1
            trial = Trial(0, {}, budget=100_000, epoch=seconds)
            record = running.progress(
                trials=(trial,), ticks=[Tick(1, 1.0)] * 20, seconds=float(seconds)
            )
            display.update(record)
    lines = written(console).splitlines()
    clocks = [line[1 : line.index("]")] for line in lines[1:-1]]
    assert clocks[:3] == ["0:06", "0:11", "0:16"]
    assert 100 < len(clocks) < 250
    assert "of 100k trial-epochs, no score yet, 100 trial-steps/s, about" in lines[-2]


def test_plain_lines_hold_no_control_codes(search):
    console, running = plain_console(), search([[(2, 2)]])
    with open_display(1, console) as display:
        display.note("a\r\x1b[31mb\nc")
        while running.tick():
            objective = Objective("\x1b[2J\n[bold]", direction="max")
            display.update(running.progress(objective=objective, phase="\r\x1b"))
    shown = written(console)
    assert "\x1b" not in shown and "\r" not in shown
    assert "a\\r\\x1b[31mb\\nc\n" in shown


def test_plain_lines_suit_any_encoding(search):
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with open_display(1, Console(file=file)) as display:
        display.note("naïve 🚀")
    file.seek(0)
    assert file.read() == "na?ve ?\n"


def test_plain_lines_survive_a_closed_file_and_a_broken_record(search):
    console = plain_console()
    broken = search().progress()
    object.__setattr__(broken, "trials", None)
    with open_display(1, console) as display:
        display.update(broken)
        assert "No line on the progress: Type" in written(console)
        console.file.close()
        display.update(search().progress())
        display.note("nobody reads this")


def test_output_to_a_pipe_is_plain_even_where_colour_is_forced():
    program = (
        "from vtune.reporting.display import open_display\n"
        "from vtune.reporting.progress import Progress\n"
        "from vtune.trial import Objective\n"
        "with open_display(1) as display:\n"
        "    display.update(Progress(Objective('val_accuracy')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        cwd=ROOT,
        env={"FORCE_COLOR": "1", "TERM": "xterm", "PATH": ""},
        check=True,
    )
    assert done.stdout.splitlines() == [
        b"vtune maximises val_accuracy",
        b"[0:00] 0 trials, 0 trial-epochs; no score yet",
    ]
    assert done.stderr == b""


# ------------------------------------------------------------------ in a notebook


def test_a_notebook_replaces_one_output(search, monkeypatch):
    published = []

    def publish(html, plain, handle=None):
        published.append((html, plain, handle))
        return "handle"

    monkeypatch.setattr("vtune.reporting.surfaces.publish", publish)
    surface = NotebookSurface(Console(force_jupyter=True, width=90))
    running = search()
    running.trials[0] = Trial(0, {"<b>": "</pre><script>"}, budget=1, score=1.0)
    with LiveDisplay(surface) as display:
        display.update(running.progress())
        display.note("<i>a note</i>")
    handles = [handle for _, _, handle in published]
    assert handles[0] is None and set(handles[1:]) == {"handle"}
    html, plain, _ = published[-1]
    assert "maximises" in html and "&lt;i&gt;a note&lt;/i&gt;" in html
    assert "<script>" not in html and "<b>" not in html
    assert "<b> </pre><script>" in plain and "\x1b" not in plain


CELLS = [
    """
import sys, warnings
warnings.simplefilter("error")
from vtune.reporting.display import open_display
from vtune.reporting.progress import Progress, Tick
from vtune.reporting.summary import print_summary, results_summary
from vtune.trial import Objective, Trial
objective = Objective("val_accuracy")
trials = [Trial(0, {"units": 32}, budget=2, epoch=1, score=0.8912)]
with open_display(1) as display:
    display.update(Progress(objective, trials=trials, phase="training"))
    display.note("a note")
    import time; time.sleep(1.5)
    display.update(Progress(objective, trials=trials, finished=True, seconds=83.0))
""",
    "print_summary(results_summary(trials, objective))",
    "summary = print_summary(results_summary(trials, objective))",
    "summary",
]


@pytest.fixture(scope="module")
def outputs():
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    book = nbformat.v4.new_notebook(cells=cells)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        resources = {"metadata": {"path": str(ROOT)}}
        NotebookClient(
            book, timeout=60, kernel_name="python3", resources=resources
        ).execute()
    return [cell.outputs for cell in book.cells]


def test_an_executed_notebook_holds_the_last_picture(outputs):
    (output,) = outputs[0]
    shown = json.dumps(output["data"])
    assert "0.8912" in shown and "1:23 elapsed" in shown and "a note" in shown
    assert output["data"]["text/html"].startswith("<pre")


def test_a_printed_summary_appears_once_in_its_cell_and_again_when_asked_for(outputs):
    printed, value = outputs[1]
    assert "<table>" in printed["data"]["text/html"]
    assert value["data"].keys() == {"text/plain"}
    assert value["data"]["text/plain"].startswith("<ResultsSummary: 1 trial")
    assert len(outputs[2]) == 1
    (asked,) = outputs[3]
    assert "<table>" in asked["data"]["text/html"]


def test_outside_a_notebook_nothing_counts_as_printed():
    assert not notebook.was_printed(object())
    assert not rich.get_console().is_jupyter
