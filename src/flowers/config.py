"""What a configuration may say: every key with its type, checked before anything heavy is imported.

configs/ holds the values, this module their types. A node with a `_target_` that is not listed here (a callback,
an optimiser or a transform of one's own) is checked when it is made.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError

from flowers.errors import InputError

Method = Literal["mean", "geometric", "rank", "weights", "greedy", "stacked"]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # what NumPy's global generator takes
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Metric = Literal["val/macro_f1", "val/accuracy", "val/loss"]
PositiveFloat = Annotated[float, Field(gt=0)]


def best_mode(metric: str) -> Literal["min", "max"]:
    """Return whether the least or the most of a metric is the best."""
    return "min" if metric.endswith("loss") else "max"


def _check_mode(mode: str, info: ValidationInfo) -> str:
    """Refuse a mode that would keep the worst epoch; the metric is the field before."""
    metric = info.data.get("metric") or info.data.get("monitor")
    if metric and mode != (best := best_mode(metric)):
        hint = f"expected {best} with {metric} (monitor={metric.removeprefix('val/')} sets both)"
        raise PydanticCustomError("mode", "{hint}", {"hint": hint})
    return mode


Precision = Literal["32-true", "bf16-mixed", "16-mixed", "64-true", "32", "bf16", "16", "64", 32, 16, 64]
"""Lightning's without those of 16-bit weights: averages, metrics and small updates would be lost in rounding."""

Mode = Annotated[Literal["min", "max"], AfterValidator(_check_mode)]


def _check_duration(value: Any) -> Any:
    """Refuse what Lightning takes for no time: another text, or units that there are not."""
    if isinstance(value, str) and re.fullmatch(r"\d+:\d\d:\d\d:\d\d", value):
        return value
    units = {"days", "hours", "minutes", "seconds"}
    if isinstance(value, dict) and value and value.keys() <= units and all(type(n) is int for n in value.values()):
        return value
    raise PydanticCustomError("duration", "expected DD:HH:MM:SS, as 00:08:00:00, or units, as {hours: 8}")


Duration = Annotated[str | dict[str, int], BeforeValidator(_check_duration)]


