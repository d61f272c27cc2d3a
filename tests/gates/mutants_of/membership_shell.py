"""Mutants of membership's shells: the agent, its requests, its socket, its files."""

from __future__ import annotations

from tests.gates.mutant import Mutant

TRANSPORT = "agent/membership/shell/transport.py"
STORE = "agent/membership/shell/store.py"
SERVICE = "agent/membership/service.py"
REQUESTS = "agent/membership/shell/requests.py"

OF_TRANSPORT = "tests/unit/membership/shell/test_transport.py"
OF_STORE = "tests/unit/membership/shell/test_store.py"
OF_SERVICE = "tests/unit/membership/test_service.py"
OF_REQUESTS = "tests/unit/membership/shell/test_requests.py"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "a datagram that names a node comes from that node's address",
        TRANSPORT,
        "if self._addresses.get(sender, address) == address:",
        "if True:",
        (f"{OF_TRANSPORT}::test_a_datagram_in_the_name_of_a_node_at_another_address_is_dropped_and_told",),
    ),
    Mutant(
        "a receiver that dies ends its agent",
        TRANSPORT,
        "                self._on_crash(error)\n",
        "                pass\n",
        (f"{OF_TRANSPORT}::test_a_socket_that_is_gone_ends_the_agent",),
    ),
    Mutant(
        "two lives of a node have different boots",
        STORE,
        "Identity(before.uuid, before.boot + 1)",
        "Identity(before.uuid, before.boot)",
        (f"{OF_STORE}::test_a_crash_while_writing_leaves_the_earlier_identity",),
    ),
    Mutant(
        "a value that is not a view is not voted on",
        SERVICE,
        "            self._own_votes,\n            self._on_crash,\n            check=check,\n",
        "            self._own_votes,\n            self._on_crash,\n",
        (f"{OF_SERVICE}::test_voter_refuses_what_is_not_a_view",),
    ),
    Mutant(
        "the outcome of a register operation is not lost",
        SERVICE,
        "        while not self.post(outcome):\n"
        "            if self.stopping.wait(OUTCOME_RETRY_S):\n"
        "                return\n",
        "        self.post(outcome)\n",
        (f"{OF_SERVICE}::test_outcome_of_a_register_operation_is_not_lost_when_the_core_is_behind",),
    ),
    Mutant(
        "a node may order its own agent",
        REQUESTS,
        'not in (LOCAL, "operator", self._service.config.name):',
        'not in (LOCAL, "operator"):',
        (f"{OF_REQUESTS}::test_orders_are_taken_from_operators_and_this_machine_only",),
    ),
    Mutant(
        "only operators and the machine itself give orders",
        REQUESTS,
        'if call.peer not in (LOCAL, "operator", self._service.config.name):',
        "if False:",
        (f"{OF_SERVICE}::test_nodes_may_ask_and_compare_tables_but_not_order",),
    ),
    Mutant(
        "a service attaches only on its own machine",
        REQUESTS,
        "        if call.peer != LOCAL:\n",
        "        if False:\n",
        (f"{OF_REQUESTS}::test_service_attaches_over_its_connection_and_passes_on_whom_it_heard",),
    ),
    Mutant(
        "voters that are not configured are ignored",
        STORE,
        "        if unknown:\n",
        "        if False:\n",
        (f"{OF_STORE}::test_damaged_file_of_voters_leaves_the_configured_ones",),
    ),
    Mutant(
        "the boot counter is durable before anything is sent",
        STORE,
        "        self.write(fresh)\n        return fresh",
        "        return fresh",
        (f"{OF_STORE}::test_a_folder_that_cannot_be_written_is_an_error_of_the_disk",),
    ),
    Mutant(
        "a key of the ring is durable before it is used",
        SERVICE,
        "                self._keys.save(ring)\n",
        "",
        (f"{OF_SERVICE}::test_ring_of_keys_is_stored_before_it_is_used",),
    ),
    Mutant(
        "a node whose known boot is later is told so",
        TRANSPORT,
        "                self._on_earlier_boot(error.sender, error.boot)\n",
        "                pass\n",
        (f"{OF_TRANSPORT}::test_datagram_of_an_earlier_boot_is_dropped_and_reported",),
    ),
    Mutant(
        "an adopted boot is durable",
        SERVICE,
        "                self._identities.write(Identity(self.core.monitor.me.uuid, boot))\n",
        "",
        (f"{OF_SERVICE}::test_later_boot_is_adopted_durably",),
    ),
    Mutant(
        "an age is not negative",
        REQUESTS,
        "round(max(0.0, now - heard_at), 3)",
        "round(now - heard_at, 3)",
        (f"{OF_REQUESTS}::test_member_that_is_heard_at_this_moment_was_not_heard_in_the_future",),
    ),
)
