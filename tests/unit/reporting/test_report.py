"""The report is one page that needs no network, for complete and for incomplete runs."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowers.reporting.curves import read_curves
from flowers.reporting.report import make_report, write_report
from flowers.training.runs import Run
from tests.unit.training.test_outcomes import make_outcomes


class Data(L.LightningDataModule):
    """Returns a different image for each place."""

    eval_size = 32

    def images(self, split: str, places: list[int]) -> list[NDArray[np.uint8]]:
        assert split == "val"
        return [np.full((32, 32, 3), place % 256, np.uint8) for place in places]


class Model(L.LightningModule):
    def forward(self, image: Tensor) -> Tensor:
        return image.float().mean(dim=(1, 2))[:, [0, 1, 2, 0, 1, 2, 0]] * torch.arange(7)


class Page(HTMLParser):
    """Collects a page's ids, links and images, and its text outside of scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.text = ""
        self._silent = 0
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids |= {values["id"] or ""} if "id" in values else set()
        self.links += [values[name] or "" for name in ("src", "href") if name in values]
        self.images += [values] if tag == "img" else []
        self._silent += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        self.text += "" if self._silent else data


def write_run(directory: Path) -> Run:
    (directory / "config.yaml").write_text("data: {}\nmodel: {backbone: small_net}\n")
    (directory / "metrics-until-1.csv").write_text("epoch,step,train/loss,val/loss\n0,9,2.5,\n0,9,,2.25\n")
    (directory / "metrics.csv").write_text("epoch,step,train/loss,val/loss,train/loss_step\n1,19,1.5,1.25,\n2,25,,,9\n")
    return Run(directory)


def write_page(run: Run, *contents: Any) -> Page:
    """Write a report, and read it back."""
    path = run.directory / "report" / "index.html"
    write_report(make_report(run, *contents), path)
    return Page(path)


SECTIONS = {"curves", "classes", "matrix", "pairs", "mistakes", "labels", "trust", "again"}
METRICS = {"val/macro_f1": 0.5, "train/images_per_second": 33.0}


def test_the_page_has_every_section_and_fetches_nothing(tmp_path: Path) -> None:
    page = write_page(
        write_run(tmp_path), METRICS, "val/macro_f1", make_outcomes(), Model(), Data(), "python src/train.py a=1"
    )
    assert page.ids >= SECTIONS
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert len(page.images) > 20
    assert all(image["alt"] and str(image["src"]).startswith("data:image/jpeg;base64,") for image in page.images)
    assert "python src/train.py a=1" in page.text and "backbone: small_net" in page.text
    assert "small_net at 32 px" in page.text
    targets = {link[1:] for link in page.links if link.startswith("#")}
    assert targets <= page.ids


def test_a_run_without_predictions_or_images_has_the_other_sections(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    page = write_page(run, {"val/error": 0.25}, "val/error", None, Model(), L.LightningDataModule(), "train")
    assert page.ids & SECTIONS == {"curves", "again"}
    assert "val/error" in page.text and "0.2500" in page.text
    page = write_page(run, METRICS, "val/loss", make_outcomes(), Model(), L.LightningDataModule(), "train")
    assert page.images == []
    assert page.ids >= {"classes", "matrix", "mistakes", "trust"}


def test_class_names_are_escaped(tmp_path: Path) -> None:
    names = ["<script>alert(1)</script>", *make_outcomes().class_names[1:]]
    outcomes = dataclasses.replace(make_outcomes(), class_names=names)
    page = write_page(write_run(tmp_path), METRICS, "val/loss", outcomes, Model(), Data(), "a && b")
    assert "<script>alert" not in (tmp_path / "report" / "index.html").read_text()
    assert "a && b" in page.text


def test_curves_continue_after_a_run_is_resumed(tmp_path: Path) -> None:
    curves = read_curves(write_run(tmp_path))
    assert (curves["loss"]["train"].epochs, curves["loss"]["train"].values) == ([1, 2], [2.5, 1.5])
    assert curves["loss"]["val"].values == [2.25, 1.25]
    assert re.match("loss_step", next(name for name in curves if name.endswith("_step")))
