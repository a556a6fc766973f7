"""The notebooks of docs/notebooks run from their first cell to their last; where their packages are: pip install 'opengato[notebooks]'."""

import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def test_there_are_four_without_outputs():
    import json

    assert [book.stem for book in BOOKS] == ["captions", "mixture", "new-task", "pretrain"]
    for book in BOOKS:
        code = [cell for cell in json.loads(book.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
        assert len(code) >= 4 and not any(cell["outputs"] or cell["execution_count"] for cell in code)


@pytest.mark.slow  # a minute or two each
@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_a_notebook_runs_and_its_commands_succeed(book, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="notebooks were not run: pip install 'opengato[notebooks]'")
    pytest.importorskip("ipykernel", reason="notebooks were not run: pip install 'opengato[notebooks]'")
    import nbformat

    (tmp_path / "samples").mkdir()
    for name in ("text.parquet", "pictures.parquet"):
        shutil.copy(ROOT / "samples" / name, tmp_path / "samples")
    monkeypatch.delenv("GATO_HOME", raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(book, as_version=4)
    for cell in notebook.cells:  # a command that fails would not stop a notebook
        if cell.cell_type == "code" and "\n!gato " in f"\n{cell.source}":
            cell.source += "\nassert _exit_code == 0"
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
