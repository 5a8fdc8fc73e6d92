"""The configurations in configs/, composed and checked as the commands do, without running any."""

from __future__ import annotations

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
def test_every_choice_of_every_group_is_accepted_and_kept_as_it_is(choice: str) -> None:
    config = compose_config("train", choice, "data.root=somewhere")
    settings, values = check_config("train", config), resolve_values(config)
    for group in ("data", "model", "optimizer", "scheduler", "callbacks", "logger", "tags", "seed"):
        assert getattr(settings, group) == values[group]
    assert (settings.monitor.metric, settings.monitor.mode) == tuple(values["monitor"].values())
    check_trusted(config, CONFIGS)  # nobody is asked to trust what this project names


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
        ("choose", ["data=kaggle", "backbones=[resnet18]"], "train_images", 2000),
        ("dashboard", ["logger.wandb.project=trees"], "name", "trees"),
        ("sync", [], "runs", "logs"),
        ("sync", ["runs=[a,b]"], "runs", ["a", "b"]),
    ],
)
def test_the_settings_of_the_other_commands(name: str, overrides: list[str], key: str, expected: object) -> None:
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
def test_settings_that_no_configuration_names_but_a_class_takes(
    overrides: list[str], place: tuple[str, str], expected: object
) -> None:
    assert getattr(check("train", *overrides), place[0])[place[1]] == expected


REFUSED = {
    "+trainer.max_epoch=3": "trainer.max_epoch: no such setting of Trainer. Did you mean trainer.max_epochs?",
    "+trainer.limit_train_batch=3": "no such setting of Trainer. Did you mean trainer.limit_train_batches?",
    "+optimizer.weight_decays=0": "no such setting of AdamW. Did you mean optimizer.weight_decay?",
    "+optimizer.trust_clip=true": "optimizer.trust_clip: no such setting of AdamW.",
    "optimizer=timm optimizer.opt=adamq": "optimizer.opt=adamq: expected the name of one of timm's optimizers",
    "+nonsense=1": "nonsense: no such setting. Known: data, model,",
    "+paths.nonsense=1": "paths.nonsense: no such setting of Paths.",
    "+callbacks.mine={_target_: my.Callback}": "callbacks.mine._target_=my.Callback: ",
    "+callbacks.mine={patience: 3}": "callbacks.mine={'patience': 3}: expected a mapping with a _target_",
    "trainer.max_epochs=three": "trainer.max_epochs=three: expected a valid integer, found 'three'.",
    "trainer.precision=bf16-true": "trainer.precision=bf16-true: ",
    "trainer.precision=16-true": "trainer.precision=16-true: ",
    "trainer.precision=8": "trainer.precision=8: ",
    "+trainer.max_time=60": "trainer.max_time=60: ",
    "+trainer.callbacks=[]": "trainer.callbacks: expected none",
    "+trainer.barebones=true": "trainer.barebones: expected none",
    "trainer.max_epochs=1.5": "trainer.max_epochs=1.5: expected a valid integer, found 1.5.",
    "trainer.accumulate_grad_batches=0": "trainer.accumulate_grad_batches=0: ",
    "+trainer.limit_train_batches=0": "trainer.limit_train_batches=0: ",
    "+trainer.limit_train_batches=1.5": "trainer.limit_train_batches=1.5: ",
    "trainer.gradient_clip_val=-1": "trainer.gradient_clip_val=-1: ",
    "trainer.log_every_n_steps=0": "trainer.log_every_n_steps=0: ",
    "model.label_smoothing=1": "model.label_smoothing=1: expected less than 1, found 1.",
    "data.on_bad_record=ignore": "data.on_bad_record=ignore: expected 'stop' or 'skip', found 'ignore'.",
    "data.batch_size=0": "data.batch_size=0: expected greater than 0, found 0.",
    "data.folds=1": "data.folds=1: expected greater than or equal to 2, found 1.",
    "data._target_=flowers.data.datamodule.FlowerDataModule": "Did you mean FlowersDataModule?",
    "model.backbone=resnet5O": "model.backbone=resnet5O: expected the name of a timm model, found no such model.",
    "model.backbone=resnet50.nonsense": "model.backbone=resnet50.nonsense: expected a tag of weights that timm knows",
    "model.backbone=3": "model.backbone=3: expected a valid string, found 3.",
    "callbacks.model_checkpoint.mode=3": "callbacks.model_checkpoint.mode=3: ",
    "callbacks=ema callbacks.ema.decay=1": "callbacks.ema.decay=1: expected less than 1, found 1.",
    "callbacks.compile_guard.after_warmup=stop": "after_warmup=stop: expected 'warn' or 'fail', found 'stop'.",
    "callbacks.last_checkpoint.every_n_steps=0": "callbacks.last_checkpoint.every_n_steps=0: ",
    "scheduler.start=2": "scheduler.start=2: ",
    "monitor.mode=most": "monitor.mode=most: expected 'min' or 'max', found 'most'.",
    "ckpt_path=3": "ckpt_path=3: ",
    "tags=flowers": "tags=flowers: ",
}


@pytest.mark.parametrize("override", REFUSED)
def test_what_is_refused(override: str) -> None:
    with pytest.raises(InputError) as raised:
        check("train", *override.split(" ", 1) if override.startswith(("callbacks=", "optimizer=")) else [override])
    assert REFUSED[override] in str(raised.value)


def test_settings_that_a_dataclass_inherits_are_checked() -> None:
    with pytest.raises(InputError, match=r"^data\.batch_size=x: "):
        check("predict", "data.batch_size=x")  # declared in evaluate.py


def test_all_problems_at_once() -> None:
    with pytest.raises(InputError) as raised:
        check("train", "trainer.max_epochs=three", "data.batch_size=0", "+optimizer.weight_decays=0", "ckpt_path=3")
    assert len(str(raised.value).splitlines()) == 4


@pytest.mark.parametrize(
    ("choice", "metric", "mode"),
    [("macro_f1", "val/macro_f1", "max"), ("accuracy", "val/accuracy", "max"), ("loss", "val/loss", "min")],
)
def test_one_setting_decides_on_the_metric_and_its_direction(choice: str, metric: str, mode: str) -> None:
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
def test_a_monitored_metric_that_the_model_does_not_log_that_way(overrides: list[str], expected: str) -> None:
    settings = check("train", *overrides)
    with pytest.raises(InputError) as raised:
        check_monitors(settings.monitor, settings.callbacks, settings.model)
    assert str(raised.value).startswith(expected)


@pytest.mark.parametrize("key", ["seed", "data.seed", "model.seed", "data.prepare.seed"])
def test_seeds_end_where_numpys_do(key: str) -> None:
    check("train", f"{key}={2**32 - 1}")
    with pytest.raises(InputError, match=rf"{key}={2**32}"):
        check("train", f"{key}={2**32}")
