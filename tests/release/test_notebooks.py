"""The notebooks run from top to bottom, and are kept without what they print."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples" / "notebooks"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_its_outputs(path: Path) -> None:
    book = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert "".join(book["cells"][0]["source"]).startswith("# ")
    assert book["metadata"]["kernelspec"]["name"] == "python3"


@pytest.mark.docs
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of its own, with the commands of this environment."""
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    shutil.copy(path, tmp_path)
    book = nbformat.read(tmp_path / path.name, as_version=4)
    NotebookClient(book, timeout=1500, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not any("Traceback" in str(output) or "\nsipo: " in str(output) for output in shown)
    if path.stem == "one-knob":
        assert any("image/png" in output.get("data", {}) for output in shown)
    else:
        assert "adapter_model.safetensors" in str(shown[-1]) and "over base" in str(shown)