class Group(BaseModel):
    """A group of settings: no others than these, and no silent conversions."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Node(Group):
    """A group that Hydra makes an object of."""

    target: str = Field(alias="_target_", min_length=1)
    partial: bool = Field(alias="_partial_", default=False)


class OpenNode(Node):
    """A node whose target is not known here."""

    model_config = ConfigDict(extra="allow", strict=True)


class Data(Node):
    root: str | list[str]
    image_size: Positive
    train_size: Positive
    eval_size: Positive
    batch_size: Positive
    num_workers: Count | None
    train_on: Literal["train", "train+val"]
    folds: Annotated[int, Field(ge=2)] | None
    fold: Count | None
    balance: Literal["sqrt", "full"] | None
    check_crc: Literal["always", "first_epoch", "never"]
    on_bad_record: Literal["stop", "skip"]
    decoded_cache: Literal["memory", "disk"] | None
    seed: Seed
    cache_dir: str
    storage_options: dict[str, Any] | None
    train_transform: list[OpenNode]
    eval_transform: list[OpenNode]
    prepare: OpenNode | None
    reader: Literal["native", "tfrecord"] = "native"


class Model(Node):
    backbone: str
    pretrained: bool | str
    backbone_arguments: dict[str, Any]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    mixup_alpha: NonNegative
    cutmix_alpha: NonNegative
    seed: Seed


class AdamW(Node):
    lr: PositiveFloat
    weight_decay: NonNegative = 0.0
    betas: list[Share] = [0.9, 0.999]
    eps: PositiveFloat = 1e-8
    fused: bool | None = None


class SGD(Node):
    lr: PositiveFloat
    weight_decay: NonNegative = 0.0
    momentum: Share = 0.0
    nesterov: bool = False


class WarmupCosine(Node):
    warmup_epochs: NonNegative
    start: Share
    end: Share


class WarmupDecay(Node):
    warmup_epochs: NonNegative
    start: Share
    decay: Annotated[float, Field(gt=0, le=1)]


class SPMDStrategy(Node):
    precision: int | str
    cache_dir: str | None
    hosts: Positive | None


class ModelCheckpoint(Node):
    dirpath: str
    filename: Literal["best"]
    monitor: Metric
    mode: Mode
    auto_insert_metric_name: bool
    enable_version_counter: bool


class LastCheckpoint(Node):
    path: str
    every_n_steps: Positive | None


class EarlyStopping(Node):
    monitor: Metric
    mode: Mode
    patience: Count
    min_delta: NonNegative = 0.0


class ProgressBar(Node):
    metric: Metric
    refresh_rate: Count


class CompileGuard(Node):
    warmup_epochs: Count
    after_warmup: Literal["warn", "fail"]


class EMA(Node):
    decay: Annotated[float, Field(gt=0, lt=1)]


class CSVLogger(Node):
    save_dir: str
    name: str
    version: str
    flush_logs_every_n_steps: Positive = 100


class WandbLogger(Node):
    save_dir: str
    project: str
    name: str | None
    tags: list[str]


class TTA(Node):
    symmetries: Literal["none", "flip", "flips", "all"]
    five_crops: bool
    sizes: list[Positive]


class Monitor(Group):
    metric: Metric
    mode: Mode


class Paths(Group):
    data_dir: str
    kaggle_dir: str
    cache_dir: str
    log_dir: str
    output_dir: str


KNOWN_TARGETS: dict[str, type[Node]] = {
    "torch.optim.AdamW": AdamW,
    "torch.optim.SGD": SGD,
    "flowers.training.schedules.warmup_cosine": WarmupCosine,
    "flowers.training.schedules.warmup_decay": WarmupDecay,
    "flowers.training.callbacks.Throughput": Node,
    "flowers.training.callbacks.NonFiniteGuard": Node,
    "flowers.training.callbacks.ProgressBar": ProgressBar,
    "flowers.training.callbacks.LastCheckpoint": LastCheckpoint,
    "flowers.training.compilation.CompileGuard": CompileGuard,
    "flowers.training.ema.EMA": EMA,
    "flowers.training.loggers.wandb_logger": WandbLogger,
    "flowers.training.xla.strategy.SPMDStrategy": SPMDStrategy,
    "lightning.pytorch.callbacks.ModelCheckpoint": ModelCheckpoint,
    "lightning.pytorch.callbacks.EarlyStopping": EarlyStopping,
    "lightning.pytorch.loggers.CSVLogger": CSVLogger,
}


def _target(node: Any) -> str:
    target = node.get("_target_") if isinstance(node, Mapping) else None
    return target if target in KNOWN_TARGETS else "open"


if TYPE_CHECKING:
    AnyNode = Node
else:
    _nodes = {"open": OpenNode, **KNOWN_TARGETS}
    AnyNode = Annotated[
        Union[tuple(Annotated[node, Tag(target)] for target, node in _nodes.items())],  # noqa: UP007
        Discriminator(_target),
    ]
    """A node of any target, typed by its target where that is known."""


class Trainer(Node):
    """lightning.Trainer's arguments, but for those that this program gives itself or that would do nothing here."""

    accelerator: str
    devices: int | str | list[int]
    strategy: str | AnyNode = "auto"
    num_nodes: Positive = 1
    precision: Precision
    max_epochs: Annotated[int, Field(ge=-1)]
    min_epochs: Count | None = None
    max_steps: Annotated[int, Field(ge=-1)]
    min_steps: Count | None = None
    max_time: Duration | None = None
    fast_dev_run: bool | Positive
    limit_train_batches: Positive | Annotated[float, Field(gt=0, le=1)] | None = None
    limit_val_batches: Count | Share | None = None
    limit_predict_batches: Count | Share | None = None
    overfit_batches: Count | Share = 0
    val_check_interval: Positive | Share | None = None
    check_val_every_n_epoch: Positive | None = 1
    num_sanity_val_steps: Annotated[int, Field(ge=-1)]
    log_every_n_steps: Positive
    accumulate_grad_batches: Positive
    gradient_clip_val: NonNegative | None
    gradient_clip_algorithm: Literal["norm", "value"] | None = None
    deterministic: bool | Literal["warn"] | None = None
    benchmark: bool | None = None
    inference_mode: bool = True
    use_distributed_sampler: Literal[False]
    profiler: str | None = None
    detect_anomaly: bool = False
    sync_batchnorm: bool = False
    enable_model_summary: bool | None = None


class Train(Group):
    """configs/train.yaml."""

    data: Data
    model: Model
    optimizer: AnyNode
    scheduler: AnyNode
    trainer: Trainer
    monitor: Monitor
    callbacks: dict[str, AnyNode | None] | None
    logger: dict[str, AnyNode | None] | None
    paths: Paths
    task_name: str
    tags: list[str]
    seed: Seed
    ckpt_path: str | None


class DataOverrides(Group):
    root: str | None
    image_size: Positive | None
    batch_size: Positive | None
    num_workers: Count | None
    on_bad_record: Literal["stop", "skip"] | None
    storage_options: dict[str, Any] | None


class Evaluate(Group):
    """configs/evaluate.yaml."""

    trainer: Trainer
    run: str
    trust: bool
    data: DataOverrides


class Predict(Evaluate):
    """configs/predict.yaml."""

    split: Literal["train", "val", "test"]
    tta: TTA


class Ensemble(Group):
    """configs/ensemble.yaml."""

    runs: list[str]
    method: Literal["auto", Method]
    methods: Annotated[list[Method], Field(min_length=1)]
    offsets: bool
    allow_missing: bool
    folds: Annotated[int, Field(ge=3)]  # two of them are left out at a time
    resamples: Annotated[int, Field(ge=100)]
    logger: dict[str, AnyNode | None] | None
    paths: Paths
    task_name: str
    tags: list[str]
    seed: Seed


