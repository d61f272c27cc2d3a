"""Services are alive as long as their connection is open and they renew it."""

from __future__ import annotations

from agent.membership.core.services import RENEWAL_TIMEOUT_S, LocalServices


def test_a_closed_connection_ends_the_service_that_held_it_and_no_other() -> None:
    services = LocalServices()
    services.attach(0.0, "hydfs", 1)
    services.attach(0.0, "rainstorm", 2)
    assert services.mask == 0b11
    services.detach(7)
    assert services.mask == 0b11
    services.detach(1)
    assert services.mask == 0b10


def test_the_connection_of_a_dead_process_does_not_end_its_successor() -> None:
    services = LocalServices()
    services.attach(0.0, "hydfs", 1)
    services.attach(1.0, "hydfs", 2)
    services.detach(1)
    assert services.mask == 0b01


def test_service_that_hangs_times_out() -> None:
    services = LocalServices()
    assert services.next_deadline() is None
    services.attach(0.0, "hydfs", 1)
    services.attach(3.0, "hydfs", 1)
    services.expire(RENEWAL_TIMEOUT_S)
    assert services.mask == 0b01
    assert services.next_deadline() == 3.0 + RENEWAL_TIMEOUT_S
    services.expire(3.0 + RENEWAL_TIMEOUT_S)
    assert services.mask == 0
