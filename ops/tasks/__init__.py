"""The tasks of ``fab``: daily ones at the top, the local cluster below ``local``, faults below ``fault``."""

from __future__ import annotations

from invoke.collection import Collection

from ops.tasks import cluster, faults, hydfs, jobs, local

namespace = Collection(
    local=Collection(local.up, local.down),
    fault=Collection(faults.crash, faults.start, faults.pause, faults.resume),
)
for module in (cluster, hydfs, jobs):
    for task in Collection.from_module(module).tasks.values():
        namespace.add_task(task)
namespace.add_task(faults.kill_task)
