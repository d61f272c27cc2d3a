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
AUTH = "agent/wire/auth.py"
AUTHORITY = "agent/wire/authority.py"

OF_FRAMING = "tests/unit/wire/codec/test_framing.py"
OF_AUTH = "tests/unit/wire/test_auth.py"
OF_SERVER = "tests/unit/wire/test_server.py"
OF_REFUSALS = "tests/unit/wire/test_server_refusals.py"
OF_CLIENT = "tests/unit/wire/test_client.py"
OF_CONNECTION = "tests/unit/wire/test_connection.py"
OF_ENDPOINT = "tests/unit/wire/test_endpoint.py"
OF_STORE = "tests/unit/wire/register/test_store.py"
OF_VOTER = "tests/unit/wire/register/test_voter.py"
OF_PROPOSER = "tests/unit/wire/register/test_proposer.py"
OF_REALNETWORK = "tests/unit/common/shell/test_realnetwork.py"
OF_AUTHORITY = "tests/unit/wire/test_authority.py"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "promises without a value are bounded",
        STORE,
        "if more > 0 and self._valueless >= VALUELESS_MAX:",
        "if False:",
        (OF_STORE,),
    ),
    Mutant(
        "a restarted voter counts the promises that it holds",
        STORE,
        "        self._valueless = sum(slot.value is None for slot in self._slots.values())\n",
        "",
        (OF_STORE,),
    ),
    Mutant(
        "no promise is stored for a name that is not allowed",
        VOTER,
        "if not isinstance(request, Read):",
        "if isinstance(request, Accept):",
        (OF_VOTER,),
    ),
    Mutant(
        "the size of a frame is checked before it is allocated",
        FRAMING,
        "    check_sizes(header_bytes, payload_bytes)\n    return header_bytes, payload_bytes",
        "    return header_bytes, payload_bytes",
        (f"{OF_FRAMING}::test_an_oversize_frame_is_refused_by_its_prefix",),
    ),
    Mutant(
        "a frame that is too large is not sent",
        FRAMING,
        "    check_sizes(len(packed), payload_bytes)\n",
        "",
        (f"{OF_FRAMING}::test_an_oversize_payload_is_refused_at_the_sender",),
    ),
    Mutant(
        "both sides of a connection show a certificate of the cluster",
        NETWORK,
        "context.verify_mode = ssl.CERT_REQUIRED",
        "pass",
        (f"{OF_SERVER}::test_when_a_peer_was_heard_is_noted_by_name",),
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
        (f"{OF_REALNETWORK}::test_a_connection_that_was_reset_is_refused_and_closed_by_tls",),
    ),
    Mutant(
        "the server's certificate carries the name of the node that was meant",
        CLIENT,
        "server_hostname=target.node",
        'server_hostname="vm1"',
        (f"{OF_REFUSALS}::test_a_node_with_another_name_is_refused",),
    ),
    Mutant(
        "connections to a server are bounded",
        SERVER,
        "if len(self._connections) >= CONNECTIONS_MAX:",
        "if False:",
        (f"{OF_REFUSALS}::test_one_connection_too_many_is_refused",),
    ),
    Mutant(
        "a handshake has a deadline",
        SERVER,
        "header = connection.receive(deadline).header",
        "header = connection.receive(None).header",
        (f"{OF_REFUSALS}::test_a_caller_that_does_not_finish_its_handshake_is_dropped",),
    ),
    Mutant(
        "another version of the protocol is refused",
        SERVER,
        "if hello.type != Hello.kind or hello.version != PROTOCOL_VERSION:",
        "if hello.type != Hello.kind:",
        (f"{OF_REFUSALS}::test_another_protocol_version_is_refused_by_name",),
    ),
    Mutant(
        "the time-out of a request is bounded",
        SERVER,
        "min(envelope.timeout_s, REQUEST_TIMEOUT_S_MAX)",
        "envelope.timeout_s",
        (f"{OF_ENDPOINT}::test_a_request_that_would_wait_too_long_gets_less_time",),
    ),
    Mutant(
        "a handler sees a request only after it was checked",
        ENDPOINT,
        "message.decode(self.request, fields, self.request.kind)",
        "self.request(**{name: fields.get(name) for name in self.request.__dataclass_fields__})",
        (f"{OF_ENDPOINT}::test_an_invalid_request_never_reaches_its_handler",),
    ),
    Mutant(
        "a defect in a handler is answered",
        SERVER,
        'header = _error(Internal(f"{self.name}: {kind} failed: {error!r}"))',
        "raise",
        (f"{OF_SERVER}::test_errors_come_back_as_themselves_and_the_connection_stays",),
    ),
    Mutant(
        "a request that has ended is no longer in progress",
        SERVER,
        "            self._answering.discard(key)\n",
        "",
        (f"{OF_SERVER}::test_a_request_that_was_answered_is_not_in_progress_any_more",),
    ),
    Mutant(
        "a connection whose thread cannot be started gives its place back",
        SERVER,
        "            with self._lock:\n                del self._connections[key]\n",
        "            pass\n",
        (f"{OF_REFUSALS}::test_an_acceptor_whose_thread_cannot_be_started_goes_on",),
    ),
    Mutant(
        "a request does not wait for its answer beyond its deadline",
        CLIENT,
        "return connection.receive(deadline)\n",
        "return connection.receive(None)\n",
        (f"{OF_CLIENT}::test_a_peer_that_never_answers_costs_the_time_limit",),
    ),
    Mutant(
        "requests to one target are bounded",
        CLIENT,
        "if len(pool.busy) >= CONNECTIONS_MAX:",
        "if False:",
        (f"{OF_CLIENT}::test_too_many_requests_to_one_target_are_refused",),
    ),
    Mutant(
        "a request that has ended gives its place back",
        CLIENT,
        "            del pool.busy[place]\n",
        "",
        (f"{OF_CLIENT}::test_too_many_requests_to_one_target_are_refused",),
    ),
    Mutant(
        "the voter of this node has threads of its own",
        PROPOSER,
        "return self._own_pool if self._is_own(voter) else self._pool",
        "return self._pool",
        (f"{OF_PROPOSER}::test_the_voter_of_this_node_holds_up_no_other_when_it_hangs",),
    ),
    Mutant(
        "nobody waits for the voter of this node before it votes",
        PROPOSER,
        "self._is_own(ask.voter) and self._own_votes():",
        "self._is_own(ask.voter):",
        (f"{OF_PROPOSER}::test_the_voter_of_this_node_holds_up_no_other_when_it_hangs",),
    ),
    Mutant(
        "the voter of this node accepts nothing that the others cannot be told",
        PROPOSER,
        "return decode_header(encode_header(fields, 0)[PREFIX.size :])",
        "return fields",
        (f"{OF_PROPOSER}::test_the_voter_of_this_node_accepts_nothing_that_the_others_cannot_be_told",),
    ),
    Mutant(
        "a defect of the voter of this node is an answer",
        PROPOSER,
        'raise Internal(f"{voter}: {kind} failed: {error!r}") from error',
        "raise",
        (f"{OF_PROPOSER}::test_a_defect_of_the_voter_of_this_node_is_an_answer",),
    ),
    Mutant(
        "a payload that is used up is not sent again",
        CLIENT,
        "if self._closed or not isinstance(payload, bytes | bytearray | memoryview):",
        "if self._closed:",
        (f"{OF_CLIENT}::test_a_payload_that_is_used_up_is_not_sent_again",),
    ),
    Mutant(
        "the file of a request is closed",
        CLIENT,
        "            close_files(payload)\n",
        "            pass\n",
        (f"{OF_CLIENT}::test_the_file_of_a_request_is_closed_whether_or_not_it_is_sent",),
    ),
    Mutant(
        "a client that was closed begins no request",
        CLIENT,
        "        if self._closed:\n            raise ConnectionLost",
        "        if False:\n            raise ConnectionLost",
        (f"{OF_CLIENT}::test_a_closed_client_makes_no_request",),
    ),
    Mutant(
        "a connection that failed is not used again",
        CLIENT,
        "if is_good and has_room and place.connection is not None:",
        "if has_room and place.connection is not None:",
        (f"{OF_CLIENT}::test_a_handshake_that_is_refused_or_malformed_leaves_no_connection",),
    ),
    Mutant(
        "a peer that the kernel gave up on is lost, so that the request is retried on a fresh connection",
        CONNECTION,
        "return isinstance(error, TimeoutError) and error.errno is None",
        "return isinstance(error, TimeoutError)",
        (f"{OF_CONNECTION}::test_peer_that_the_kernel_gave_up_is_lost_and_not_late",),
    ),
    Mutant(
        "each step of a connection has the deadline of its request",
        CONNECTION,
        'self.sock.settimeout(deadline.require(clock.monotonic(), f"{step} to {self.peer}"))',
        "self.sock.settimeout(None)",
        (f"{OF_CONNECTION}::test_each_step_has_what_is_left_of_the_deadline",),
    ),
    Mutant(
        "a promise is on the disk before it is answered",
        STORE,
        "                self._append(request.key, changed)\n",
        "",
        (f"{OF_STORE}::test_a_failed_flush_is_a_failure_and_never_an_answer",),
    ),
    Mutant(
        "a value that its subsystem refuses is not voted on",
        VOTER,
        "request.value if isinstance(request, Accept) else None",
        "None",
        (f"{OF_VOTER}::test_a_value_that_its_subsystem_refuses_is_never_voted_on_nor_written",),
    ),
    Mutant(
        "a damaged value is not answered",
        VOTER,
        "if damage is not None and not accepts:",
        "if False:",
        (f"{OF_VOTER}::test_a_bad_value_on_disk_costs_its_register_alone_until_a_good_one_comes",),
    ),
    Mutant(
        "a voter whose disk fails ends its agent",
        VOTER,
        "            self._on_crash(error)\n            raise\n",
        "            raise\n",
        (f"{OF_VOTER}::test_a_failed_disk_ends_the_agent",),
    ),
    Mutant(
        "a voter waits until no forgotten vote counts",
        VOTER,
        "if self._stopping.wait(max(0.0, left_s)):",
        "if False:",
        (f"{OF_VOTER}::test_votes_that_were_forgotten_are_waited_for",),
    ),
    Mutant(
        "a disk that votes is no longer a founder's new disk",
        VOTER,
        "                disk.remove_durably(self._disk_path)\n",
        "                pass\n",
        (f"{OF_VOTER}::test_a_disk_that_has_voted_and_lost_its_log_is_no_founder",),
    ),
    Mutant(
        "a founder keeps its id until its log is durable",
        VOTER,
        "        write_log(self._log_path, slots)\n",
        "        disk.unlink(self._disk_path, missing_ok=True)\n        write_log(self._log_path, slots)\n",
        (f"{OF_VOTER}::test_a_power_cut_while_a_disk_becomes_a_voter_never_makes_it_a_new_one_again",),
    ),
    Mutant(
        "names are listed by a majority of the voters",
        PROPOSER,
        "if len(answers) <= len(futures) // 2:",
        "if not answers:",
        (f"{OF_PROPOSER}::test_names_are_those_of_a_majority",),
    ),
    Mutant(
        "a page ends where the first voter has listed all that fits",
        PROPOSER,
        " if not ends or key <= min(ends)",
        "",
        (f"{OF_PROPOSER}::test_names_come_page_by_page_and_none_is_passed_over",),
    ),
    Mutant(
        "a value that its subsystem refuses is not taken from a voter",
        PROPOSER,
        "            elif found.value is not None:\n                self._check(request.key, found.value)\n",
        "            elif False:\n                pass\n",
        (f"{OF_PROPOSER}::test_a_voter_that_answers_with_an_invalid_value_counts_as_failed",),
    ),
    Mutant(
        "a file that comes with a request is closed",
        SERVER,
        '        close_files(b"", frame.descriptor)  # no request brings a file\n',
        "",
        (f"{OF_SERVER}::test_a_request_that_brings_a_file_does_not_use_up_descriptors",),
    ),
    Mutant(
        "the file of an answer is closed when it cannot be sent",
        SERVER,
        "            close_files(answer.payload, answer.descriptor)\n",
        "            pass\n",
        (f"{OF_SERVER}::test_a_part_of_a_file_is_sent_from_the_file",),
    ),
    Mutant(
        "the sockets of agents are for their user and group",
        SERVER,
        "network.listen_unix(path, 0o660, BACKLOG)",
        "network.listen_unix(path, 0o666, BACKLOG)",
        (f"{OF_SERVER}::test_the_unix_socket_is_for_the_user_and_the_group_of_the_agent",),
    ),
    Mutant(
        "a value that is refused is damaged until it is replaced",
        VOTER,
        "                self._damaged[key] = error\n",
        "                pass\n",
        (f"{OF_VOTER}::test_a_bad_value_on_disk_costs_its_register_alone_until_a_good_one_comes",),
    ),
    Mutant(
        "a voter without memory does not vote",
        VOTER,
        "        if remembers:\n",
        "        if True:\n",
        (f"{OF_VOTER}::test_a_disk_that_has_voted_and_lost_its_log_is_no_founder",),
    ),
    Mutant(
        "further descriptors are closed",
        CONNECTION,
        "            network.close_descriptor(superfluous)\n",
        "            pass\n",
        (f"{OF_CONNECTION}::test_more_open_files_than_one_are_closed",),
    ),
    Mutant(
        "the name of a node is that of its certificate",
        AUTH,
        'if entry[0] == "DNS":',
        "if False:",
        (f"{OF_AUTH}::test_the_name_of_a_peer_is_its_dns_name",),
    ),
    Mutant(
        "a private key is readable only by its owner",
        AUTHORITY,
        "disk.write_durably(path, data, 0o600)",
        "disk.write_durably(path, data, 0o644)",
        (f"{OF_AUTHORITY}::test_creating_again_keeps_the_authority",),
    ),
)
