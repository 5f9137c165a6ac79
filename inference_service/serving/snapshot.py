"""A model at this moment, made into a view."""

from __future__ import annotations

import time
from collections import Counter

from inference_service.capacity.admission import Admission
from inference_service.lifecycle import State, Status
from inference_service.serving.entry import Entry
from inference_service.serving.run import Run
from inference_service.serving.runs import Runs
from inference_service.serving.view import InstanceView, View


def snapshot(wanted: Entry, runs: Runs | None, status: Status, admission: Admission) -> View:
    """Return the view of a model; `wanted` is the entry of its next runs.

    The view has the entry of the present runs, until these have ended.
    """
    now, present = time.time(), [*(runs or ())]
    entry = next((run.entry for run in present if run.entry != wanted), wanted)
    instances = tuple(_instance(run, admission) for run in present)
    queued = runs.slots.queued if runs else 0
    expires = _expire_time(present) if status.state is State.READY else None
    gpus: Counter[str] = Counter()
    for instance in instances:
        gpus.update(instance.gpus)
    return View(
        id=wanted.spec.id,
        hf_name=entry.spec.hf_name,
        aliases=entry.spec.aliases,
        paths=entry.engine.paths(entry.spec),
        engine=entry.engine.name,
        runtime=entry.runtime.name,
        placement=entry.placement,
        context_length=entry.spec.context_length,
        memory_bytes=entry.command.needs.memory_bytes,
        pinned=entry.spec.pinned,
        status=status,
        gpus=gpus,
        active_count=sum(instance.active_count for instance in instances) + queued,
        queued_count=queued,
        expire_time=expires,
        seen=now,
        instances=instances,
    )


def _instance(run: Run, admission: Admission) -> InstanceView:
    return InstanceView(
        name=run.entry.runtime.container_name(run.key),
        url=run.running.instance.url if run.running else "",
        state=run.report.status.state,
        active_count=run.leases.count,
        gpus=admission.gpu_amounts(run.key),
    )


def _expire_time(runs: list[Run]) -> float | None:
    """Return when the last of the runs is stopped for being idle; None is never."""
    each = [run.leases.expire_time for run in runs]
    known = [expires for expires in each if expires is not None]
    return max(known, default=None) if len(known) == len(each) else None
