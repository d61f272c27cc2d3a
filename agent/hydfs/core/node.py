"""The store's core on one node: its replicas and the blocks it coordinates, as one state machine.

A coordinator's messages to its own node never leave this core. Everything else is an event or an effect from
``events``. The agent and the simulator drive the same class.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import assert_never

from agent.common.core import Tick
from agent.hydfs.core.block import BlockKey, BlockMeta
from agent.hydfs.core.coordinator import RETIRED, Coordinator
from agent.hydfs.core.errors import NOT_COORDINATOR
from agent.hydfs.core.events import (
    AnswerWrite,
    AppendRequested,
    BlockDropped,
    BlockOpened,
    BlockSealed,
    CallerLeft,
    CoordinatorEvent,
    Effect,
    Event,
    NodeLost,
    PromiseRequested,
    PromiseWritten,
    RecordWritten,
    Refuse,
    SealFailed,
    SealRequested,
    SendWrite,
    TailRequested,
    WriteAnswered,
    WriteReceived,
)
from agent.hydfs.core.replica import Replica


@dataclass(frozen=True, slots=True)
class _Own:
    """The token of a record that this node's coordinator sent to this node's replica."""

    key: BlockKey


class NodeCore:
    """Replicas and coordinators of one node."""

    def __init__(
        self, name: str, metas: Iterable[BlockMeta], *, block_size_bytes: int, ack_timeout_s: float
    ) -> None:
        self.name = name
        self.replica = Replica(metas)
        self.coordinators: dict[BlockKey, Coordinator] = {}
        self._block_size = block_size_bytes
        self._ack_timeout = ack_timeout_s

    def handle(self, now: float, event: Event) -> Sequence[Effect]:
        """Applies an event and returns the effects for other nodes, for the disk and for waiting callers."""
        effects: list[Effect] = []
        work: deque[Event] = deque([event])
        while work:
            for effect in self._dispatch(now, work.popleft()):
                match effect:
                    case SendWrite(peer=self.name):
                        own = _Own(effect.key)
                        work.append(
                            WriteReceived(
                                own, effect.key, effect.name, effect.session, effect.record, effect.data
                            )
                        )
                    case AnswerWrite(token=_Own(key=key), end=end, code=code):
                        work.append(WriteAnswered(self.name, key, end, code))
                    case _:
                        effects.append(effect)
        return effects

    def next_deadline(self) -> float | None:
        """Returns the earliest deadline of the coordinators."""
        due: float | None = None
        for coordinator in self.coordinators.values():
            deadline = coordinator.next_deadline()
            if deadline is not None and (due is None or deadline < due):
                due = deadline
        return due

    def check_invariants(self) -> None:
        """Raises AssertionError when a replica or a coordinator breaks a rule."""
        self.replica.check_invariants()
        for coordinator in self.coordinators.values():
            coordinator.check_invariants()

    def coordinates(self, key: BlockKey) -> bool:
        """Tells whether this process coordinates the block now."""
        return key in self.coordinators

    def _dispatch(self, now: float, event: Event) -> Sequence[Effect]:
        match event:
            case (
                AppendRequested()
                | TailRequested()
                | WriteAnswered()
                | SealRequested()
                | SealFailed()
                | NodeLost()
                | Tick()
            ):
                return self._coordinate(now, event)
            case WriteReceived():
                return self.replica.write(event)
            case RecordWritten():
                return self.replica.written(event)
            case PromiseRequested():
                return self.replica.promise(event)
            case PromiseWritten():
                return self.replica.promise_written(event)
            case BlockOpened(key=key):
                self.coordinators[key] = Coordinator(
                    event, block_size_bytes=self._block_size, ack_timeout_s=self._ack_timeout
                )
                return []
            case BlockSealed(key=key):
                return [*self._retire(key), *self.replica.sealed(event)]
            case BlockDropped(key=key):
                return [*self._retire(key), *self.replica.dropped(event)]
            case CallerLeft(key=key, token=token):
                if key in self.coordinators:
                    self.coordinators[key].forget(token)
                self.replica.forget(key, token)
                return []
            case _:
                assert_never(event)

    def _coordinate(
        self,
        now: float,
        event: CoordinatorEvent | Tick,
    ) -> Sequence[Effect]:
        match event:
            case Tick():
                return [effect for each in list(self.coordinators.values()) for effect in each.tick(now)]
            case NodeLost(node=node):
                return [effect for each in list(self.coordinators.values()) for effect in each.lose(node)]
            case _:
                coordinator = self.coordinators.get(event.key)
        match event:
            case AppendRequested(token=token):
                return self._not_coordinator(token) if coordinator is None else coordinator.append(now, event)
            case TailRequested(token=token):
                return self._not_coordinator(token) if coordinator is None else coordinator.tail(event)
            case WriteAnswered():
                return [] if coordinator is None else coordinator.answered(now, event)
            case SealRequested():
                return [] if coordinator is None else coordinator.close()
            case SealFailed(key=key):
                self.coordinators.pop(key, None)
                return [] if coordinator is None else coordinator.seal_failed(event)
            case _:
                assert_never(event)

    def _retire(self, key: BlockKey) -> Sequence[Effect]:
        coordinator = self.coordinators.pop(key, None)
        return [] if coordinator is None or coordinator.state == RETIRED else coordinator.sealed()

    def _not_coordinator(self, token: object) -> Sequence[Effect]:
        return [Refuse(token, NOT_COORDINATOR, f"{self.name} does not coordinate this block")]
