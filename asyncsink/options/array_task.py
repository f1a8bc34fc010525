"""Which task of an array job this process is, as schedulers say it in the environment."""

from __future__ import annotations

import os

from asyncsink.errors import ConfigError

VARIABLES = ("SLURM_ARRAY_TASK_ID", "AWS_BATCH_JOB_ARRAY_INDEX", "PBS_ARRAY_INDEX", "LSB_JOBINDEX")


def array_task() -> int:
    """The number of the task.

    Raises:
        ConfigError: no scheduler says one, or it is no number.
    """
    for name in VARIABLES:
        value = os.environ.get(name, "")
        if not value or (name == "LSB_JOBINDEX" and value == "0"):  # LSF counts from 1; 0 is no array job
            continue
        if not (value.isascii() and value.isdigit()):
            raise ConfigError(f"{name}={value!r:.60} is no number of a part; expected 0 or more.")
        return int(value)
    raise ConfigError(
        f"part is auto, but this is no task of an array job: none of {', '.join(VARIABLES)} is set; give the number."
    )
