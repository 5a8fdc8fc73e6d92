"""What a configuration may say: every configuration of ours, and what is refused with which hint."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import lightning
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from flowers.config import SCHEMAS, Trainer, check_config, known_keys
from flowers.errors import InputError

CONFIGS = Path(__file__).parents[2] / "configs"
GROUPS = [
    f"{path.parent.name}={path.stem}"
    for group in (
        "data",
        "model",
        "trainer",
        "optimizer",
        "scheduler",
        "monitor",
        "callbacks",
        "logger",
        "experiment",
        "debug",
    )
    for path in sorted((CONFIGS / group).glob("*.yaml"))
    if path.stem != "default" or group in ("callbacks", "logger", "debug")
]


def composed(name: str, *overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        made = ["paths.output_dir=out"] if name == "train" or name.startswith("benchmark") else []
        config = compose(name, [*overrides, *made])
    values: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    return values


def understood(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """What the schema made of a configuration that it accepts: the same again, if it drops and converts nothing."""
    check_config(SCHEMAS[name], values)
    return SCHEMAS[name].model_validate(values).model_dump(by_alias=True, exclude_unset=True, warnings=False)


@pytest.mark.parametrize("choice", GROUPS)
def test_every_choice_of_every_group_is_understood(choice: str) -> None:
    values = composed("train", choice, "data.root=somewhere")
    assert understood("train", values) == values


@pytest.mark.parametrize("name", ["evaluate", "predict"])
def test_the_other_doors_are_understood(name: str) -> None:
    values = composed(name, "run=somewhere", "data.batch_size=4")
    assert understood(name, values) == values
    assert (values["run"], values["data"]["batch_size"]) == ("somewhere", 4)


def test_checking_a_data_set_is_understood() -> None:
    values = composed("prepare_verify", "root=somewhere")
    assert understood("prepare_verify", values) == {"root": "somewhere", "decode": True, "report": None}


@pytest.mark.parametrize("trainer", ["cpu", "gpu", "tpu", "tpu_pod"])
def test_the_benchmark_is_understood_for_every_trainer(trainer: str) -> None:
    values = composed("benchmark_step", f"trainer={trainer}")
    assert understood("benchmark_step", values) == values
    assert values["trainer"]["accelerator"] == trainer.removesuffix("_pod")


def test_preparing_a_folder_is_understood() -> None:
    values = composed("prepare_folder", "source=photographs", "output=out", "runner_options=['--project=x']")
    assert understood("prepare_folder", values) == values
    assert values["runner_options"] == ["--project=x"]


def test_the_loaders_benchmark_is_understood() -> None:
    values = composed("benchmark_loader", "data.root=somewhere", "seconds=0.5")
    assert understood("benchmark_loader", values) == values
    assert values["workers"] is None


@pytest.mark.parametrize(
    ("overrides", "place", "expected"),
    [
        (["optimizer._target_=timm.optim.Lamb", "+optimizer.trust_clip=true"], ("optimizer", "trust_clip"), True),
        (["+callbacks.mine={_target_: my.Callback, patience: 3}"], ("callbacks", "mine", "patience"), 3),
        (["+trainer.max_time={minutes: 1}"], ("trainer", "max_time", "minutes"), 1),
        (["+trainer.max_time='00:01:00:00'"], ("trainer", "max_time"), "00:01:00:00"),
        (
            ["data.train_transform=[{_target_: albumentations.VerticalFlip, p: 0.1}]"],
            ("data", "train_transform", 0, "p"),
            0.1,
        ),
    ],
)
def test_a_node_of_ones_own_is_left_to_its_target(overrides: list[str], place: tuple[Any, ...], expected: Any) -> None:
    found: Any = understood("train", composed("train", *overrides))
    for key in place:
        found = found[key]
    assert found == expected


REFUSED = {
    "+trainer.max_epoch=3": "trainer.max_epoch: no such setting. Did you mean trainer.max_epochs?",
    "+trainer.limit_train_batch=3": "limit_train_batch: no such setting. Did you mean trainer.limit_train_batches?",
    "+optimizer.weight_decays=0": "optimizer.weight_decays: no such setting. Did you mean optimizer.weight_decay?",
    "+nonsense=1": "nonsense: no such setting. Known here: data, model,",
    "trainer.max_epochs=three": "trainer.max_epochs=three: expected a valid integer, found 'three'.",
    "trainer.precision=bf16-true": "trainer.precision=bf16-true: expected '32-true', 'bf16-mixed'",
    "trainer.precision=16-true": "trainer.precision=16-true: expected '32-true', 'bf16-mixed'",
    "trainer.precision=8": "trainer.precision=8: expected '32-true', 'bf16-mixed'",
    "+trainer.max_time=60": "trainer.max_time=60: expected DD:HH:MM:SS, as 00:08:00:00, or units, as {hours: 8}",
    "+trainer.max_time=1h": "trainer.max_time=1h: expected",
    "+trainer.max_time={minute:1}": "expected DD:HH:MM:SS, as 00:08:00:00, or units, as {hours: 8}",
    "trainer.max_epochs=1.5": "trainer.max_epochs=1.5: expected a valid integer, found 1.5.",
    "model.label_smoothing=1": "model.label_smoothing=1: expected less than 1, found 1.",
    "optimizer.lr=fast": "optimizer.lr=fast: expected a valid number, found 'fast'.",
    "data.on_bad_record=ignore": "data.on_bad_record=ignore: expected 'stop' or 'skip', found 'ignore'.",
    "data.batch_size=0": "data.batch_size=0: expected greater than 0, found 0.",
    "model.backbone=3": "model.backbone=3: expected a valid string, found 3.",
    "callbacks.model_checkpoint.mode=most": "model_checkpoint.mode=most: expected 'min' or 'max', found 'most'.",
    "callbacks.model_checkpoint.monitor=val/loss": "callbacks.model_checkpoint.mode=max: expected min with val/loss",
    "callbacks=early_stopping callbacks.early_stopping.monitor=val/loss": "callbacks.early_stopping.mode=max: expected",
    "monitor.metric=val/loss": "monitor.mode=max: expected min with val/loss (monitor=loss sets both)",
    "monitor.mode=min": "monitor.mode=min: expected max with val/macro_f1",
    "monitor.metric=val/macrof1": "monitor.metric=val/macrof1: expected 'val/macro_f1', 'val/accuracy' or 'val/loss'",
    "trainer=tpu trainer.strategy.hosts=0": "trainer.strategy.hosts=0: expected greater than 0, found 0.",
    "callbacks=ema callbacks.ema.decay=1": "callbacks.ema.decay=1: expected less than 1, found 1.",
    "callbacks.compile_guard.after_warmup=stop": "after_warmup=stop: expected 'warn' or 'fail', found 'stop'.",
    "trainer.use_distributed_sampler=true": "trainer.use_distributed_sampler=True: expected False, found True.",
}


@pytest.mark.parametrize("override", REFUSED)
def test_what_is_refused(override: str) -> None:
    with pytest.raises(InputError) as raised:
        check_config(SCHEMAS["train"], composed("train", *override.split(" ")))
    assert REFUSED[override] in str(raised.value)


@pytest.mark.parametrize(
    ("choice", "metric", "mode"),
    [("macro_f1", "val/macro_f1", "max"), ("accuracy", "val/accuracy", "max"), ("loss", "val/loss", "min")],
)
def test_one_setting_decides_on_the_metric_and_its_direction(choice: str, metric: str, mode: str) -> None:
    values = composed("train", f"monitor={choice}", "callbacks=early_stopping")
    assert values["monitor"] == {"metric": metric, "mode": mode}
    for name in ("model_checkpoint", "early_stopping"):
        assert (values["callbacks"][name]["monitor"], values["callbacks"][name]["mode"]) == (metric, mode)


def test_all_faults_at_once() -> None:
    with pytest.raises(InputError) as raised:
        check_config(SCHEMAS["train"], composed("train", "trainer.max_epochs=three", "data.batch_size=0"))
    assert len(str(raised.value).splitlines()) == 2


def test_the_trainers_settings_are_lightnings() -> None:
    ours = {
        key.removeprefix("trainer.")
        for key in known_keys(SCHEMAS["evaluate"])
        if key.count(".") == 1 and key.startswith("trainer.")
    }
    lightnings = set(inspect.signature(lightning.Trainer.__init__).parameters)
    assert ours - {"_target_", "_partial_"} <= lightnings
    assert "max_epochs" in Trainer.model_fields


@pytest.mark.parametrize("key", ["seed", "data.seed", "model.seed"])
def test_seeds_end_where_numpys_do(key: str) -> None:
    check_config(SCHEMAS["train"], composed("train", f"{key}={2**32 - 1}"))
    with pytest.raises(InputError, match=rf"{key}={2**32}"):
        check_config(SCHEMAS["train"], composed("train", f"{key}={2**32}"))
