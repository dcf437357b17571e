"""The example runs wherever a user may type it: in a script, a notebook, a pipe.

The short form, with fewer epochs, runs each time; `pytest -m ci` runs it as it stands.
"""

import re
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest


EXAMPLE = (Path(__file__).parent / "example.txt").read_text(encoding="utf-8")
SHORT = EXAMPLE.replace("epochs=10", "epochs=3")

lengths = pytest.mark.parametrize(
    "source",
    [
        pytest.param(SHORT, id="short"),
        pytest.param(EXAMPLE, id="whole", marks=pytest.mark.ci),
    ],
)


def check(text, source):
    """Whether what a run wrote tells what a person needs to know."""
    assert "stored in " in text
    accuracy = float(re.findall(r"best epoch: (\S+)", text)[-1])
    assert accuracy > (0.9 if source is EXAMPLE else 0.2)
    assert "Traceback" not in text


@pytest.mark.ci
@lengths
def test_the_example_runs_as_a_script(source, tmp_path):
    (tmp_path / "example.py").write_text(source, encoding="utf-8")
    check(run([sys.executable, "example.py"], tmp_path), source)


@pytest.mark.ci
@lengths
def test_the_example_runs_from_the_command_line_into_a_pipe(source, tmp_path):
    text = run([sys.executable, "-c", source], tmp_path)
    check(text, source)
    # A pipe gets plain lines: nothing that moves a cursor or sets a colour.
    assert "\x1b" not in text and "\r" not in text


@pytest.mark.ci
@lengths
def test_the_example_runs_in_a_notebook(source, tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in source.split("# %%\n")]
    )
    client = nbclient.NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    check("\n".join(texts(notebook)), source)


def run(command, folder):
    """Runs a program with its output piped, and returns all that it wrote."""
    done = subprocess.run(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def texts(notebook):
    """What a person reads below the cells of an executed notebook."""
    for cell in notebook.cells:
        for output in cell.outputs:
            data = output.get("data", {})
            yield output.get("text", "") + data.get("text/plain", "")
            yield re.sub(r"<[^>]+>", " ", data.get("text/html", ""))
