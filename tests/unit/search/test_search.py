"""A search counts, repeats and ranks its trials as promised, with a stand-in for the training."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from optuna.trial import TrialState

from flowers.errors import InputError
from flowers.reporting.search import best_command, measure_importance, rank_trials
from flowers.search.search import plan_search
from flowers.search.study import SeededSampler, claim_trial
from flowers.search.training import output_log, read_epochs, train_trial
from flowers.training.runs import Run
from tests.helpers.configuration import compose_config
from tests.helpers.searching import make_plan, run_search, table


def test_values_are_those_of_the_trainings_and_the_best_is_ranked_first(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "kept=1")
    result = run_search(plan)
    rows = table(result)
    assert [number for number, *_ in rows] == [0, 1, 2, 3]
    for _, state, params, value in rows:
        assert state == "COMPLETE"
        assert value == pytest.approx(params["x"] + (params["y"] == "a"))
    best = rank_trials(result.study.get_trials(), plan)[0]
    assert best.value == max(value for *_, value in rows)
    assert best_command(best, plan) == f"python src/train.py kept=1 x={best.params['x']} y={best.params['y']}"
    assert measure_importance(result.study) == {}  # too few


def test_finished_trials_are_not_repeated_and_count(tmp_path: Path) -> None:
    started = tmp_path / "started"
    first = table(run_search(make_plan(tmp_path / "s", f"started={started}", trials=2)))
    assert table(run_search(make_plan(tmp_path / "s", f"started={started}", trials=2))) == first
    more = table(run_search(make_plan(tmp_path / "s", f"started={started}", trials=4)))
    assert more[:2] == first
    assert started.read_text().split() == ["trial-0", "trial-1", "trial-2", "trial-3"]
    assert more == table(run_search(make_plan(tmp_path / "whole", f"started={started}")))


def test_other_settings_in_the_same_directory_are_refused(tmp_path: Path) -> None:
    run_search(make_plan(tmp_path, "a=1", trials=1))
    with pytest.raises(InputError, match=r"overrides = \['a=1'\], found \['a=2'\]"):
        run_search(make_plan(tmp_path, "a=2", trials=1))


def test_a_trial_that_a_dead_process_left_keeps_its_number_and_values(tmp_path: Path) -> None:
    whole = table(run_search(make_plan(tmp_path / "whole")))
    result = run_search(make_plan(tmp_path / "s", trials=1))
    claim = claim_trial(tmp_path / "s", result.study, 2)
    claim.lock.release()  # as the system does when the process dies, here before a value is sampled
    assert [trial.state for trial in result.study.get_trials()] == [TrialState.COMPLETE, TrialState.RUNNING]
    assert table(run_search(make_plan(tmp_path / "s"))) == whole


def test_a_running_trial_is_left_to_its_process(tmp_path: Path) -> None:
    result = run_search(make_plan(tmp_path, trials=1))
    with claim_trial(tmp_path, result.study, 2).lock:
        assert claim_trial(tmp_path, result.study, 2) == [1]
    assert claim_trial(tmp_path, result.study, 2).trial.number == 1


def test_an_incomplete_last_line_of_the_journal_is_removed(tmp_path: Path) -> None:
    first = table(run_search(make_plan(tmp_path, trials=2)))
    with (tmp_path / "journal.log").open("a") as journal:
        journal.write('{"op_code": 4, "worker')  # a full disk
    assert table(run_search(make_plan(tmp_path, trials=3)))[:2] == first


def test_a_failed_trial_is_recorded_and_the_search_goes_on(tmp_path: Path) -> None:
    rows = run_search(make_plan(tmp_path, "fail=b", trials=6)).study.get_trials()
    states = {trial.state for trial in rows if trial.params["y"] == "b"}
    assert states == {TrialState.FAIL}
    assert {trial.state for trial in rows if trial.params["y"] == "a"} == {TrialState.COMPLETE}
    assert "finite loss" in next(trial for trial in rows if trial.state == TrialState.FAIL).user_attrs["problem"]


def test_three_failures_in_a_row_end_the_search_with_the_message(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"trial-2\.log: 3 .*expected a finite loss, found nan"):
        run_search(make_plan(tmp_path, "fail=true", trials=9))
    with pytest.raises(InputError, match=r"trial-5\.log: "):  # another start tries again
        run_search(make_plan(tmp_path, "fail=true", trials=9))


def test_the_pruner_stops_trials_below_the_median(tmp_path: Path) -> None:
    rows = run_search(make_plan(tmp_path, trials=8, pruner=True)).study.get_trials()
    complete: list[float] = []
    for trial in rows:
        best = trial.intermediate_values[0]
        # One complete trial is enough for the median; the metric grows alike in all trainings.
        below = bool(complete) and best < sorted(complete)[len(complete) // 2] / 3 and len(complete) == 1
        if below:
            assert trial.state == TrialState.PRUNED and trial.last_step == 0
        if trial.state == TrialState.COMPLETE:
            complete.append(trial.value)
    assert TrialState.PRUNED in {trial.state for trial in rows}


def test_epochs_are_read_from_a_file_that_is_being_written(tmp_path: Path) -> None:
    run = Run(tmp_path)
    (tmp_path / "metrics-until-1.csv").write_text("epoch,m\n0,0.5\n")
    run.metrics_csv.write_text("epoch,step,m,n\n0,1,,2\n0,2,0.7,\n1,3,nan,\n2,4,0.25,\n3,5,0.1")
    assert read_epochs(run, "m") == {0: 0.5, 2: 0.25}
    assert read_epochs(Run(tmp_path / "none"), "m") == {}


def test_a_metric_that_is_not_finite_is_a_failure(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, trials=1)
    directory = tmp_path / "trial-0"
    directory.mkdir()
    (directory / "metrics.json").write_text(json.dumps({"val/macro_f1": None}))
    (trial,) = run_search(plan).study.get_trials()
    assert trial.state == TrialState.FAIL


def test_a_failed_trial_reports_its_last_attempt(tmp_path: Path) -> None:
    run = Run(tmp_path / "trial-0")
    output_log(run).write_text("error: an earlier attempt\nepoch 1\n")
    outcome = train_trial(run, [sys.executable, "-c", "import os; os.abort()"], "val/loss", lambda *_: False)
    assert outcome.problem == "it printed nothing (exit status -6)"


@pytest.mark.parametrize(("name", "settings"), [("Grid", {"search_space": {"x": [1, 2]}}), ("BruteForce", {})])
def test_a_sampler_of_a_grid_is_refused(name: str, settings: dict[str, object]) -> None:
    with pytest.raises(InputError, match=rf"^sampler\._target_=optuna\.samplers\.{name}Sampler: "):
        SeededSampler({"_target_": f"optuna.samplers.{name}Sampler", **settings}, 1)


BAD = {
    "optimizer.lr": (["space={optimizer.lr:{low:-1.0}}"], r"space\.optimizer\.lr"),
    "group": (["space={data/augment:{choices:[light,heavy]}}"], r"space\.data/augment: data/augment=heavy: "),
    "unknown": (["+space={model.depth:{low:1,high:2}}"], r"space\.model\.depth: .*'space={model\.depth:null}'"),
    "training": (["data.batch_size=0"], r"^data\.batch_size=0: "),
    "monitor": (["+space={monitor:{choices:[loss,accuracy]}}"], r"space\.monitor: "),
    "logger": (["logger=none"], r"^logger: "),
    "ckpt_path": (["ckpt_path=last.ckpt"], r"^ckpt_path: "),
    "resume": (["resume=true"], r"^resume=true: "),
    "sampler": (["+sampler.seed=3"], r"^sampler\.seed: "),
    "trials": (["trials=0"], r"^trials=0: "),
    "grid": (["hparams_search=grid"], r"^hparams_search: "),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_are_refused_before_the_first_trial(name: str, tmp_path: Path) -> None:
    overrides, pattern = BAD[name]
    plan = make_plan(tmp_path)
    training = type(plan.training)(
        [],
        [o for o in overrides if not o.startswith(("space", "+space", "+sampler", "trials", "hparams_search"))],
        plan.training.compose,
    )
    with pytest.raises(InputError, match=pattern):
        plan_search(compose_config("search", f"output={tmp_path}/out", *overrides), training)
    assert not (tmp_path / "out").exists()
