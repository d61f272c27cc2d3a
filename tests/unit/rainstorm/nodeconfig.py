"""The configuration of a node for tests of shells."""

from __future__ import annotations

from pathlib import Path

from agent.common.config import NodeConfig, PeerConfig, RainstormConfig, TlsConfig


def node_config(folder: Path, name: str = "n1", peers: tuple[str, ...] = ("n1", "n2", "n3")) -> NodeConfig:
    """Returns the configuration of one of some nodes, all of whose files are in ``folder``."""
    return NodeConfig(
        cluster="test",
        name=name,
        data_dir=str(folder / name),
        tls=TlsConfig("", "", ""),
        gossip_key="",
        peers=tuple(PeerConfig(peer, "127.0.0.1") for peer in peers),
        voters=(name,),
        introducers=(name,),
        rainstorm=RainstormConfig(spare_tasks=0, batch_bytes=1000),
    )
