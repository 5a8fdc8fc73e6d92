"""Run independent tasks as an Apache Beam pipeline, on any runner: DirectRunner, DataflowRunner, FlinkRunner."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from flowers.errors import InputError


def run_on_beam(
    runner: str, options: Sequence[str], work: Callable[[Any], int], tasks: Sequence[Any], description: str, total: int
) -> None:
    """Call `work` with every task on a Beam runner, and wait until all are done.

    Args:
        runner: the runner's name.
        options: the runner's flags, such as `--project=x`.
        work: the function, as `flowers.preparation.runner.TaskRunner` describes it.
        tasks: the tasks.
        description: the name of the pipeline's step.
        total: unused, because the runner shows the progress.

    Raises:
        InputError: Beam is not installed or has no such runner, or a task raised one.
    """
    beam = _import_beam()
    from apache_beam.options.pipeline_options import PipelineOptions

    try:
        pipeline = beam.Pipeline(runner=runner, options=PipelineOptions(list(options)))
    except ValueError as error:
        raise InputError(f"runner={runner}: expected a runner that Beam has: {error}") from None
    # Reshuffled: fused with their source, the tasks would all run on one worker.
    _ = pipeline | beam.Create(list(tasks)) | beam.Reshuffle() | description >> beam.Map(lambda task: work(task))
    try:
        pipeline.run().wait_until_finish()
    except Exception as error:
        if message := _input_error(error):
            raise InputError(message) from None
        raise


def _import_beam() -> Any:
    try:
        import apache_beam
    except ImportError:
        raise InputError("runner: expected Apache Beam, which is not installed: pip install -e '.[beam]'") from None
    return apache_beam


def _input_error(error: Exception) -> str | None:
    """Return the message of an `InputError` that a task raised, without the text or traceback that runners add."""
    text = f"{type(error).__module__}.{type(error).__qualname__}: {error}"
    ours = re.escape(InputError.__module__)
    found = re.search(rf"{ours}\.\w+: (?P<message>.*?)( \[while running|\n\n|\Z)", text, re.DOTALL)
    return found["message"].strip() if found else None
