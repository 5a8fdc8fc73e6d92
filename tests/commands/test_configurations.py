"""The configurations in configs/ are composed and checked as the commands do, without running any."""

from __future__ import annotations

import re

import pytest

from flowers.errors import InputError
from flowers.training.monitor import check_monitors
from flowers.training.trust import check_trusted
from tests.helpers.configuration import (
    CONFIGS,
    GROUPS,
    check,
    check_config,
    compose_config,
    compose_values,
    resolve_values,
)


@pytest.mark.parametrize("choice", GROUPS)
def test_every_choice_of_every_group_is_accepted_unchanged(choice: str) -> None:
    config = compose_config("train", choice, "data.root=somewhere")
    settings, values = check_config("train", config), resolve_values(config)
    for group in ("data", "model", "optimizer", "scheduler", "callbacks", "logger", "tags", "seed"):
        assert getattr(settings, group) == values[group]
    assert (settings.monitor.metric, settings.monitor.mode) == tuple(values["monitor"].values())
    check_trusted(config, CONFIGS)  # the project's own targets need no trust=true


@pytest.mark.parametrize(
    ("name", "overrides", "key", "expected"),
    [
        ("evaluate", ["run=somewhere", "data.batch_size=4"], "run", "somewhere"),
        ("predict", ["run=somewhere", "split=val"], "split", "val"),
        ("prepare_verify", ["root=somewhere"], "decode", True),
        (
            "prepare_folder",
            ["source=photographs", "output=out", "runner_options=['--p=x']"],
            "runner_options",
            ["--p=x"],
        ),
        ("benchmark_step", ["trainer=gpu"], "steps", 30),
        ("benchmark_loader", ["data.root=somewhere", "seconds=0.5"], "workers", None),
        ("ensemble", ["runs=[a,b]"], "runs", ["a", "b"]),
        ("cross_validate", ["model=resnet50", "trainer.max_epochs=8"], "folds", 5),
        ("choose", ["data=kaggle", "backbones=[resnet18]"], "train_images", 2000),
        ("dashboard", ["logger.wandb.project=trees"], "name", "trees"),
        ("sync", [], "runs", "logs"),
        ("sync", ["runs=[a,b]"], "runs", ["a", "b"]),
    ],
)
def test_the_settings_of_the_other_commands_are_accepted(
    name: str, overrides: list[str], key: str, expected: object
) -> None:
    assert getattr(check(name, *overrides), key) == expected


@pytest.mark.parametrize(
    ("overrides", "place", "expected"),
    [
        (["optimizer._target_=timm.optim.Lamb", "+optimizer.trust_clip=true"], ("optimizer", "trust_clip"), True),
        (["+trainer.max_time={minutes: 1}"], ("trainer", "max_time"), {"minutes": 1}),
        (["+trainer.max_time='00:01:00:00'"], ("trainer", "max_time"), "00:01:00:00"),
        (
            ["data.train_transform=[{_target_: albumentations.VerticalFlip, p: 0.1}]"],
            ("data", "train_transform"),
            [{"_target_": "albumentations.VerticalFlip", "p": 0.1}],
        ),
        (["+model.backbone_arguments.drop_rate=0.1"], ("model", "backbone_arguments"), {"drop_rate": 0.1}),
    ],
)
def test_settings_that_only_a_class_names_are_accepted(
    overrides: list[str], place: tuple[str, str], expected: object
) -> None:
    assert getattr(check("train", *overrides), place[0])[place[1]] == expected


