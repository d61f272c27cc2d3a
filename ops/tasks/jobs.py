"""Jobs: submit, follow, list, show and cancel them; list their tasks."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from invoke.context import Context

from agent.common.errors import JobFailed, NotFound, UsageError
from agent.rainstorm.client import RainstormClient
from agent.rainstorm.messages.status import JobStatus, TaskStatus
from ops import oneline as course
from ops.cluster import inventory
from ops.cluster.connections import Connections, connected
from ops.demo import samples
from ops.output import progress, render
from ops.output import watch as watching
from ops.output.errors import command

INVENTORY = {"inventory": "inventory file of the cluster"}
JSON = {"json": "print one JSON object"}
_find = inventory.find


@command(
    help={
        "job": "job file (default: jobs/sample.yml; its input is created if it is missing)",
        "sink": "write the result to this file in HyDFS instead of the one in the job file",
        "rate": "read this many lines per second instead of the job file's rate (0: full speed)",
        "timeout": "stop waiting after this many seconds; the job keeps running (0: never)",
        "detach": "submit the job and do not wait for its end",
        **JSON,
        **INVENTORY,
    }
)
def submit_job(
    context: Context,
    job: str = "",
    sink: str = "",
    rate: int = -1,
    timeout: float = 0.0,
    detach: bool = False,
    json: bool = False,
    inventory: str = "",
) -> None:
    """jobs: run a job file and wait for its end"""
    spec = samples.load_job(Path(job) if job else samples.SAMPLE_JOB)
    if rate >= 0:
        _section(spec, "source")["rate"] = rate
    if sink:
        _section(spec, "sink")["file"] = sink
    with connected(_find(inventory)) as connections:
        if not job:
            _provide_sample(connections, spec, choose_sink=not sink)
        _run(connections, spec, timeout, detach, json)


@command(
    positional=("line",),
    help={
        "line": "Nstages Ntasks op1 args1 ... src dest exactly_once autoscale [INPUT_RATE [LW HW]], or "
        "op1 args1 op2 args2 src dest num_tasks; operators: Filter PATTERN, Equals N VALUE, Transform [N], "
        "Count [N], Sum N N, Identity; columns N of CSV are numbered from 0",
        "dry_run": "only print the job file that the line stands for",
        "timeout": "stop waiting after this many seconds; the job keeps running (0: never)",
        "detach": "submit the job and do not wait for its end",
        **JSON,
        **INVENTORY,
    },
)
def rainstorm(
    context: Context,
    line: str,
    dry_run: bool = False,
    timeout: float = 0.0,
    detach: bool = False,
    json: bool = False,
    inventory: str = "",
) -> None:
    """jobs: run a one-line job, in the courses' grammar of 2024 or 2025"""
    asked = course.parse(line)
    for note in asked.notes:
        render.say(f"note: {note}")
    if dry_run:
        if json:
            render.print_json(job=asked.job, notes=asked.notes)
        else:
            print(yaml.safe_dump(asked.job, sort_keys=False), end="")
        return
    with connected(_find(inventory)) as connections:
        _run(connections, asked.job, timeout, detach, json)


@command(
    help={
        **JSON,
        "watch": "refresh repeatedly, in place (with --json: one object per line); Ctrl-C stops",
        **INVENTORY,
    }
)
def jobs(context: Context, watch: bool = False, json: bool = False, inventory: str = "") -> None:
    """jobs: list all jobs, newest last"""
    with connected(_find(inventory)) as connections:

        def report() -> None:
            found = connections.rainstorm().jobs()
            found.sort(key=lambda each: each.submitted_at)
            if json:
                show = render.print_json_line if watch else render.print_json
                show(jobs=found)
            else:
                _print_jobs(found)

        if watch:
            watching.watch(report, plain=json)
        else:
            report()


def _print_jobs(found: list[JobStatus]) -> None:
    if not found:
        render.say("no jobs yet; run one: fab submit-job")
        return
    rows = [
        [
            each.job,
            each.name,
            each.state,
            render.utc(each.submitted_at),
            render.seconds(each.elapsed_s),
            each.lines_read,
            each.epochs_committed,
            len(each.recoveries),
        ]
        for each in found
    ]
    render.print_table(
        ("job", "name", "state", "submitted", "elapsed", "lines", "epochs", "recoveries"), rows
    )


@command(
    positional=("job_id",),
    help={
        "job_id": "the job's id or its first letters",
        "follow": "show the progress until the job ends",
        **JSON,
        **INVENTORY,
    },
)
def job(context: Context, job_id: str, follow: bool = False, json: bool = False, inventory: str = "") -> None:
    """jobs: show one job: progress, tasks, recoveries"""
    with connected(_find(inventory)) as connections:
        client = connections.rainstorm()
        whole_id = _expand(client, job_id)
        if follow:
            _finish(connections, _wait(client, whole_id, None), json)
            return
        found = client.job(whole_id)
    if json:
        render.print_json(**dataclasses.asdict(found))
    else:
        _print_job(found)