class BenchmarkStep(Group):
    """configs/benchmark_step.yaml."""

    model: Model
    optimizer: AnyNode
    trainer: Trainer
    paths: Paths
    image_size: Positive
    batch_size: Positive
    class_count: Positive
    warmup: Positive
    steps: Positive
    seed: Seed
    results: str


class PrepareVerify(Group):
    """configs/prepare_verify.yaml."""

    root: str
    decode: bool
    report: str | None


class PrepareFolder(Group):
    """configs/prepare_folder.yaml."""

    source: str
    output: str
    sizes: Annotated[list[Positive], Field(min_length=1)]
    val: Annotated[float, Field(ge=0, lt=1)]
    test: Annotated[float, Field(ge=0, lt=1)]
    seed: Seed
    shards: Positive
    duplicate_distance: Annotated[int, Field(ge=0, le=80)]  # from about there on, unrelated photographs are as near
    on_bad_image: Literal["stop", "skip"]
    runner: str | None
    runner_options: list[str]


class LoaderData(Group):
    root: str | None


class BenchmarkLoader(Group):
    """configs/benchmark_loader.yaml."""

    data: LoaderData
    paths: Paths
    sizes: Annotated[list[Positive], Field(min_length=1)]
    tasks: Annotated[list[Literal["decode", "flip", "full"]], Field(min_length=1)]
    contestants: Annotated[list[Literal["flowers", "tf.data", "tfrecord", "ceiling"]], Field(min_length=1)]
    batch_size: Positive
    workers: Positive | None
    rounds: Positive
    seconds: PositiveFloat
    seed: Seed
    results: str


SCHEMAS: dict[str, type[Group]] = {
    "train": Train,
    "evaluate": Evaluate,
    "predict": Predict,
    "ensemble": Ensemble,
    "benchmark_step": BenchmarkStep,
    "prepare_verify": PrepareVerify,
    "prepare_folder": PrepareFolder,
    "benchmark_loader": BenchmarkLoader,
}


def check_config(schema: type[Group], config: Mapping[str, Any]) -> None:
    """Raise `InputError` for every key of a composed configuration that is unknown, missing or of another type."""
    try:
        schema.model_validate(config)
    except ValidationError as error:
        keys = known_keys(schema)
        raise InputError("\n".join(dict.fromkeys(_explain(fault, keys) for fault in error.errors()))) from None


def _explain(fault: Any, keys: list[str]) -> str:
    # A union adds the name of its branch to the place: no part of the key.
    branches = {*KNOWN_TARGETS, "open", "bool", "int", "float", "str", "none"}
    key = ".".join(str(part) for part in fault["loc"] if part not in branches and "[" not in str(part))
    if fault["type"] == "extra_forbidden":
        return f"{key}: no such setting.{nearest(key, keys)}"
    if fault["type"] == "missing":
        return f"{key}: expected a value, found none. Set it with {key}=VALUE."
    return f"{key}={fault['input']}: {fault['msg'].replace('Input should be', 'expected')}, found {fault['input']!r}."


def nearest(key: str, keys: list[str]) -> str:
    """A hint at the known key that is most like this one, or at the keys beside it; empty where there are none."""
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.75)
    if close:
        return f" Did you mean {close[0]}?"
    parent = key.rpartition(".")[0]
    beside = [name for name in keys if name.rpartition(".")[0] == parent]
    return f" Known here: {', '.join(beside)}." if beside else ""


def known_keys(schema: type[BaseModel]) -> list[str]:
    """All dotted keys that a schema allows, those of known targets at the places where they usually stand."""
    usual: dict[str, list[type[Node]]] = {
        "optimizer": [AdamW, SGD],
        "scheduler": [WarmupCosine, WarmupDecay],
        "trainer.strategy": [SPMDStrategy],
        "callbacks.model_checkpoint": [ModelCheckpoint],
        "callbacks.last_checkpoint": [LastCheckpoint],
        "callbacks.early_stopping": [EarlyStopping],
        "callbacks.progress_bar": [ProgressBar],
        "callbacks.compile_guard": [CompileGuard],
        "callbacks.ema": [EMA],
        "logger.csv": [CSVLogger],
        "logger.wandb": [WandbLogger],
    }
    keys = list(_dotted(schema, ""))
    for place, nodes in usual.items():
        if place.partition(".")[0] in schema.model_fields:
            keys += [place, *(key for node in nodes for key in _dotted(node, f"{place}."))]
    return list(dict.fromkeys(keys))


def _dotted(schema: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in schema.model_fields.items():
        key = prefix + (field.alias or name)
        yield key
        for part in [field.annotation, *get_args(field.annotation)]:
            if isinstance(part, type) and get_origin(part) is None and issubclass(part, BaseModel):
                yield from _dotted(part, f"{key}.")
