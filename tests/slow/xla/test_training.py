"""`trainer=tpu` is tested on XLA's CPU runtime with 1, 2 and 4 virtual devices. Not tested: a TPU."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from flowers.models.backbone import create_backbone
from flowers.training.compilation import READ_OPERATION
from flowers.training.xla.versions import find_versions
from tests.helpers.commands import run_process
from tests.helpers.on_xla import xla_environment

DEVICES = [1, 2, 4]


LOSS_TOLERANCE = 1e-6  # relative


GRADIENT_TOLERANCE = {"cpu": 1e-5, "1": 1e-6}  # absolute, by reference; the largest gradient is 0.2


@pytest.fixture(scope="module")
def first_steps(tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what a `Recorder` wrote on the plain CPU and on 1, 2 and 4 devices, with equal settings otherwise."""
    directory = tmp_path_factory.mktemp("first_steps")
    records = {}
    for name in ["cpu", *map(str, DEVICES)]:
        done = run_process(
            "train",
            *tiny_settings,
            "trainer=cpu" if name == "cpu" else "trainer=tpu",
            "trainer.precision=32-true",
            "+trainer.limit_train_batches=3",
            "+trainer.limit_val_batches=1",
            "experiment=mixing",
            "trainer.max_epochs=1",
            "data.batch_size=16",
            "logger=csv",
            f"hydra.run.dir={directory}/{name}",
            "+callbacks.recorder._target_=tests.helpers.on_xla.Recorder",
            f"+callbacks.recorder.path={directory}/{name}.pt",
            **xla_environment(1 if name == "cpu" else int(name)),
        )
        assert done.returncode == 0, done.stderr
        records[name] = torch.load(directory / f"{name}.pt")
    return records


@pytest.mark.parametrize("devices", DEVICES)
def test_a_batch_is_split_over_the_devices_by_rows(first_steps: dict[str, Any], devices: int) -> None:
    whole = ",".join(map(str, range(devices)))
    expected = {
        "image": f"{{devices=[{devices},1,1,1]{whole}}}",
        "label": f"{{devices=[{devices}]{whole}}}",
        "valid": f"{{devices=[{devices}]{whole}}}",
    }
    if devices == 1:
        expected = dict.fromkeys(expected, "{replicated}")
    assert first_steps[str(devices)]["sharding"] == expected


@pytest.mark.parametrize("devices", DEVICES)
def test_replicas_stay_identical(first_steps: dict[str, Any], devices: int) -> None:
    for name, copies in first_steps[str(devices)]["replicas"].items():
        assert len(copies) == devices, name
        assert all(torch.equal(copies[0], copy) for copy in copies), name


@pytest.mark.parametrize("reference", ["cpu", "1"])
@pytest.mark.parametrize("devices", DEVICES)
def test_the_first_step_matches_the_plain_cpu_and_one_device(
    first_steps: dict[str, Any], devices: int, reference: str
) -> None:
    expected, found = first_steps[reference], first_steps[str(devices)]
    assert found["ids"] == expected["ids"]
    assert found["loss"] == pytest.approx(expected["loss"], rel=LOSS_TOLERANCE)
    assert found["gradients"].keys() == expected["gradients"].keys()
    for name, gradient in expected["gradients"].items():
        difference = (found["gradients"][name] - gradient).abs().max().item()
        assert difference <= GRADIENT_TOLERANCE[reference], name
    assert max(gradient.abs().max().item() for gradient in expected["gradients"].values()) > 0.1


