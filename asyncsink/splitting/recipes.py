"""Recipes: scripts and definitions with which schedulers publish a split. Pure texts.

A scheduler's array has a largest size; a split of more parts gives each task of the array a range of them.
"""

from __future__ import annotations

import json
import shlex
from typing import Any

from asyncsink.errors import ConfigError
from asyncsink.splitting.files import SplitPlan

RECIPES = ("slurm", "batch", "dask-slurm")
SLURM_TASKS_MAX = 1001
"""Slurm's default of MaxArraySize, which is one more than the highest number of a task."""
SLURM_TASKS_AT_ONCE = 16
BATCH_TASKS_MAX = 10_000
"""Of an array job of AWS Batch, whose least size is 2."""


def recipe_of(kind: str, directory: str, plan: SplitPlan | None) -> str:
    """The recipe with this name; no line break at the end.

    Args:
        kind: one of `RECIPES`.
        directory, plan: of the split, absolute; "" and None without one.

    Raises:
        ConfigError: there is none without a split, or none for this split.
    """
    if kind == "dask-slurm":
        return _dask_slurm(plan)
    if plan is None:
        raise ConfigError(f"The recipe {kind} needs DIR; give the directory that asyncsink split has written.")
    if not directory.isprintable():
        raise ConfigError(f"The directory {directory!r} has a character that a script cannot hold; rename it.")
    if not plan.parts:
        raise ConfigError(f"The split in {directory!r} has no parts: there is nothing to publish.")
    return _slurm(directory, plan) if kind == "slurm" else _batch(directory, plan)


