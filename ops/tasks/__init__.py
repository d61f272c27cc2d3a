"""The tasks of ``fab``: the common ones at the top level, and groups ``local`` (the local cluster), ``lab``,
``fault`` and ``keys`` (gossip keys)."""

from __future__ import annotations

from invoke.collection import Collection

from ops.tasks import agents, cluster, faults, hydfs, jobs, keys, lab, local, logs, membership

namespace = Collection(
    local=Collection(local.up, local.down),
    lab=Collection(lab.up, lab.down, lab.status, lab.shell),
    keys=Collection(keys.rotate_keys, keys.list_keys),
    fault=Collection(
        faults.crash,
        faults.start,
        faults.pause,
        faults.resume,
        faults.partition,
        faults.one_way,
        faults.loss,
        faults.delay,
        faults.bandwidth,
        faults.disk_full,
        faults.clock,
        faults.list_,
        faults.heal,
    ),
)
for module in (agents, cluster, hydfs, jobs):
    for task in Collection.from_module(module).tasks.values():
        namespace.add_task(task)
for task in (
    membership.members,
    membership.list_mem,
    membership.list_self,
    membership.list_mem_ids,
    membership.display_suspects,
    membership.display_protocol,
    membership.switch,
    membership.why,
    membership.join,
    membership.leave,
    membership.drop,
    membership.voters,
    faults.kill_task,
    logs.grep,
    logs.logs,
):
    namespace.add_task(task)
