"""A configuration is planned as a list of trainings, and finished ones are not repeated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from benchmarks.recipes import run
from benchmarks.recipes.baselines.default import make_overrides
from benchmarks.recipes.plan import Ablation, RecipeData, RecipeSettings, make_plan
from benchmarks.recipes.process import TrainingFailed
from benchmarks.recipes.result import Predictions, result_path
from benchmarks.recipes.run import Outcome, run_tasks
from benchmarks.recipes.task import RUN_OF, Task
from flowers.cli import CONFIGS, compose
from flowers.errors import InputError
from flowers.settings import Paths, load_settings
from flowers.training.train import RULES, TrainSettings
from tests.unit.benchmarks.recipes.helpers import make_predictions, make_task, write

LABELS = np.arange(6) % 3


@pytest.fixture
def settings(garden: Path) -> RecipeSettings:
    return RecipeSettings(
        data=RecipeData(str(garden)),
        paths=Paths(*["nowhere"] * 5),
        image_size=192,
        epochs=2,
        seeds=[1, 2],
        recipes=["plain_loop", "default"],
        overrides=["optimizer.lr=5e-4"],
        variants=None,
        ablation=None,
        timm_script=None,
        reference=None,
        force=False,
        results="nowhere",
    )


def test_a_plan_goes_through_all_recipes_seed_by_seed(settings: RecipeSettings) -> None:
    plan = make_plan(replace(settings, variants={"sgd": ["optimizer=sgd"]}), None)
    assert [task.key for task in plan.tasks] == [
        f"{name}-seed-{seed}" for seed in (1, 2) for name in ("plain_loop", "default", "sgd")
    ]
    overrides = {task.name: list(task.overrides) for task in plan.tasks}
    assert overrides["plain_loop"] == []
    assert overrides["default"] == ["optimizer.lr=5e-4"]
    assert overrides["sgd"] == ["optimizer.lr=5e-4", "optimizer=sgd"]
    assert plan.reference == "plain_loop"


def test_an_ablation_adds_its_overrides_to_the_base(settings: RecipeSettings) -> None:
    chosen = replace(settings, recipes=[], overrides=[], seeds=[1])
    plan = make_plan(replace(chosen, ablation=Ablation(["a=1"], {"b": ["b=2"]})), "mine")
    assert {task.name: list(task.overrides) for task in plan.tasks} == {"mine.base": ["a=1"], "mine.b": ["a=1", "b=2"]}
    assert plan.reference == "mine.base"
    plan = make_plan(replace(chosen, ablation=Ablation([], {"b": ["b=2"]}), reference="mine.b"), "mine")
    assert [task.name for task in plan.tasks] == ["default", "mine.b"]
    assert plan.reference == "mine.b"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"data": RecipeData("nowhere")}, "nowhere"),
        ({"image_size": 331}, "331"),
        ({"recipes": ["timm_train"]}, "timm_script"),
        ({"recipes": ["timm_train"], "timm_script": "nowhere.py"}, "nowhere.py"),
        ({"variants": {"default": []}}, "variants.default"),
        ({"variants": {"a/b": []}}, "variants.a/b"),
    ],
)
def test_a_plan_that_cannot_run_is_refused(settings: RecipeSettings, change: dict[str, object], named: str) -> None:
    with pytest.raises(InputError, match=named):
        make_plan(replace(settings, **change), None)  # type: ignore[arg-type]


def test_fastai_is_skipped_if_it_cannot_run(settings: RecipeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = replace(settings, recipes=["plain_loop", "fastai"], seeds=[1])
    for found, epochs, reason in ((None, 2, "pip install fastai"), (object(), 1, "epochs=2"), (object(), 2, None)):
        monkeypatch.setattr("importlib.util.find_spec", lambda name, found=found: found)
        plan = make_plan(replace(chosen, epochs=epochs), None)
        assert [task.name for task in plan.tasks] == ["plain_loop", "fastai"][: 2 if reason is None else 1]
        assert reason is None or reason in plan.absent["fastai"]


def test_a_run_that_another_variant_needs_is_kept(settings: RecipeSettings, tmp_path: Path) -> None:
    variants = {"teacher": ["model=lite2"], "student": ["model.teacher=RUN_OF(teacher)"]}
    plan = make_plan(replace(settings, recipes=[], variants=variants, results=str(tmp_path)), None)
    assert [(task.key, task.keeps_run) for task in plan.tasks] == [
        ("teacher-seed-1", True),
        ("student-seed-1", False),
        ("teacher-seed-2", True),
        ("student-seed-2", False),
    ]
    student = plan.tasks[3]
    with pytest.raises(InputError, match=r"teacher-seed-2: no such run"):
        make_overrides(student, tmp_path)
    kept = tmp_path / student.group / "runs" / "teacher-seed-2"
    kept.mkdir(parents=True)
    assert make_overrides(student, tmp_path)[-1] == f"model.teacher={kept}"


def test_a_run_that_is_not_trained_before_is_refused(settings: RecipeSettings) -> None:
    for name in ("nobody", "student", "plain_loop"):
        variants = {"student": [f"model.teacher=RUN_OF({name})"]}
        with pytest.raises(InputError, match=rf"student: .*RUN_OF\({name}\)"):
            make_plan(replace(settings, variants=variants), None)


@pytest.mark.parametrize("path", sorted((CONFIGS / "ablation").glob("*.yaml")), ids=lambda path: path.stem)
def test_ablations_consist_of_valid_settings(path: Path, garden: Path) -> None:
    config = compose(
        "benchmark_recipes", [f"ablation={path.stem}", f"data.root={garden}", "recipes=[]", "paths.output_dir=x"]
    )
    settings = load_settings(RecipeSettings, config)
    plan = make_plan(settings, path.stem)
    assert len(plan.tasks) >= 6 * len(settings.seeds)
    for overrides in {task.overrides for task in plan.tasks}:
        common = ["data=tfrecords", "data.root=x", "data.image_size=224", "paths.output_dir=x"]
        resolved = [RUN_OF.sub("run", override) for override in overrides]
        load_settings(TrainSettings, compose("train", [*common, *resolved]), RULES)


class Training:
    """Replaces the process of a training."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trained: list[str] = []
        self.failing: set[str] = set()
        monkeypatch.setattr(run, "run_task", self)

    def __call__(self, task: Task, path: Path) -> None:
        assert not path.exists()
        self.trained.append(task.key)
        if task.name in self.failing:
            raise TrainingFailed("why")
        write(path.parents[1], task, _predictions())


