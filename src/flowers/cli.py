"""The edge of every command: compose the configuration, check it, run, and print what a user can put right."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from flowers.errors import FULL, UNWRITABLE, InputError
from flowers.system.termination import Terminated, raise_on_signals

PACKAGED = Path(__file__).resolve().parent / "configs"
CONFIGS = PACKAGED if PACKAGED.is_dir() else Path(__file__).resolve().parents[2] / "configs"
"""Those inside an installed package, or the repository's beside `src/`: always those of the code that runs."""


def run_subcommand(commands: Mapping[str, Callable[[DictConfig], Any]], script: str) -> None:
    """Open the door that the first argument names: `python src/SCRIPT.py COMMAND`, of configs/SCRIPT_COMMAND.yaml."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    choices = ", ".join(f"python src/{script}.py {name}" for name in commands)
    if command in ("-h", "--help"):
        print(f"Commands: {choices}. Each has its own --help.")
        return
    if command not in commands:
        sys.exit(f"error: expected a command, found {command or 'none'}. Choices: {choices}.")
    del sys.argv[1]  # which Hydra would take for a setting

    def main(config: DictConfig) -> Any:
        sys.argv.insert(1, command)  # for the processes that Lightning starts with the same command
        try:
            return commands[command](config)
        finally:
            del sys.argv[1]

    run_command(main, f"{script}_{command}")


def run_command(main: Callable[[DictConfig], Any], name: str) -> None:
    """Run `main` with the configuration `configs/NAME.yaml` and the command line's overrides.

    Bad input ends with exit status 1 and one message on standard error; a mistake of ours keeps its traceback.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would print the errors itself, and exit
    raise_on_signals()

    def checked(config: DictConfig) -> Any:
        from flowers.config import SCHEMAS, check_config

        _run_job_alone()

        # Errors end here, not around Hydra, which would add a line of its own.
        try:
            values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
            check_config(SCHEMAS[name], cast(dict[str, Any], values))
            return main(config)
        except InputError as error:
            sys.exit(f"error: {error}")
        except OmegaConfBaseException as error:
            sys.exit(f"error: {_explain(error, name)}")
        except InstantiationException as error:
            if message := _unmade(error):
                sys.exit(f"error: {message}")
            raise
        except OSError as error:
            _exit_unwritable(error)
            raise
        except RuntimeError as error:
            if lost := re.match(r"DataLoader worker .*(?:killed by signal: \w+|exited unexpectedly)", str(error)):
                sys.exit(
                    f"error: {lost[0]}. Most often the machine was short of memory: set data.num_workers or "
                    "data.batch_size lower."
                )
            raise

    try:
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=name)(checked)()
    except Terminated as end:
        if end.code:  # 0 in a run's other processes
            print(f"error: {end.message}", file=sys.stderr)
        raise
    except InstantiationException:
        raise
    except HydraException as error:
        sys.exit(f"error: {_explain(error, name)}")
    except OSError as error:  # of the directory that Hydra makes for the run
        _exit_unwritable(error)
        raise
    except ValueError as error:
        if isinstance(error.__cause__, OSError):  # of the log file that Hydra opens there
            _exit_unwritable(error.__cause__)
        if "Config group override" not in str(error):  # which Hydra says without a word about the group
            raise
        group = next((argument for argument in sys.argv[1:] if argument.endswith("=null")), "a group")
        sys.exit(f"error: {group}: expected one of the group's choices, found none. --help lists them.")


def _exit_unwritable(error: OSError) -> None:
    """Exit with a message if an error is one of the disk, which the user can put right."""
    if error.errno in UNWRITABLE:
        where = f"{error.filename}: " if error.filename else ""
        fix = "Make room, or use another place" if error.errno in FULL else "Use another place"
        sys.exit(f"error: {where}cannot be read or written: {error.strerror}. {fix}.")


def _run_job_alone() -> None:
    """Make a multirun's job look like a run of its own: Lightning starts a job's other processes with its command line.

    With the multirun's they would run all jobs, each in a directory of its own.
    """
    job = HydraConfig.get()
    if job.mode == RunMode.MULTIRUN:
        sys.argv[1:] = [*job.overrides.task, "hydra.mode=RUN"]
        with read_write(job), open_dict(job):
            job.run.dir = job.runtime.output_dir


def _unmade(error: InstantiationException) -> str | None:
    """Why an object cannot be made as it is configured; None where that is no fault of the configuration."""
    cause = error.__cause__
    chain: BaseException | None = cause
    while chain is not None:  # where importing the target failed, there is an ImportError in between
        if isinstance(chain, InputError):
            return str(chain)
        chain = chain.__cause__
    # Lightning's own for a trainer that cannot be, by name: importing Lightning here would be slow.
    faults = {"MisconfigurationException", "TypeError", "ValueError", "ImportError", "AttributeError", "NoneType"}
    if type(cause).__name__ not in faults:
        return None
    where = re.search(r"full_key: (\S+)", str(error))
    return f"{where[1] if where else 'configuration'}: {cause or str(error).partition(chr(10))[0]}"


def _explain(error: Exception, name: str) -> str:
    """Hydra's message, with the nearest name that it does know."""
    from flowers.config import SCHEMAS, known_keys, nearest

    message = str(error).strip()
    if isinstance(error, MissingConfigException):
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        options = [str(choice) for choice in error.options or []]
        close = "".join(f" Did you mean {group}={choice}?" for choice in get_close_matches(option, options, n=1))
        return f"{group}={option}: no such choice.{close} Choices: {', '.join(options)}."
    if named := re.search(r"full_key: (\S+)", f"{message}\n{error.__cause__}"):
        key = named[1]
        if isinstance(error, MissingMandatoryValue):
            return f"{key}: expected a value, found none. Set it with {key}=VALUE."
        keys = known_keys(SCHEMAS[name])
        if key in keys:
            return f"{key}: not in the configuration, though it may be. Add it as +{key}=VALUE."
        return f"{key}: no such setting.{nearest(key, keys)}"
    return message
