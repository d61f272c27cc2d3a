"""Answers requests of real wire clients from a model without threads.

A model of HyDFS or of membership would cost more than the engine under test if it ran behind a real server.
A responder listens on Unix paths of a host and speaks the wire protocol between two steps of the scheduler:
a request costs no thread switch on its side. It answers when the model decides to, or never.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agent.common import message
from agent.common.errors import ProtocolError, RainStormError
from agent.common.failure import Failure
from agent.wire.codec.framing import PREFIX, PROTOCOL_VERSION, Frame, decode_header, decode_prefix, encode
from agent.wire.messages import ErrorAnswer, Hello, Welcome
from tests.simulation.machine.kernel import Backlog, StreamEnd
from tests.simulation.machine.wires import Wires

READ_BYTES = 1 << 20


class Asked:
    """A request that may be answered once, at any time."""

    def __init__(self, conversation: _Conversation, fields: dict[str, Any], payload: bytes) -> None:
        self.kind = str(fields["type"])
        self.fields = fields
        self.payload = payload
        self.timeout_s = float(fields["timeout_s"])
        self._conversation = conversation

    def decode(self, request: type[message.M]) -> message.M:
        """Returns the request as a message of its type."""
        return message.decode(request, self.fields, self.kind)

    def answer(self, reply: Any, payload: bytes = b"") -> None:
        """Answers with a message or with plain fields."""
        fields = reply if isinstance(reply, dict) else message.encode(reply)
        self._conversation.say({"ok": True, **fields}, payload)

    def refuse(self, error: RainStormError) -> None:
        """Answers with an error."""
        self._conversation.say(message.encode(ErrorAnswer(Failure.of(error))))

    def hang_up(self) -> None:
        """Closes the connection instead of answering."""
        self._conversation.close()

    @property
    def is_alive(self) -> bool:
        """Tells whether the caller still has the connection."""
        return self._conversation.is_alive


Handler = Callable[[Asked], None]


class Responder:
    """Listens on Unix paths of one host while it is up."""

    def __init__(self, wires: Wires, host: str, handlers: Mapping[str, Handler]) -> None:
        self.wires = wires
        self.host = host
        self._handlers = handlers
        self._listeners: list[_Door] = []
        self._conversations: dict[_Conversation, None] = {}

    def listen(self, path: str) -> None:
        """Begins to answer on a path."""
        self._listeners.append(_Door(self.wires, self.host, path, self._welcome))

    def close(self) -> None:
        """Disappears as a killed agent does: connections end, new ones are refused."""
        for door in self._listeners:
            door.shut()
        self._listeners.clear()
        for conversation in list(self._conversations):
            conversation.close()

    def handle(self, asked: Asked) -> None:
        """Has a request handled; an unknown one is refused."""
        handler = self._handlers.get(asked.kind)
        if handler is None:
            asked.refuse(ProtocolError(f"this model does not know requests of type {asked.kind!r}"))
        else:
            handler(asked)

    def forget(self, conversation: _Conversation) -> None:
        """Forgets a connection that has ended."""
        self._conversations.pop(conversation, None)

    def _welcome(self, end: StreamEnd) -> None:
        self._conversations[_Conversation(self, end)] = None


class _Door(Backlog):
    """A listener that takes connections at once."""

    def __init__(self, wires: Wires, host: str, path: str, welcome: Callable[[StreamEnd], None]) -> None:
        super().__init__(wires, host, path, 1)
        self._welcome = welcome

    def connect(self, end: StreamEnd) -> None:
        end.references += 1
        self._welcome(end)


class _Conversation:
    """One connection."""

    def __init__(self, responder: Responder, end: StreamEnd) -> None:
        self._responder = responder
        self._scheduler = responder.wires.scheduler
        self._end = end
        self._buffer = bytearray()
        self._knows_peer = False
        self._is_due = False
        self._closed = False
        end.on_change = self._note

    @property
    def is_alive(self) -> bool:
        """Tells whether both ends are open."""
        return not self._closed and self._end.peer is not None and not self._end.peer.released

    def say(self, header: dict[str, Any], payload: bytes = b"") -> None:
        """Sends a frame if the connection is still open."""
        if self._closed:
            return
        data = encode(Frame(header, payload))
        try:
            rest = data[self._end.write(data, []) :]
            if rest:
                self._end.force(rest)
        except OSError:
            self.close()

    def close(self) -> None:
        """Ends the connection."""
        if not self._closed:
            self._closed = True
            self._end.on_change = None
            self._end.drop()
            self._responder.forget(self)

    def _note(self) -> None:
        # The bytes arrive in the middle of the peer's step, and are handled after it.
        if not self._is_due:
            self._is_due = True
            self._scheduler.after(0.0, self._read)

    def _read(self) -> None:
        self._is_due = False
        try:
            while not self._closed and self._end.is_readable():
                data, _ = self._end.read(READ_BYTES)
                if not data:
                    self.close()
                    return
                self._buffer += data
        except OSError:
            self.close()
            return
        while not self._closed and self._take_frame():
            pass

    def _take_frame(self) -> bool:
        if len(self._buffer) < PREFIX.size:
            return False
        header_bytes, payload_bytes = decode_prefix(self._buffer[: PREFIX.size])
        split, end = PREFIX.size + header_bytes, PREFIX.size + header_bytes + payload_bytes
        if len(self._buffer) < end:
            return False
        header, payload = (
            decode_header(bytes(self._buffer[PREFIX.size : split])),
            bytes(self._buffer[split:end]),
        )
        del self._buffer[:end]
        if self._knows_peer:
            self._responder.handle(Asked(self, header, payload))
        else:
            self._knows_peer = message.decode(Hello, header, "handshake").version == PROTOCOL_VERSION
            self.say({"ok": True, **message.encode(Welcome(PROTOCOL_VERSION))})
        return True
