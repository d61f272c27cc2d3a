"""The contract of waiting for several sockets, on both platforms."""

from __future__ import annotations

import pytest

from agent.common.shell import network, threads
from tests.simulation.machine.both import Run
from tests.unit.common.shell import sockets
from tests.unit.common.shell.sockets import HOST, PATIENCE_S, SHORT_S, closing

run = sockets.run


def test_wait_for_several(run: Run) -> None:
    """``wait`` tells which sockets are ready, to be read or written, or that the time has passed."""

    def body() -> None:
        one, other = network.pair()
        quiet, silent = network.pair()
        assert network.wait([other, silent], timeout_s=SHORT_S) == []
        assert network.wait([other], [one], timeout_s=PATIENCE_S) == [one]
        assert network.wait([other], [other], 0) == [other]
        threads.start("writer", one.sendall, b"x")
        assert network.wait([silent, other], timeout_s=PATIENCE_S) == [other]
        quiet.close()
        assert set(network.wait([silent, other], timeout_s=PATIENCE_S)) == {other, silent}
        closing(one, other, silent)

    run(body)


def test_selector(run: Run) -> None:
    """A selector watches sockets, with data of its own for each."""

    def body() -> None:
        selector = network.selector()
        one, other = network.pair()
        listener = network.listen_tcp(HOST, 0)
        selector.register(other, network.EVENT_READ, "other")
        selector.register(listener, network.EVENT_READ, "listener")
        with pytest.raises(KeyError):
            selector.register(other, network.EVENT_READ)
        assert other in (selector.get_map() or {})
        assert selector.select(0) == []
        assert selector.select(SHORT_S) == []
        client = network.dial_tcp(HOST, listener.getsockname()[1], PATIENCE_S)
        ((key, events),) = selector.select(PATIENCE_S)
        assert (key.data, key.fileobj, events) == ("listener", listener, network.EVENT_READ)
        selector.unregister(listener)
        one.sendall(b"x")
        assert [key.data for key, _ in selector.select(PATIENCE_S)] == ["other"]
        selector.unregister(other)
        with pytest.raises(KeyError):
            selector.unregister(other)
        assert dict(selector.get_map() or {}) == {}
        selector.close()
        closing(one, other, listener, client)

    run(body)
