"""Mutants of frames, connections, the server, the client, and the voters of registers."""

from __future__ import annotations

from tests.gates.mutant import Mutant

FRAMING = "agent/wire/codec/framing.py"
NETWORK = "agent/common/shell/realnetwork.py"
ENDPOINT = "agent/wire/endpoint.py"
SERVER = "agent/wire/server.py"
CLIENT = "agent/wire/client.py"
CONNECTION = "agent/wire/connection.py"
STORE = "agent/wire/register/store.py"
VOTER = "agent/wire/register/voter.py"
PROPOSER = "agent/wire/register/proposer.py"

OF_FRAMING = ("tests/unit/wire/codec/test_framing.py",)
OF_AUTH = ("tests/unit/wire/test_auth.py",)
OF_SERVER = ("tests/unit/wire/test_server.py",)
OF_CLIENT = ("tests/unit/wire/test_client.py",)
OF_CONNECTION = ("tests/unit/wire/test_connection.py",)
OF_ENDPOINT = ("tests/unit/wire/test_endpoint.py",)
OF_STORE = ("tests/unit/wire/register/test_store.py",)
OF_VOTER = ("tests/unit/wire/register/test_voter.py",)
OF_PROPOSER = ("tests/unit/wire/register/test_proposer.py",)

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "promises without a value are bounded",
        STORE,
        "if more > 0 and self._valueless >= VALUELESS_MAX:",
        "if False:",
        OF_STORE,
    ),
    Mutant(
        "a restarted voter counts the promises that it holds",
        STORE,
        "        self._valueless = sum(slot.value is None for slot in self._slots.values())\n",
        "",
        OF_STORE,
    ),
    Mutant(
        "a promise is stored for no name that is not allowed",
        VOTER,
        "if not isinstance(request, Read):",
        "if isinstance(request, Accept):",
        OF_VOTER,
    ),
    Mutant(
        "the size of a frame is checked before it is allocated",
        FRAMING,
        "    check_sizes(header_bytes, payload_bytes)\n    return header_bytes, payload_bytes",
        "    return header_bytes, payload_bytes",
        OF_FRAMING,
    ),
    Mutant(
        "a frame that is too large is not sent",
        FRAMING,
        "    check_sizes(len(packed), payload_bytes)\n",
        "",
        OF_FRAMING,
    ),
    Mutant(
        "both sides of a connection show a certificate of the cluster",
        NETWORK,
        "context.verify_mode = ssl.CERT_REQUIRED",
        "pass",
        (*OF_AUTH, *OF_SERVER),
    ),
    Mutant(
        "only a datagram that no process took is a refusal",
        NETWORK,
        "isinstance(target, tuple) and errno.ECONNREFUSED in _errors(notes)",
        "isinstance(target, tuple)",
        ("tests/unit/common/shell/test_realnetwork.py",),
    ),
    Mutant(
        "TLS closes a connection that was reset before the handshake",
        NETWORK,
        "            self.close()\n            raise ConnectionResetError",
        "            raise ConnectionResetError",
        ("tests/unit/common/shell/test_realnetwork.py",),
    ),
    Mutant(
        "the server's certificate carries the name of the node that was meant",
        CLIENT,
        "server_hostname=target.node",
        'server_hostname="vm1"',
        OF_SERVER,
    ),
    Mutant(
        "connections to a server are bounded",
        SERVER,
        "if len(self._connections) >= CONNECTIONS_MAX:",
        "if False:",
        OF_SERVER,
    ),
    Mutant(
        "a handshake has a deadline",
        SERVER,
        "header = connection.receive(deadline).header",
        "header = connection.receive(None).header",
        OF_SERVER,
    ),
    Mutant(
        "another version of the protocol is refused",
        SERVER,
        "if hello.type != Hello.kind or hello.version != PROTOCOL_VERSION:",
        "if hello.type != Hello.kind:",
        OF_SERVER,
    ),
    Mutant(
        "the time-out of a request is bounded",
        SERVER,
        "min(envelope.timeout_s, REQUEST_TIMEOUT_S_MAX)",
        "envelope.timeout_s",
        (*OF_SERVER, *OF_ENDPOINT),
    ),
    Mutant(
        "a handler sees a request only after it was checked",
        ENDPOINT,
        "message.decode(self.request, fields, self.request.kind)",
        "self.request(**{name: fields.get(name) for name in self.request.__dataclass_fields__})",
        OF_ENDPOINT,
    ),
    Mutant(
        "a defect in a handler is answered",
        SERVER,
        'header = _error(Internal(f"{self.name}: {kind} failed: {error!r}"))',
        "raise",
        OF_SERVER,
    ),
    Mutant(
        "a request that has ended is no longer in progress",
        SERVER,
        "                self._in_progress -= 1\n",
        "",
        OF_SERVER,
    ),
    Mutant(
        "a connection whose thread cannot be started gives its place back",
        SERVER,
        "            with self._lock:\n                del self._connections[key]\n",
        "            pass\n",
        OF_SERVER,
    ),
    Mutant(
        "a request does not wait for its answer beyond its deadline",
        CLIENT,
        "frame = connection.receive(deadline)\n        with pool.lock:",
        "frame = connection.receive(None)\n        with pool.lock:",
        OF_CLIENT,
    ),
    Mutant(
        "requests to one target are bounded",
        CLIENT,
        "if not pool.slots.acquire(timeout=deadline.remaining(clock.monotonic())):",
        "if False:",
        OF_CLIENT,
    ),
    Mutant(
        "a request that has ended gives its slot back",
        CLIENT,
        "                pool.slots.release()\n",
        "                pass\n",
        OF_CLIENT,
    ),
    Mutant(
        "a payload that is used up is not sent again",
        CLIENT,
        "if self._closed or not isinstance(payload, bytes | bytearray | memoryview):",
        "if self._closed:",
        OF_CLIENT,
    ),
    Mutant(
        "a connection that failed is not used again",
        CLIENT,
        "        except BaseException:\n            connection.close()\n            raise\n",
        "        except BaseException:\n            raise\n",
        OF_CLIENT,
    ),
    Mutant(
        "each step of a connection has the deadline of its request",
        CONNECTION,
        'self.sock.settimeout(deadline.require(clock.monotonic(), f"{step} to {self.peer}"))',
        "self.sock.settimeout(None)",
        OF_CONNECTION,
    ),
    Mutant(
        "a promise is on the disk before it is answered",
        STORE,
        "                self._append(request.key, changed)\n",
        "",
        OF_STORE,
    ),
    Mutant(
        "a value that its subsystem refuses is not voted on",
        VOTER,
        "            self._check(request.key, request.value)\n",
        "            pass\n",
        OF_VOTER,
    ),
    Mutant(
        "a damaged value is not answered",
        VOTER,
        "if damage is not None and not accepts:",
        "if False:",
        OF_VOTER,
    ),
    Mutant(
        "a voter whose disk fails ends its agent",
        VOTER,
        "            self._on_crash(error)\n            raise\n",
        "            raise\n",
        OF_VOTER,
    ),
    Mutant(
        "votes that were forgotten are waited for",
        VOTER,
        "if self._stopping.wait(max(0.0, left_s)):",
        "if False:",
        OF_VOTER,
    ),
    Mutant(
        "a disk that votes is no longer a founder's new disk",
        VOTER,
        "            disk.unlink(self._disk_path, missing_ok=True)\n",
        "",
        OF_VOTER,
    ),
    Mutant(
        "names are listed by a majority of the voters",
        PROPOSER,
        "if answered <= len(futures) // 2:",
        "if not answered:",
        OF_PROPOSER,
    ),
    Mutant(
        "a value that its subsystem refuses is not taken from a voter",
        PROPOSER,
        "            elif found.value is not None:\n                self._check(request.key, found.value)\n",
        "            elif False:\n                pass\n",
        OF_PROPOSER,
    ),
)