REFUSED = {
    "+trainer.max_epoch=3": r"trainer\.max_epoch: .*\bTrainer\b.*\btrainer\.max_epochs\?",
    "+trainer.limit_train_batch=3": r"\bTrainer\b.*\btrainer\.limit_train_batches\?",
    "+optimizer.weight_decays=0": r"\bAdamW\b.*\boptimizer\.weight_decay\?",
    "+optimizer.trust_clip=true": r"optimizer\.trust_clip: .*\bAdamW\b",
    "optimizer=timm optimizer.opt=adamq": r"optimizer\.opt=adamq: .*\btimm\b",
    "+nonsense=1": r"nonsense: .*\bdata, model,",
    "+paths.nonsense=1": r"paths\.nonsense: .*\bPaths\b",
    "+callbacks.mine={_target_: my.Callback}": r"callbacks\.mine\._target_=my\.Callback: ",
    "+callbacks.mine={patience: 3}": r"callbacks\.mine=\{'patience': 3\}: .*\b_target_\b",
    "trainer.max_epochs=three": r"trainer\.max_epochs=three: .*\binteger\b.*'three'",
    "trainer.precision=bf16-true": r"trainer\.precision=bf16-true: ",
    "trainer.precision=16-true": r"trainer\.precision=16-true: ",
    "trainer.precision=8": r"trainer\.precision=8: ",
    "trainer.compile=yes": r"trainer\.compile=yes: .*\bboolean\b",
    "trainer.threads=0": r"trainer\.threads=0: .*greater than 0\b",
    "+trainer.channel_last=true": r"\btrainer\.channels_last\?",
    "+trainer.max_time=60": r"trainer\.max_time=60: ",
    "+trainer.callbacks=[]": r"trainer\.callbacks: ",
    "+trainer.barebones=true": r"trainer\.barebones: ",
    "trainer.max_epochs=1.5": r"trainer\.max_epochs=1\.5: .*\binteger\b.*1\.5",
    "trainer.accumulate_grad_batches=0": r"trainer\.accumulate_grad_batches=0: ",
    "+trainer.limit_train_batches=0": r"trainer\.limit_train_batches=0: ",
    "+trainer.limit_train_batches=1.5": r"trainer\.limit_train_batches=1\.5: ",
    "trainer.gradient_clip_val=-1": r"trainer\.gradient_clip_val=-1: ",
    "trainer.log_every_n_steps=0": r"trainer\.log_every_n_steps=0: ",
    "model.label_smoothing=1": r"model\.label_smoothing=1: .*less than 1\b",
    "data.on_bad_record=ignore": r"data\.on_bad_record=ignore: .*'stop'.*'skip'.*'ignore'",
    "data.batch_size=0": r"data\.batch_size=0: .*greater than 0\b",
    "data.folds=1": r"data\.folds=1: .*equal to 2\b",
    "data._target_=flowers.data.datamodule.FlowerDataModule": r"\bFlowersDataModule\?",
    "model.backbone=resnet5O": r"model\.backbone=resnet5O: .*\btimm\b",
    "model.backbone=resnet50.nonsense": r"model\.backbone=resnet50\.nonsense: .*\btag\b",
    "model.backbone=3": r"model\.backbone=3: .*\bstring\b",
    "callbacks.model_checkpoint.mode=3": r"callbacks\.model_checkpoint\.mode=3: ",
    "callbacks=ema callbacks.ema.decay=1": r"callbacks\.ema\.decay=1: .*less than 1\b",
    "callbacks.compile_guard.after_warmup=stop": r"after_warmup=stop: .*'warn'.*'fail'.*'stop'",
    "callbacks.last_checkpoint.every_n_steps=0": r"callbacks\.last_checkpoint\.every_n_steps=0: ",
    "scheduler.start=2": r"scheduler\.start=2: ",
    "monitor.mode=most": r"monitor\.mode=most: .*'min'.*'max'.*'most'",
    "ckpt_path=3": r"ckpt_path=3: ",
    "tags=flowers": "tags=flowers: ",
}


@pytest.mark.parametrize("override", REFUSED)
def test_invalid_settings_are_refused(override: str) -> None:
    with pytest.raises(InputError) as raised:
        check("train", *override.split(" ", 1) if override.startswith(("callbacks=", "optimizer=")) else [override])
    assert re.search(REFUSED[override], str(raised.value))


def test_settings_that_a_dataclass_inherits_are_checked() -> None:
    with pytest.raises(InputError, match=r"^data\.batch_size=x: "):
        check("predict", "data.batch_size=x")  # declared in evaluate.py


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(InputError) as raised:
        check("train", "trainer.max_epochs=three", "data.batch_size=0", "+optimizer.weight_decays=0", "ckpt_path=3")
    assert len(str(raised.value).splitlines()) == 4


@pytest.mark.parametrize(
    ("choice", "metric", "mode"),
    [("macro_f1", "val/macro_f1", "max"), ("accuracy", "val/accuracy", "max"), ("loss", "val/loss", "min")],
)
def test_one_setting_decides_the_metric_and_its_direction(choice: str, metric: str, mode: str) -> None:
    values = compose_values("train", f"monitor={choice}", "callbacks=early_stopping")
    assert values["monitor"] == {"metric": metric, "mode": mode}
    for name in ("model_checkpoint", "early_stopping"):
        assert (values["callbacks"][name]["monitor"], values["callbacks"][name]["mode"]) == (metric, mode)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["monitor.metric=val/macrof1"], "monitor.metric=val/macrof1: "),
        (["monitor.metric=val/loss"], "monitor.mode=max: expected min with val/loss"),
        (["monitor.mode=min"], "monitor.mode=min: expected max with val/macro_f1"),
        (["callbacks.model_checkpoint.monitor=val/loss"], "callbacks.model_checkpoint.mode=max: expected min"),
        (["callbacks.model_checkpoint.mode=min"], "callbacks.model_checkpoint.mode=min: expected max"),
        (
            ["callbacks=early_stopping", "callbacks.early_stopping.monitor=val/loss"],
            "callbacks.early_stopping.mode=max: expected min",
        ),
    ],
)
def test_a_monitor_that_does_not_fit_the_metrics_of_the_model_is_refused(overrides: list[str], expected: str) -> None:
    settings = check("train", *overrides)
    with pytest.raises(InputError) as raised:
        check_monitors(settings.monitor, settings.callbacks, settings.model)
    assert str(raised.value).startswith(expected)


@pytest.mark.parametrize("key", ["seed", "data.seed", "model.seed", "data.prepare.seed"])
def test_seeds_have_the_range_of_numpys(key: str) -> None:
    check("train", f"{key}={2**32 - 1}")
    with pytest.raises(InputError, match=rf"{key}={2**32}"):
        check("train", f"{key}={2**32}")
