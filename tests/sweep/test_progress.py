"""What a run prints of its progress is what the commands read."""

import pytest

from sparseae.sweep.progress import Progress


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
