"""Run a command: compose its configuration, call it, and print errors that the user can fix."""

from __future__ import annotations

import os
import re
import shlex
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from flowers.errors import FULL, UNWRITABLE, InputError, nearest
from flowers.settings import is_node, quote, typed
from flowers.system.processes import exit_with_starter
from flowers.system.termination import Terminated, raise_on_signals
from flowers.targets import locate, parameters_of

PACKAGED = Path(__file__).resolve().parent / "configs"
CONFIGS = PACKAGED if PACKAGED.is_dir() else Path(__file__).resolve().parents[2] / "configs"
"""The configurations of the code that runs: inside the installed package, or else the repository's `configs/`."""

MOVED_SETTINGS = {
    "train": "To evaluate without training, type python src/evaluate.py run=DIR.",
    "optimized_metric": "Set monitor.metric and monitor.mode.",
    "extras": "Tags are set with tags=[...], warnings with python -W.",
    "data.data_dir": "Set data.root, or paths.data_dir for all data sets.",
    "model.optimizer": "Set optimizer=NAME, or optimizer.lr and the like.",
    "model.scheduler": "Set scheduler=NAME, or its settings.",
    "model.compile": "Set trainer.compile=true.",
}
"""Settings of lightning-hydra-template that have another name here, each with what to do instead."""


def run_subcommand(commands: Mapping[str, Callable[[DictConfig], Any]], script: str) -> None:
    """Run the subcommand NAME of `python src/SCRIPT.py NAME`, which is configured in configs/SCRIPT_NAME.yaml."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    choices = ", ".join(f"python src/{script}.py {choice}" for choice in commands)
    if name in ("-h", "--help"):
        print(f"Commands: {choices}. Each has its own --help.")
        return
    if name not in commands:
        sys.exit(f"error: expected a command, found {name or 'none'}. Choices: {choices}.")
    del sys.argv[1]  # Hydra would parse it as an override

    def main(config: DictConfig) -> Any:
        sys.argv.insert(1, name)  # Lightning starts further processes with the same command line
        try:
            return commands[name](config)
        finally:
            del sys.argv[1]

    run_command(main, f"{script}_{name}")


def run_command(main: Callable[[DictConfig], Any], name: str) -> None:
    """Call `main` with the configuration `configs/NAME.yaml` and the command line's overrides.

    Bad input ends with exit status 1 and one message on standard error. Any other exception keeps its traceback.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints the errors itself and exits
    raise_on_signals()
    if os.environ.get("LOCAL_RANK", "0") != "0":
        exit_with_starter()
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # a user's own model and data may be here
    try:
        _refuse_null_groups()
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=name)(_handle_errors(main, name))()
    except Terminated as end:
        if end.code:  # 0 in a run's other processes
            print(f"error: {end.message}", file=sys.stderr)
        raise
    except (InputError, HydraException, OmegaConfBaseException) as error:
        sys.exit(f"error: {_explain(error, name)}")
    except RuntimeError as error:
        if problem := _explain_launcher(error):
            sys.exit(f"error: {problem}")
        raise
    except OSError as error:  # Hydra cannot create the run's directory
        _exit_unwritable(error)
        raise
    except ValueError as error:
        if isinstance(error.__cause__, OSError):  # Hydra cannot open its log file there
            _exit_unwritable(error.__cause__)
        raise


