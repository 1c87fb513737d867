"""What a run prints of its progress is what the commands read."""

import pytest

from sparseae.sweep.progress import Outlook, Progress


@pytest.mark.parametrize(
    "progress",
    [
        Progress(0, 12, 0, 4812),
        Progress(1_234, 10_000, 56_789, 510_000, seconds_left=4321),
        Progress(12, 12, 4812, 4812, seconds_left=0),
    ],
)
def test_a_line_is_read_back(progress):
    assert Progress.last_of(f"sweep: 12 trials\n{progress}\nfailed: dae\n") == progress


def test_the_last_line_counts_and_there_may_be_none():
    log = f"{Progress(0, 2, 1, 8)}\n{Progress(1, 2, 5, 8)}\n"
    assert Progress.last_of(log) == Progress(1, 2, 5, 8)
    assert Progress.last_of("sweep: all 12 trials are finished, nothing to train\n") is None


def test_what_is_foretold_follows_the_workers_that_there_are():
    now = [0.0]
    outlook = Outlook(10_000, clock=lambda: now[0])
    assert outlook.seconds_left is None

    def train(seconds: int, pace: int, done: int) -> int:
        for _ in range(seconds):
            now[0] += 1
            done += pace
            outlook.reached(done)
        return done

    done = train(300, pace=20, done=0)
    assert outlook.seconds_left == pytest.approx(4_000 / 20)
    done = train(100, pace=5, done=done)  # three of four workers are lost
    assert outlook.seconds_left == pytest.approx(3_500 / 5)
    now[0] += 60  # and the last one says nothing
    assert outlook.seconds_left > 3_500 / 5
    train(100, pace=20, done=done)  # they are back
    assert outlook.seconds_left == pytest.approx(1_500 / 20)