def _tasks(parts: int, tasks_max: int) -> tuple[int, int]:
    """Number of tasks, and of the parts that each of them publishes; the last one may have fewer."""
    each = -(-parts // tasks_max)
    return -(-parts // each), each


def _run(directory: str, parts: int, each: int, variable: str) -> str:
    """The shell commands of a task."""
    if each == 1:
        return f"exec asyncsink run {shlex.quote(directory)} --part auto"
    return (
        f"first=$(({variable} * {each})) last=$(({variable} * {each} + {each - 1}))\n"
        f'exec asyncsink run {shlex.quote(directory)} --part "$first-$((last < {parts - 1} ? last : {parts - 1}))"'
    )


def _ranges(parts: int, each: int, array: str) -> str:
    return (
        f"{array}, so that each task publishes {each} parts: task T has the parts {each} * T to {each} * T + {each - 1}"
        f" (the last of all is {parts - 1})"
    )


# -- Slurm -------------------------------------------------------------------------------------------------------------


def _slurm(directory: str, plan: SplitPlan) -> str:
    parts = len(plan.parts)
    tasks, each = _tasks(parts, SLURM_TASKS_MAX)
    merged = shlex.quote(f"{directory}/merged.jsonl")
    ranges = (
        f"# An array of Slurm has at most {SLURM_TASKS_MAX:,} tasks (MaxArraySize)\n"
        f"# {_ranges(parts, each, 'by default')}.\n"
        if each > 1
        else ""
    )
    return f"""\
#!/bin/bash
# Publishes the {parts:,} parts of a split with Slurm, and merges their receipts. All nodes need DIR and the source.
#
#   Save:                 asyncsink recipe slurm DIR > publish.sh
#   Submit:               bash publish.sh
#   Tasks that failed:    bash publish.sh 3,17        these alone; what they have published is not sent again
#   More or fewer at once, while it runs: scontrol update JobId=ARRAY_JOB ArrayTaskThrottle=32
#
# The output of the merge job names the parts that are missing or have failures.
# Credentials and AWS_ENDPOINT_URL are those of the shell that submits this, and so is an activated virtual environment:
# sbatch hands them on. --time, --partition and --account are your site's: add them as further #SBATCH lines.
{ranges}set -euo pipefail

array=$(sbatch --parsable --array="${{1:-0-{tasks - 1}}}%{min(tasks, SLURM_TASKS_AT_ONCE)}" <<'TASK'
#!/bin/bash
#SBATCH --job-name=asyncsink-run
#SBATCH --cpus-per-task=1
#SBATCH --mem=2G
# A task that is preempted, or whose node is lost, is run again. 120 seconds before its time ends, asyncsink gets a
# SIGTERM (by B: and exec), and ends in order.
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --open-mode=append
{_run(directory, parts, each, "SLURM_ARRAY_TASK_ID")}
TASK
)
merge=$(sbatch --parsable --dependency="afterany:${{array%%;*}}" <<'MERGE'
#!/bin/bash
#SBATCH --job-name=asyncsink-merge
#SBATCH --cpus-per-task=1
#SBATCH --mem=2G
exec asyncsink merge {shlex.quote(directory)} -o {merged}
MERGE
)
echo "Array job ${{array%%;*}}; then merge job ${{merge%%;*}}, which writes" {merged}"""


# -- AWS Batch ---------------------------------------------------------------------------------------------------------


def _batch(directory: str, plan: SplitPlan) -> str:
    parts = len(plan.parts)
    tasks, each = _tasks(parts, BATCH_TASKS_MAX)
    run = ["asyncsink", "run", directory, "--part"]
    command = [*run, "auto"] if each == 1 else ["sh", "-c", _run(directory, parts, each, "AWS_BATCH_JOB_ARRAY_INDEX")]
    merged = f"{directory}/merged.jsonl"
    shared = directory.rpartition("/")[0] or directory
    job: dict[str, Any] = {"jobQueue": "JOB_QUEUE", "jobDefinition": "asyncsink-run"}
    array: dict[str, Any] = {"arrayProperties": {"size": tasks}} if tasks > 1 else {}
    if tasks == 1:  # no array, and no number of a task in the environment
        command = [*run, "0"]
    how = [
        f"AWS Batch publishes the {parts:,} parts of {directory}. Replace the names in capitals.",
        f"DIR and the source are on a file system that all hosts have mounted (EFS, FSx for Lustre): the volume is "
        f'{shared}, at the same path as here. With Fargate, and for EFS that no host has mounted, replace "host" by '
        '"efsVolumeConfiguration". A source that is elsewhere needs a volume too, and --root OLD=NEW where its path '
        "differs.",
        "Credentials are the job role's (jobRoleArn). It needs s3:ListBucket, s3:GetObject, s3:PutObject, "
        f"s3:AbortMultipartUpload and s3:ListMultipartUploadParts on {plan.destination}. Nothing here is a secret.",
        "The image has asyncsink on its PATH.",
        "1. Save: asyncsink recipe batch DIR > batch.json",
        '2. Define: aws batch register-job-definition --cli-input-json "$(jq .job_definition batch.json)"',
        '3. Submit: job=$(aws batch submit-job --cli-input-json "$(jq .submit_job batch.json)" --query jobId '
        "--output text)",
        '4. Merge: aws batch submit-job --cli-input-json "$(jq .submit_merge batch.json)" --depends-on "jobId=$job"',
        "Where a task has failed, Batch does not start the job that depends on it: submit_missing publishes all parts "
        "without complete receipts, in one job; then submit submit_merge without --depends-on.",
    ]
    if each > 1:
        limit = f"An array job has at most {BATCH_TASKS_MAX:,} tasks"
        how.append(f"{_ranges(parts, each, limit)}.")
    definition = {
        "jobDefinitionName": "asyncsink-run",
        "type": "container",
        "platformCapabilities": ["EC2"],
        "containerProperties": {
            "image": "IMAGE",
            "command": command,
            "jobRoleArn": "JOB_ROLE_ARN",
            "resourceRequirements": [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "2048"}],
            "volumes": [{"name": "shared", "host": {"sourcePath": shared}}],
            "mountPoints": [{"sourceVolume": "shared", "containerPath": shared, "readOnly": False}],
        },
        # A host that is taken away is the usual reason. Exit code 2 is wrong usage, which no attempt mends.
        "retryStrategy": {"attempts": 3, "evaluateOnExit": [{"onExitCode": "2", "action": "EXIT"}]},
    }
    recipe = {
        "comments": how,
        "job_definition": definition,
        "submit_job": {"jobName": "asyncsink-run", **job, **array},
        "submit_merge": {
            "jobName": "asyncsink-merge",
            **job,
            "containerOverrides": {"command": ["asyncsink", "merge", directory, "-o", merged]},
        },
        "submit_missing": {
            "jobName": "asyncsink-missing",
            **job,
            "containerOverrides": {"command": [*run, "missing"]},
        },
    }
    return json.dumps(recipe, indent=1)


# -- Dask on Slurm -----------------------------------------------------------------------------------------------------


def _dask_slurm(plan: SplitPlan | None) -> str:
    """Dask cuts the source itself, so that only source, destination and options of a split are of use."""
    if plan is not None and not plan.source:
        raise ConfigError(
            "The split is not of one directory; call asyncsink.adapters.dask.export in a Python program, with the "
            "cluster of: asyncsink recipe dask-slurm."
        )
    if plan is not None and "://" not in plan.destination:
        raise ConfigError(
            f"The split is for the directory {plan.destination!r}, which Dask's workers do not fill; expected a split "
            "for s3://bucket/prefix, or another recipe."
        )
    source, destination = (plan.source, plan.destination) if plan is not None else ("SOURCE", "s3://BUCKET/PREFIX")
    options = f", **{plan.options!r}" if plan is not None and plan.options else ""
    edit = "" if plan is not None else "# Replace SOURCE and s3://BUCKET/PREFIX, or give the DIR of a split.\n"
    return f"""\
# Publishes a directory by Dask workers that are Slurm jobs: pip install 'asyncsink[dask]' dask-jobqueue
# Dask deals small parts out on demand: nothing is split before. All nodes need the source, at the same path, and each
# worker has its own credentials. Add your site's queue= and account=. Run this on a node that may submit jobs.
{edit}import asyncio

from dask_jobqueue import SLURMCluster
from distributed import Client

from asyncsink.adapters.dask import export_directory

if __name__ == "__main__":
    with SLURMCluster(cores=1, processes=1, memory="2GB", walltime="04:00:00") as cluster, Client(cluster) as client:
        cluster.scale(jobs=8)
        report = asyncio.run(export_directory(client, {source!r}, {destination!r}{options}))
    print(report.summary())
    report.raise_for_failures()"""
