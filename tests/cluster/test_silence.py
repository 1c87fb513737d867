"""Who has been silent for too long, and when nothing trains."""

from sparseae.cluster.silence import Silence, Stall


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def looking(silence: Silence, clock: Clock, seconds: float) -> dict[str, float]:
    """Time passes, and the driver looks all the while."""
    end, found = clock.now + seconds, {}
    while clock.now < end:
        clock.now += 1
        found = silence.look()
    return found


def test_who_says_nothing_for_the_limit_is_silent():
    silence = Silence(600, clock := Clock())
    silence.began("a", 1.0)
    assert looking(silence, clock, 600) == {}
    assert looking(silence, clock, 1) == {"a": 601}
    silence.heard("a")
    assert silence.look() == {}
    silence.ended("a")
    assert looking(silence, clock, 2000) == {}


def test_who_has_long_epochs_may_be_silent_for_ten_of_them():
    silence = Silence(600, clock := Clock())
    silence.began("a", 1.0)
    silence.heard("a")  # epoch 0 trains nothing
    assert looking(silence, clock, 300) == {}
    silence.heard("a")
    assert looking(silence, clock, 3000) == {}
    assert looking(silence, clock, 1) == {"a": 3001}


def test_before_its_first_epoch_the_expected_time_counts():
    silence = Silence(600, clock := Clock())
    silence.began("a", 100.0)
    assert looking(silence, clock, 1000) == {}
    assert looking(silence, clock, 1) == {"a": 1001}


def test_a_driver_that_stood_still_does_not_count_that_time():
    silence = Silence(600, clock := Clock())
    silence.began("a", 1.0)
    looking(silence, clock, 10)
    clock.now += 10_000
    assert silence.look() == {}
    assert looking(silence, clock, 580) == {}
    assert looking(silence, clock, 20) != {}


def test_a_stall_is_said_after_a_while_and_then_more_rarely():
    stall = Stall(120, clock := Clock())
    said = []
    for _ in range(2000):
        clock.now += 1
        if (waited := stall.look(training=False)) is not None:
            said.append(waited)
    assert said == [120, 360, 1080]
    assert stall.said
    stall.look(training=True)
    assert not stall.said
