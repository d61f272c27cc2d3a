"""A name that fails is retried less and less often."""

from __future__ import annotations

from agent.hydfs.core.postponed import NAMES_MAX, RETRY_S, RETRY_S_MAX, Postponed, delay_s


def test_the_delay_doubles_up_to_a_limit() -> None:
    assert [delay_s(failures) for failures in (1, 2, 3)] == [RETRY_S, 2 * RETRY_S, 4 * RETRY_S]
    assert delay_s(50) == delay_s(5000) == RETRY_S_MAX


def test_a_name_waits_longer_after_each_failure_and_not_at_all_after_a_success() -> None:
    postponed = Postponed()
    assert postponed.next_at() is None
    assert postponed.fail(0.0, "f")
    assert postponed.waits(1.9, "f")
    assert not postponed.waits(2.0, "f")
    assert postponed.due(2.0) == ["f"]
    postponed.fail(2.0, "f")
    assert postponed.due(5.9) == []
    assert postponed.next_at() == 6.0
    postponed.succeed("f")
    assert postponed.next_at() is None
    postponed.fail(10.0, "f")
    assert postponed.next_at() == 12.0


def test_a_change_of_the_view_makes_all_names_due() -> None:
    postponed = Postponed()
    for _ in range(10):
        postponed.fail(0.0, "f")
    postponed.view_changed(3.0)
    assert postponed.due(3.0) == ["f"]


def test_names_are_bounded_and_known_ones_still_count() -> None:
    postponed = Postponed()
    assert all(postponed.fail(0.0, str(number)) for number in range(NAMES_MAX))
    assert not postponed.fail(0.0, "one too many")
    assert postponed.fail(0.0, "0")
