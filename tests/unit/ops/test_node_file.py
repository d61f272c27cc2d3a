"""The configuration that the deploy writes on each VM."""

from __future__ import annotations

import json
from pathlib import Path

import jinja2

from agent.common.config import load
from tests.support import REPOSITORY

TEMPLATE = REPOSITORY / "roles" / "membership" / "templates" / "node.yml.j2"


def test_the_configuration_of_a_node_is_json_that_an_agent_accepts(tmp_path: Path) -> None:
    """JSON spares the agents the parser for YAML."""
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, autoescape=False)
    environment.filters |= {"to_json": json.dumps, "combine": lambda one, other: {**one, **other}}
    text = environment.from_string(TEMPLATE.read_text("utf-8")).render(
        rainstorm_cluster='a "cluster"',
        inventory_hostname="vm1",
        common_log_level="info",
        common_voters=["vm1"],
        common_introducers=["vm1", "vm2"],
        common_peers=[
            {"name": name, "address": address, "ports": {"membership": 7100, "hydfs": 7201}}
            for name, address in (("vm1", "10.0.0.1"), ("vm2", "10.0.0.2"))
        ],
        membership_settings={"probe_interval_s": 0.5},
        hydfs_settings={"replicas": 2},
        rainstorm_settings={},
        logs_settings={},
    )
    json.loads(text)
    path = tmp_path / "node.yml"
    path.write_text(text)
    config = load(str(path))
    assert (config.cluster, config.me.hydfs_port, config.peer("vm2").address) == (
        'a "cluster"',
        7201,
        "10.0.0.2",
    )
    assert (config.membership.probe_interval_s, config.hydfs.replicas) == (0.5, 2)
    assert config.rainstorm.task_launcher == "unit"