def _predictions() -> Predictions:
    return make_predictions(LABELS, LABELS, 3)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    return Training(monkeypatch)


def statuses(outcomes: list[Outcome]) -> list[str]:
    return [outcome.status for outcome in outcomes]


def test_a_finished_training_is_not_repeated(tmp_path: Path, training: Training) -> None:
    tasks = [make_task(seed=1), make_task(seed=2)]
    write(tmp_path, tasks[0], _predictions())
    outcomes = list(run_tasks(tasks, tmp_path, force=False))
    assert statuses(outcomes) == ["finished before", "trained"]
    assert all(outcome.result is not None and outcome.result.macro_f1 == 1 for outcome in outcomes)
    assert statuses(list(run_tasks(tasks, tmp_path, force=True))) == ["trained", "trained"]
    assert training.trained == [tasks[1].key, tasks[0].key, tasks[1].key]


def test_a_failure_does_not_stop_the_others(tmp_path: Path, training: Training) -> None:
    tasks = [make_task("bad"), make_task("good")]
    training.failing = {"bad"}
    bad, good = run_tasks(tasks, tmp_path, force=False)
    assert (bad.status, bad.reason, good.status) == ("failed", "why", "trained")
    training.failing = set()
    assert statuses(list(run_tasks(tasks, tmp_path, force=False))) == ["trained", "finished before"]


def test_a_training_that_runs_elsewhere_is_skipped(tmp_path: Path, training: Training) -> None:
    tasks = [make_task("one"), make_task("other")]
    path = result_path(tmp_path, tasks[0])
    path.parent.mkdir()
    with FileLock(path.with_suffix(".lock")):
        assert statuses(list(run_tasks(tasks, tmp_path, force=False))) == ["runs elsewhere", "trained"]
    assert training.trained == [tasks[1].key]


def test_a_name_with_other_overrides_is_refused(tmp_path: Path, training: Training) -> None:
    write(tmp_path, make_task("b", overrides=("x=1",)), _predictions())
    with pytest.raises(InputError, match="b-seed-1"):
        list(run_tasks([make_task("a"), make_task("b", overrides=("x=2",))], tmp_path, force=False))
    assert not training.trained
    assert statuses(list(run_tasks([make_task("b", overrides=("x=2",))], tmp_path, force=True))) == ["trained"]