@pytest.mark.parametrize("devices", DEVICES)
def test_evaluation_gives_the_same_metrics_on_any_number_of_devices(trained: Path, devices: int) -> None:
    done = run_process(
        "evaluate", f"run={trained}", "trainer=tpu", "trainer.precision=32-true", **xla_environment(devices)
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((trained / "metrics.json").read_text())
    for metric in ("loss", "accuracy", "macro_f1"):
        assert f"{metrics[f'val/{metric}']:.4f}" in done.stdout, metric


@pytest.fixture(scope="module")
def whole_recipe(tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a run with everything on, which fails if it compiles from its fourth epoch on."""
    directory = tmp_path_factory.mktemp("whole_recipe")
    torch.save(create_backbone("test_efficientnet", 10, False).state_dict(), directory / "weights.pt")
    done = run_process(
        "train",
        *tiny_settings,
        "logger=default",
        "trainer=tpu",
        "experiment=mixing",
        "callbacks=ema",
        f"model.pretrained={directory}/weights.pt",
        "model.layer_decay=0.9",
        "model.head_lr_scale=2",
        "model.logit_adjustment=1",
        "model.class_weight_power=0.5",
        "model.train_sizes=[48]",
        "callbacks.compile_guard.after_warmup=fail",
        "trainer.max_epochs=5",
        "trainer.gradient_clip_val=1.0",
        "data.batch_size=16",
        "+model.backbone_arguments.drop_rate=0.2",
        "+model.backbone_arguments.drop_path_rate=0.1",
        "data.train_transform=[{_target_: albumentations.RandomCrop, height: 64, width: 64},"
        "{_target_: tests.helpers.on_xla.NoRuntime}]",
        f"hydra.run.dir={directory}/run",
        "+callbacks.recorder._target_=tests.helpers.on_xla.Recorder",
        f"+callbacks.recorder.path={directory}/record.pt",
        **xla_environment(2),
    )
    assert done.returncode == 0, done.stderr
    assert not re.search(r"step \d+ \(epoch \d+\): ", done.stderr)
    assert "Linear probe: skipped" not in done.stdout + done.stderr
    assert f"{find_versions()}" in done.stdout
    assert "jax" not in done.stdout + done.stderr
    return directory / "run"


def test_nothing_compiles_or_falls_back_from_the_fourth_epoch_on(whole_recipe: Path) -> None:
    rows = list(csv.DictReader((whole_recipe / "metrics.csv").open()))
    epochs = [row for row in rows if row["compile/count"]]
    assert [int(row["epoch"]) for row in epochs] == [0, 1, 2, 3, 4]
    assert float(epochs[0]["compile/count"]) >= 2  # at least a training and a validation step
    for row in epochs[3:]:
        assert float(row["compile/count"]) == 0
        assert float(row["compile/fallbacks"]) == 0  # metrics leave as tensors, without aten::_local_scalar_dense


def test_the_host_reads_only_what_it_needs(whole_recipe: Path) -> None:
    rows = list(csv.DictReader((whole_recipe / "metrics.csv").open()))
    scores = [float(row["val/macro_f1"]) for row in rows if row["val/macro_f1"]]
    reads = [float(row["compile/reads"]) for row in rows if row["compile/reads"]]
    best = [epoch for epoch in range(5) if scores[epoch] > max([-1.0, *scores[:epoch]])]
    # Two reads for the metrics of each split, one for the clock, and one for the last checkpoint. Checkpoints are saved
    # after an epoch is counted, so they count in the next one, the best only if it is new. The 50th step logs its loss.
    assert reads[1:] == [6 + (epoch - 1 in best) + (epoch == 3) for epoch in range(1, 5)]


def test_steps_compute_in_bfloat16_and_weights_stay_in_float32(whole_recipe: Path, first_steps: dict[str, Any]) -> None:
    record = torch.load(whole_recipe.parent / "record.pt")
    assert record["types"] == {"train": (torch.float32, torch.bfloat16), "eval": (torch.float32, torch.float32)}
    assert first_steps["2"]["types"]["train"] == (torch.float32, torch.float32)
    checkpoint = torch.load(whole_recipe / "checkpoints" / "last.ckpt", weights_only=True)
    tensors = [*checkpoint["state_dict"].values(), *checkpoint["ema"]["weights"].values()]
    assert {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {torch.float32}
    assert {tensor.device.type for tensor in tensors} == {"cpu"}


def test_the_offline_run_of_wandb_has_the_metrics_of_the_guard(whole_recipe: Path) -> None:
    content = next((whole_recipe / "wandb").glob("offline-run-*/*.wandb")).read_bytes()
    assert b"compile/count" in content


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["callbacks.compile_guard.warmup_epochs=0"], r"step 1 \(epoch 0\): .*\bcompiled \d+ programs\b"),
        (
            [
                "callbacks.compile_guard.warmup_epochs=1",
                "trainer.max_epochs=2",
                "+callbacks.reader._target_=tests.helpers.on_xla.Reader",
            ],
            r"step \d+ \(epoch 1\): .*\bread\b.*\b10\b",
        ),
    ],
)
def test_the_guard_ends_a_run(tiny_settings: list[str], tmp_path: Path, settings: list[str], message: str) -> None:
    done = run_process(
        "train",
        *tiny_settings,
        "trainer=tpu",
        "trainer.precision=32-true",
        "logger=csv",
        "data.batch_size=16",
        "callbacks.compile_guard.after_warmup=fail",
        *settings,
        f"hydra.run.dir={tmp_path}/run",
        **xla_environment(1),
    )
    assert done.returncode == 1
    assert re.search(f"error: {message}", done.stderr)


def test_accumulated_gradients_are_computed_after_each_batch(tiny_settings: list[str], tmp_path: Path) -> None:
    done = run_process(
        "train",
        *tiny_settings,
        "trainer=tpu",
        "trainer.precision=32-true",
        "trainer.accumulate_grad_batches=2",
        "+trainer.limit_train_batches=4",
        "+trainer.limit_val_batches=1",
        "data.batch_size=16",
        "logger=csv",
        f"hydra.run.dir={tmp_path}/run",
        "+callbacks.accumulation._target_=tests.helpers.on_xla.Accumulation",
        f"+callbacks.accumulation.path={tmp_path}/pending",
        **xla_environment(2),
    )
    assert done.returncode == 0, done.stderr
    pending = json.loads((tmp_path / "pending").read_text())
    # From the second batch on there are gradients on the device, without pending operations.
    assert pending == {"1": 0, "2": 0, "3": 0}


def test_checkpoints_go_from_cpu_to_xla_and_back(tiny_settings: list[str], trained: Path, tmp_path: Path) -> None:
    """An epoch on the CPU (`trained`), one on two devices, one on the CPU: each from the previous checkpoint."""
    previous = trained
    for epoch, trainer, environment in ((1, "tpu", xla_environment(2)), (2, "cpu", {})):
        run = tmp_path / trainer
        done = run_process(
            "train",
            *tiny_settings,
            f"trainer={trainer}",
            "trainer.precision=32-true",
            f"trainer.max_epochs={epoch + 1}",
            "logger=csv",
            f"ckpt_path={previous}/checkpoints/last.ckpt",
            f"hydra.run.dir={run}",
            **environment,
        )
        assert done.returncode == 0, done.stderr
        epochs = {row["epoch"] for row in csv.DictReader((run / "metrics.csv").open())}
        assert epochs >= {str(epoch)} and str(epoch - 1) not in epochs
        previous = run
    metrics = json.loads((tmp_path / "tpu" / "metrics.json").read_text())
    done = run_process("evaluate", f"run={tmp_path}/tpu", "trainer=cpu")
    assert done.returncode == 0, done.stderr
    assert f"{metrics['val/macro_f1']:.4f}" in done.stdout
    assert f"{metrics['val/loss']:.4f}" in done.stdout


def test_predictions_match_the_plain_cpu(trained: Path, tmp_path: Path) -> None:
    submissions = []
    for trainer, environment in (("cpu", {}), ("tpu", xla_environment(2))):
        done = run_process(
            "predict", f"run={trained}", f"trainer={trainer}", "trainer.precision=32-true", **environment
        )
        assert done.returncode == 0, done.stderr
        submissions.append((trained / "submission.csv").read_text())
    assert submissions[0] == submissions[1]


@pytest.mark.parametrize("devices", DEVICES)
def test_predictions_with_views_match_the_plain_cpu_and_compile_only_at_first(
    trained: Path, tmp_path: Path, devices: int
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    counting = [
        "trainer.strategy._target_=tests.helpers.counting.Counting",
        f"+trainer.strategy.path={tmp_path}/counts",
    ]
    found = []
    for trainer, environment, settings in (("cpu", {}, []), ("tpu", xla_environment(devices), counting)):
        done = run_process(
            "predict",
            f"run={tmp_path}/run",
            f"trainer={trainer}",
            "trainer.precision=32-true",
            "tta.symmetries=flips",
            "tta.sizes=[48]",
            "data.batch_size=16",
            *settings,
            **environment,
        )
        assert done.returncode == 0, done.stderr
        table = pq.read_table(tmp_path / "run" / "predictions" / "test.parquet")
        found.append(np.stack([column.to_numpy() for column in table.columns[2:]]))
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-6)  # images differ by 1e-4
    counts = json.loads((tmp_path / "counts").read_text())
    assert len(counts) == 5  # batches
    assert counts[0]["fallbacks"].keys() <= {READ_OPERATION}
    assert counts[-1]["fallbacks"] == counts[0]["fallbacks"]
    assert len({each["compilations"] for each in counts}) == 1


def test_compiled_programs_have_the_same_keys_in_the_next_run(tiny_settings: list[str], tmp_path: Path) -> None:
    """The CPU runtime writes its programs but cannot read them back; on a TPU equal keys mean no compilation."""
    cache = tmp_path / "cache"
    keys = []
    for number in range(2):
        done = run_process(
            "train",
            *tiny_settings,
            "trainer=tpu",
            "+trainer.limit_train_batches=1",
            "+trainer.limit_val_batches=1",
            "data.num_workers=0",
            "logger=csv",
            f"hydra.run.dir={tmp_path}/{number}",
            **xla_environment(1),
            XLA_PERSISTENT_CACHE_PATH=str(cache),
        )
        assert done.returncode == 0, done.stderr
        keys.append(sorted(cache.iterdir()))
        rows = [row for row in csv.DictReader((tmp_path / str(number) / "metrics.csv").open()) if row["compile/count"]]
        assert (float(rows[0]["compile/cache_misses"]) > 0) == (number == 0)  # the CPU's runtime counts no hits
    assert len(keys[0]) >= 2
    assert keys[0] == keys[1]


def test_without_a_tpu_the_error_names_two_alternatives(tiny_settings: list[str], tmp_path: Path) -> None:
    done = run_process("train", *tiny_settings, "trainer=tpu", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: trainer=tpu: ")
    assert "TPU VM" in done.stderr and "PJRT_DEVICE=CPU" in done.stderr


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"PJRT_DEVICE": "TPU"}, "PJRT_DEVICE=TPU: "),
        ({"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": "many"}, "PJRT_DEVICE=CPU, CPU_NUM_DEVICES=many: "),
    ],
)
def test_a_runtime_that_does_not_start_is_reported(
    tiny_settings: list[str], tmp_path: Path, environment: dict[str, str], message: str
) -> None:
    done = run_process("train", *tiny_settings, "trainer=tpu", f"hydra.run.dir={tmp_path}", **environment)
    assert done.returncode == 1
    assert message in done.stderr
    assert re.search(r"^error: PJRT_DEVICE=.*: .*\bXLA's runtime\b", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.batch_size=18", "data.batch_size=18: .*4 devices .*16 or 20"),
        ("trainer.devices=2", "trainer.devices=2: .*auto.*4 devices"),
        ("+trainer.detect_anomaly=true", "trainer.detect_anomaly=true: .*false"),
        ("trainer.log_every_n_steps=1", "trainer.log_every_n_steps=1: .* 10 "),
    ],
)
def test_settings_that_the_devices_do_not_allow_are_refused(
    tiny_settings: list[str], tmp_path: Path, setting: str, message: str
) -> None:
    done = run_process(
        "train", *tiny_settings, "trainer=tpu", setting, f"hydra.run.dir={tmp_path}", **xla_environment(4)
    )
    assert done.returncode == 1
    assert re.fullmatch(f"error: {message}.*", done.stderr.strip().splitlines()[-1])
    assert "Traceback" not in done.stderr
