"""kill -9 of the driver, of Ray, of all of it; then the same command."""

import pytest

from tests.faults.conftest import Command, epochs_saved
from tests.faults.processes import descendants, kill, wait_for

pytestmark = pytest.mark.slow

RAY = ("gcs_server", "raylet")


def of_the_driver(driver: int, below: dict[int, str]) -> list[int]:
    return [driver]


def of_ray(driver: int, below: dict[int, str]) -> list[int]:
    return [pid for pid, words in below.items() if any(name in words for name in RAY)]


def of_the_machine(driver: int, below: dict[int, str]) -> list[int]:
    return [driver, *below]


@pytest.mark.parametrize(
    "victims",
    [
        pytest.param(of_the_driver, marks=pytest.mark.minutes),
        pytest.param(of_ray, marks=pytest.mark.minutes),
        of_the_machine,
    ],
)
def test_killed_and_run_again_it_ends_as_if_never_killed(tmp_path, chance, is_exact, victims):
    command = Command(tmp_path, tmp_path)
    place, driver = tmp_path / "faults", command.start()
    goal = chance.randrange(1, 40)
    wait_for(lambda: epochs_saved(place) >= goal or driver.poll() is not None, f"{goal} epochs")
    assert driver.poll() is None, driver.communicate()[0]
    kill(*victims(driver.pid, descendants(driver.pid)))
    driver.wait(timeout=120)
    again = command.run()  # at once: what the kill left alive must not be in the way
    assert (again.returncode, again.stderr) == (0, ""), again.stdout + again.stderr
    assert "go on from checkpoints" in again.stdout
    is_exact(place)
