"""Every cell of the notebooks runs on the tiny garden and the tiny run, and shows the described output."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from flowers.reporting.gallery import Gallery
from tests.helpers.commands import ROOT, run_script

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TOURS = [path for path in NOTEBOOKS if path.stem[:2].isdigit()]
NO_WORKERS = "data.num_workers=0"


class NotebookRun:
    """A notebook whose cells have run: its variables, and what Jupyter would show for the last line of each cell."""

    def __init__(self, name: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        """Run the cells of a notebook in its directory. `settings` replace what its first cell sets."""
        monkeypatch.chdir(ROOT / "notebooks")
        self.cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
        self.code = [cell.source for cell in self.cells if cell.cell_type == "code"]
        self.variables: dict[str, Any] = {"__name__": "__main__"}
        self.shown = [self._run(self.code[0])]
        assert settings.keys() <= self.variables.keys()
        self.variables |= settings
        self.shown += [self._run(source) for source in self.code[1:]]

    def _run(self, source: str) -> Any:
        *before, last = ast.parse(source).body
        if not isinstance(last, ast.Expr):
            exec(source, self.variables)
            return None
        exec(compile(ast.Module(before, []), "cell", "exec"), self.variables)
        return eval(compile(ast.Expression(last.value), "cell", "eval"), self.variables)

    def of(self, kind: type[Any]) -> list[Any]:
        """Return the shown values of one type, in order."""
        return [value for value in self.shown if isinstance(value, kind)]

    def images(self) -> list[int]:
        """Return the number of images in the HTML of each gallery."""
        return [gallery._repr_html_().count('<img src="data:image/jpeg;base64,') for gallery in self.of(Gallery)]


def test_the_data_notebook_shows_counts_images_and_variants(garden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["data=tfrecords", f"data.root={garden}", "model.backbone=test_efficientnet", "data.batch_size=12"]
    ran = NotebookRun("01_look_at_the_data", {"SETTINGS": settings, "IMAGES": 10, "VARIANTS": 5}, monkeypatch)
    (stored,) = ran.of(pd.DataFrame)
    assert [(row.split, row.image_size, row.records) for row in stored.itertuples()] == [
        *(("train", 192, 208), ("train", 224, 208)),
        *(("val", 192, 104), ("val", 224, 104)),
        *(("test", 192, 72), ("test", 224, 72)),
    ]
    (counts,) = ran.of(go.Figure)
    assert {bars.name: sum(bars.y) for bars in counts.data} == {"train": 208, "val": 104}
    # The contact sheet, two resolutions and their middles, the original and its variants, a batch, and the batch mixed.
    assert ran.images() == [10, 2, 2, 1 + 5, 8, 4 * 8]
    assert len({image.tobytes() for image in ran.variables["variants"]}) == 5
    plain = ran.variables["batch"]["image"][:8].numpy()
    assert all((images != plain).any() for images in ran.variables["mixed"])


def test_the_mistakes_notebook_shows_curves_confusions_and_images(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"RUN": str(trained), "SETTINGS": ["trainer=cpu", NO_WORKERS], "CLASS": "wild rose"}
    ran = NotebookRun("02_look_at_the_mistakes", settings, monkeypatch)
    metrics = json.loads((trained / "metrics.json").read_text())
    headlines = ran.of(pd.DataFrame)[0].set_index("name")["value"]
    assert headlines["macro F1"] == f"{metrics['val/macro_f1']:.3f}"
    curves, confusion, reliability = ran.of(go.Figure)
    assert {title.text for title in curves.layout.annotations} >= {"loss", "accuracy", "macro f1"}
    assert sum(np.nansum(np.array(layer.z, float)) for layer in confusion.data) == 104
    assert reliability.data
    wild_roses = ran.variables["data"].class_names.index("wild rose")
    of_class, pairs, mistakes, label_errors = ran.images()
    assert of_class == (ran.variables["outcomes"].labels == wild_roses).sum() > 0
    assert pairs >= 8  # at least one image per pair
    assert mistakes == 2 * 12  # with saliency
    assert label_errors == len(ran.variables["report"].label_errors)


def test_the_model_notebook_trains_the_model_that_it_defines(
    garden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = ["data=tfrecords", f"data.root={garden}", "data.train_size=32", "data.eval_size=32", "data.batch_size=16"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    ran = NotebookRun("03_own_model", {"SETTINGS": ours, "EPOCHS": 1, "BATCHES": 2, "IMAGES": 6}, monkeypatch)
    assert ran.variables["trainer"].global_step == 2
    assert len(ran.variables["outcomes"].labels) == 104
    assert ran.images() == [6]

    # As its last section describes: the cell with the class is a module, and the command trains it with the settings.
    (module,) = (source for source in ran.code if "class SmallNet" in source)
    text = "\n".join(cell.source for cell in ran.cells if cell.cell_type == "markdown")
    (settings,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (command,) = re.findall(r"^python src/train.py (.+)$", text, re.MULTILINE)
    (tmp_path / "small_net.py").write_text(module)
    file = tmp_path / "configs" / "model" / "small_net.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(settings)
    short = ["trainer=cpu", "trainer.max_epochs=1", "+trainer.limit_train_batches=2", "logger=csv", NO_WORKERS]
    arguments = ["--config-dir", str(tmp_path / "configs"), *command.split(), *ours, *short]
    done = run_script("train", *arguments, f"hydra.run.dir={tmp_path}/run", cwd=tmp_path)
    sys.modules.pop("small_net", None)
    assert done.returncode == 0, done.stderr
    assert "val/accuracy" in json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert "Worst mistakes" in (tmp_path / "run" / "report" / "index.html").read_text()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_outputs_are_stored(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


@pytest.mark.parametrize("path", TOURS, ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_to_files(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        for target in re.findall(r"\]\(([^)#]+)", cell.source) if cell.cell_type == "markdown" else ():
            assert (path.parent / target).is_file(), target


@pytest.mark.parametrize("page", ["README.md", "docs/look.md"])
def test_pages_name_every_notebook(page: str) -> None:
    named = set(re.findall(r"notebooks/(\d\w+\.ipynb)", (ROOT / page).read_text()))
    assert named == {path.name for path in TOURS}