def compose(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose `configs/NAME.yaml` with overrides, as a command does with its command line.

    The settings are not checked: `flowers.settings.load_settings` does that. Hydra sets `paths.output_dir` for
    commands only; here it has no value unless an override sets it.
    """
    instance = GlobalHydra.instance()
    running, instance.hydra = instance.hydra, None  # a running command's, which there can be one of
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config: DictConfig = hydra.compose(name, list(overrides))
    finally:
        GlobalHydra.instance().hydra = running
    return config


def command_line(*, without: Sequence[str] = (), added: Sequence[str] = ()) -> str:
    """Return the shell command that runs this process's job.

    Args:
        without: settings and groups whose overrides are left out.
        added: further overrides.
    """
    script = Path(sys.argv[0])
    program = script.name if script.suffix != ".py" else f"python src/{script.name}"
    overrides = task_overrides(without) if HydraConfig.initialized() else sys.argv[1:]
    return " ".join([program, *map(shlex.quote, [*overrides, *added])])


def overrides_of(group: str) -> list[str]:
    """Return the job's overrides of a config group, its choice and its settings, as they were typed."""
    overrides: list[str] = list(HydraConfig.get().overrides.task)
    return [override for override in overrides if re.match(rf"[+~]*{group}[=./]", override)]


def task_overrides(without: Collection[str] = ()) -> list[str]:
    """Return the job's overrides as they were typed, without those of some top-level keys and what is below them."""
    overrides = list(HydraConfig.get().overrides.task)
    parsed = OverridesParser.create().parse_overrides(overrides)
    names = [re.split(r"[./@]", override.key_or_group)[0] for override in parsed]
    return [override for name, override in zip(names, overrides, strict=True) if name not in without]


def own_search_path() -> list[str]:
    """Return the override that adds the job's own directories of configurations, as `--config-dir` did; or nothing."""
    sources = [source for source in HydraConfig.get().runtime.config_sources if source.schema == "file"]
    own = [source.path for source in sources if Path(source.path) != CONFIGS]
    return [f"hydra.searchpath=[{','.join(quote(f'file://{path}') for path in own)}]"] if own else []


def sibling_command(name: str) -> list[str]:
    """Return the command line that runs another command of this package in the same way as this one runs."""
    script, own = Path(sys.argv[0]), HydraConfig.get().job.config_name
    typed = own if own in script.stem else own.replace("_", "-")
    before, _, after = script.stem.rpartition(typed)
    return [sys.executable, str(script.with_name(f"{before}{name}{after}{script.suffix}"))]


def _handle_errors(main: Callable[[DictConfig], Any], name: str) -> Callable[[DictConfig], Any]:
    """Wrap `main` to exit here on errors that the user can fix: Hydra would add a line of its own."""

    def wrapped(config: DictConfig) -> Any:
        _run_job_alone()
        try:
            return main(config)
        except (InputError, OmegaConfBaseException) as error:
            sys.exit(f"error: {_explain(error, name)}")
        except OSError as error:
            _exit_unwritable(error)
            raise
        except RuntimeError as error:
            if re.search(r"(?i)gloo.*connection (reset|closed) by", str(error), re.DOTALL):
                sys.exit("error: another process of this command has ended; see its message, or it was killed.")
            if lost := re.match(r"DataLoader worker .*(?:killed by signal: \w+|exited unexpectedly)", str(error)):
                sys.exit(
                    f"error: {lost[0]}. Most often the machine ran out of memory: set data.num_workers or "
                    "data.batch_size lower."
                )
            raise

    return wrapped


def _exit_unwritable(error: OSError) -> None:
    """Exit with a message if the disk is full or cannot be written, which the user can fix."""
    if error.errno in UNWRITABLE:
        where = f"{error.filename}: " if error.filename else ""
        fix = "Make room, or use another place" if error.errno in FULL else "Use another place"
        sys.exit(f"error: {where}cannot be read or written: {error.strerror}. {fix}.")


def _run_job_alone() -> None:
    """Make a multirun's job look like a single run.

    Lightning starts a job's other processes with the same command line. With the multirun's command line, each of them
    would run all jobs again, in new directories.
    """
    job = HydraConfig.get()
    if job.mode == RunMode.MULTIRUN:
        sys.argv[1:] = [*job.overrides.task, "hydra.mode=RUN"]
        with read_write(job), open_dict(job):
            job.run.dir = job.runtime.output_dir


def _explain_launcher(error: RuntimeError) -> str | None:
    """Explain why a launcher could not run a multirun's jobs, or return None for other errors."""
    if match := re.search(r"Unknown plugin class : 'hydra_plugins\.(hydra_\w+_launcher)", str(error)):
        package = match[1].replace("_", "-")
        return f"hydra/launcher: needs the package {package}. Install it: pip install {package}."
    if 'Could not detect "srun"' in str(error):
        return "hydra/launcher=slurm: expected a machine that can submit jobs, found no srun. Run it on the cluster."
    if type(error).__module__.startswith("submitit."):  # a job failed; the message ends with what it printed
        return str(error)
    return None


def _refuse_null_groups() -> None:
    """Refuse `GROUP=null` for a group that must have a choice, which Hydra reports without naming the group."""
    for argument in sys.argv[1:]:
        group, _, choice = argument.partition("=")
        optional = group in ("debug", "experiment", "hparams_search")
        if choice == "null" and (CONFIGS / group).is_dir() and not optional:
            choices = ", ".join(sorted(path.stem for path in (CONFIGS / group).glob("*.yaml")))
            raise InputError(f"{argument}: expected one of the group's choices, found none. Choices: {choices}.")


def _explain(error: Exception, name: str) -> str:
    """Return an error's message, with the nearest name for an unknown setting or choice."""
    if isinstance(error, MissingConfigException):
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        choices = [str(option) for option in error.options or []]
        close = "".join(f" Did you mean {group}={option}?" for option in get_close_matches(choice, choices, n=1))
        return f"{group}={choice}: no such choice.{close} Choices: {', '.join(choices)}."
    if isinstance(error, OverrideParseException) and _is_plain_text(error.override):
        key, _, value = error.override.partition("=")
        return f"{error.override}: expected quotes around a text with such characters, found none: {typed(key, value)}"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: expected a value, found none. Set it with {error.full_key}=VALUE."
    if isinstance(error, ConfigCompositionException) and isinstance(error.__cause__, OmegaConfBaseException):
        key = str(error.__cause__.full_key or "")
        return _explain_unknown(key, _compose_groups(name)) if key else str(error).strip()
    return str(error).strip()


def _is_plain_text(override: str) -> bool:
    """Return whether an override that Hydra cannot parse is meant as text, not as a list, a mapping or a function."""
    return re.fullmatch(r"[\w./@+~]+=[^\[\]{}()'\"$]+", override) is not None


def _compose_groups(name: str) -> DictConfig:
    """Compose a command's configuration again with the command line's group choices, but without its settings."""
    GlobalHydra.instance().clear()
    values = [argument for argument in sys.argv[1:] if "=" in argument and not argument.startswith("-")]
    overrides = OverridesParser.create().parse_overrides(values)
    own = _own_config_dirs()
    groups = [
        override.input_line
        for override in overrides
        if any((directory / override.key_or_group).is_dir() for directory in (CONFIGS, *own))
    ]
    groups.append(f"hydra.searchpath=[{','.join(quote(f'file://{directory.resolve()}') for directory in own)}]")
    return compose(name, groups)


def _own_config_dirs() -> list[Path]:
    """Return the directory that is given as `--config-dir`, if any."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    directory: Path | None = parser.parse_known_args(sys.argv[1:])[0].config_dir
    return [] if directory is None else [directory]


def _explain_unknown(key: str, config: DictConfig) -> str:
    """Explain that a setting does not exist, with the nearest configured key or class parameter."""
    for known, fix in MOVED_SETTINGS.items():
        if key == known or key.startswith(f"{known}."):
            return f"{known}: no such setting. {fix}"
    values = OmegaConf.to_container(config, resolve=False)
    known_keys = list(_keys(values))
    if get_close_matches(key, known_keys, n=1, cutoff=0.75):
        return f"{key}: no such setting.{nearest(key, known_keys)}"
    parent = key.rpartition(".")[0]
    node = OmegaConf.select(config, parent) if parent else None
    if node is not None and is_node(node):
        taken = [f"{parent}.{parameter}" for parameter in parameters_of(locate(node["_target_"], parent))[0]]
        if key in taken:
            return f"{key}: not in the configuration, but {node['_target_']} takes it. Add it as +{key}=VALUE."
        return f"{key}: no such setting.{nearest(key, taken)}"
    beside = [known for known in known_keys if known.rpartition(".")[0] == parent]
    return f"{key}: no such setting.{nearest(key, beside)}"


def _keys(values: Any, prefix: str = "") -> Iterator[str]:
    for key, value in values.items() if isinstance(values, dict) else ():
        yield f"{prefix}{key}"
        yield from _keys(value, f"{prefix}{key}.")