@command(
    positional=("job_id",),
    help={
        "job_id": "the job's id or its first letters",
        "dry_run": "only show which job would be cancelled",
        **JSON,
        **INVENTORY,
    },
)
def cancel_job(
    context: Context, job_id: str, dry_run: bool = False, json: bool = False, inventory: str = ""
) -> None:
    """jobs: cancel a job; its committed output stays"""
    with connected(_find(inventory)) as connections:
        client = connections.rainstorm()
        whole_id = _expand(client, job_id)
        ended = client.job(whole_id) if dry_run else client.cancel(whole_id)
    if json:
        render.print_json(job_id=whole_id, state=ended.state, dry_run=dry_run)
    else:
        print(f"{'would stop ' if dry_run else ''}{whole_id}: {ended.state}")


@command(help={"vm": "only tasks on this node", **JSON, **INVENTORY})
def list_tasks(context: Context, vm: str = "", json: bool = False, inventory: str = "") -> None:
    """jobs: list the running tasks with node, process id and rate"""
    found_inventory = _find(inventory)
    node = found_inventory.node(vm).name if vm else ""
    with connected(found_inventory) as connections:
        found = [each for each in connections.rainstorm().tasks() if not node or each.node == node]
    if json:
        render.print_json(tasks=found)
        return
    if not found:
        render.say("no tasks are running" + (f" on {node}" if node else ""))
        return
    _print_tasks(found)


def _run(connections: Connections, spec: dict[str, Any], timeout: float, detach: bool, json: bool) -> None:
    client = connections.rainstorm()
    job_id = client.submit(spec)
    render.say(f"submitted {job_id}: {spec.get('name', 'job')}")
    if detach:
        if json:
            render.print_json(job_id=job_id)
        else:
            print(job_id)
        render.say(f"follow it: fab job {job_id}   stop it: fab cancel-job {job_id}")
        return
    _finish(connections, _wait(client, job_id, timeout or None), json)


def _section(spec: dict[str, Any], name: str) -> dict[str, Any]:
    section = spec.setdefault(name, {})
    if not isinstance(section, dict):
        raise UsageError(f"the job file's {name!r} is not a mapping", hint="see the samples in jobs/")
    return section


def _provide_sample(connections: Connections, spec: dict[str, Any], *, choose_sink: bool) -> None:
    store = connections.hydfs()
    name = str(spec["source"]["file"])
    local = samples.input_file(inventory.LOCAL_FOLDER, samples.SAMPLE_ROWS, samples.SEED)
    if samples.ensure_stored(store, name, local):
        render.say(f"stored the sample input as {name}: {samples.SAMPLE_ROWS:,} rows")
    if choose_sink:
        spec["sink"]["file"] = samples.free_name(store, str(spec["sink"]["file"]))


def _wait(client: RainstormClient, job_id: str, timeout_s: float | None) -> progress.Job:
    try:
        with progress.Progress().shown() as shown:
            return progress.follow(client, job_id, on_look=shown.update, timeout_s=timeout_s)
    except KeyboardInterrupt:
        render.say(f"\ndetached; the job keeps running. follow it: fab job {job_id} --follow")
        render.say(f"stop it: fab cancel-job {job_id}")
        sys.exit(130)


def _finish(connections: Connections, ended: progress.Job, json: bool) -> None:
    if json:
        render.print_json(**dataclasses.asdict(ended))
    else:
        _print_job(ended, with_tasks=False)
    if ended.state != "finished":
        raise JobFailed(
            f"job {ended.job} {ended.state}: {progress.reason(ended)}",
            hint=f"fab job {ended.job}",
        )
    if not json:
        length = connections.hydfs().stat(ended.sink).length
        print(f"result: {ended.sink} in HyDFS, {render.size(length)}")
    render.say(f"fetch it: fab get {ended.sink} result.csv   (or print it: fab get {ended.sink} -)")


def _expand(client: RainstormClient, job_id: str) -> str:
    known = [each.job for each in client.jobs()]
    if job_id in known:
        return job_id
    matching = [each for each in known if each.startswith(job_id)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        several = f"the ids of {len(matching)} jobs begin with {job_id!r}: {', '.join(matching)}"
        raise UsageError(several, hint="fab jobs")
    raise NotFound(f"there is no job {job_id!r}", hint="list them: fab jobs")


def _print_job(found: progress.Job, *, with_tasks: bool = True) -> None:
    rate = found.lines_read / (found.elapsed_s or 1.0) if found.has_ended else found.lines_per_s
    print(f"job {found.job} ({found.name}): {found.state}")
    if found.error is not None:
        print(f"  error       {progress.reason(found)}")
    print(f"  submitted   {render.utc(found.submitted_at)}   elapsed {render.seconds(found.elapsed_s)}")
    print(
        f"  read        {render.count(found.lines_read)} lines, "
        f"{render.size(found.bytes_read)}   {render.count(rate)} lines/s"
    )
    print(f"  epochs      {found.epochs_committed} committed, generation {found.generation}")
    print(f"  sink        {found.sink or '-'}   leader {found.leader or '-'}   term {found.term}")
    for each in found.recoveries:
        print(
            f"  recovery    generation {each.generation} at {render.utc(each.at)}, "
            f"{render.seconds(each.seconds)}: {each.cause}"
        )
    if with_tasks and found.tasks:
        _print_tasks(found.tasks)


def _print_tasks(found: Sequence[TaskStatus]) -> None:
    rows = [
        [
            each.job,
            each.task,
            each.operator,
            each.node,
            str(each.pid or "-"),
            each.state,
            each.lines_per_s,
        ]
        for each in found
    ]
    render.print_table(("job", "task", "operator", "node", "pid", "state", "lines/s"), rows)
