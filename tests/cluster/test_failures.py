"""Whose fault a failure is: a trial's or a machine's."""

from sparseae.cluster.failures import Failures

UP = {"a", "b", "c"}


def test_a_piece_that_fails_everywhere_is_given_up():
    failures = Failures(allowed=3)
    for count, node in enumerate(["a", "b", "c", "a"], start=1):
        assert not failures.exhausted(0, UP)
        failures.failed(0, node)
        assert failures.charged(0, UP) == count
    assert failures.exhausted(0, UP)
    assert failures.set_aside(UP) == set()


def test_a_piece_is_next_tried_where_it_has_not_failed():
    failures = Failures(3)
    failures.failed(0, "a")
    assert failures.avoid(0, UP) == {"a"}
    assert failures.avoid(1, UP) == set()
    failures.failed(0, "b")
    assert failures.avoid(0, UP) == {"a", "b"}
    failures.failed(0, "c")
    assert failures.avoid(0, UP) == set()  # or nothing could take it


def test_a_node_on_which_different_pieces_fail_gets_no_more_and_they_are_not_charged():
    failures = Failures(allowed=0)
    failures.failed(0, "a")
    assert failures.exhausted(0, UP)
    failures.failed(1, "a")
    assert failures.set_aside(UP) == {"a"}
    assert failures.charged(0, UP) == failures.charged(1, UP) == 0
    assert failures.avoid(7, UP) == {"a"}


def test_pieces_that_fail_elsewhere_too_clear_the_node():
    failures = Failures(3)
    failures.failed(0, "a")
    failures.failed(1, "a")
    failures.failed(0, "b")
    assert failures.set_aside(UP) == set()
    assert failures.charged(0, UP) == 2


def test_pieces_that_get_on_elsewhere_prove_the_nodes_fault():
    failures = Failures(3)
    for piece, nodes in ((0, "ab"), (1, "ab")):
        for node in nodes:
            failures.failed(piece, node)
    assert failures.set_aside(UP) == set()
    failures.got_on(0, "c")
    failures.got_on(1, "c")
    assert failures.set_aside(UP) == {"a", "b"}


def test_a_node_on_which_something_gets_on_is_sound():
    failures = Failures(3)
    failures.failed(0, "a")
    failures.got_on(0, "b")
    failures.got_on(2, "a")
    failures.failed(1, "a")
    assert failures.set_aside(UP) == set()


def test_the_last_node_is_never_set_aside():
    failures = Failures(3)
    failures.failed(0, "a")
    failures.failed(1, "a")
    failures.unusable("a")
    assert failures.set_aside({"a"}) == set()
    assert failures.charged(0, {"a"}) == 1


def test_progress_starts_the_count_anew():
    failures = Failures(allowed=1)
    for _ in range(5):
        failures.failed(0, "a")
        assert not failures.exhausted(0, {"a"})
        failures.got_on(0, "a")


def test_a_lost_node_is_free_but_not_for_ever():
    failures = Failures(allowed=0)
    failures.failed(0, "gone")
    assert not failures.exhausted(0, UP)
    for _ in range(10):
        failures.lost(0)
    assert not failures.exhausted(0, UP)
    failures.lost(0)
    assert failures.exhausted(0, UP)  # it is the piece that ends its nodes


def test_a_node_that_says_that_it_is_unusable_is_set_aside_at_once():
    failures = Failures(3)
    failures.unusable("b")
    assert failures.set_aside(UP) == {"b"}
