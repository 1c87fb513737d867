"""A real cluster of several nodes on this machine: workers, nodes and drivers are lost."""

import json
import os
import pickle
import signal
from pathlib import Path

import pandas as pd
import pytest

import sparseae
from tests.faults.conftest import ROWS, SWEEP, Command, Injector, content, epochs_saved
from tests.faults.processes import Nodes, kill, wait_for

pytestmark = pytest.mark.slow


def harmed_as_asked() -> None:
    """In each worker: what the file of SPARSEAE_TEST_HARM asks for happens in epoch 3."""
    import json
    import signal
    import time
    from pathlib import Path

    import torch

    from sparseae.engine.stack import Stack

    train_epoch, harm = Stack.train_epoch, Path(os.environ["SPARSEAE_TEST_HARM"])

    def train(stack, epoch):
        asked = json.loads(harm.read_text()) if epoch == 3 and harm.exists() else {}
        if len(stack.trials) > asked.get("room", 99):
            if stack.trials[0].model == "dae":
                raise torch.OutOfMemoryError("CUDA out of memory (as a test has it)")
            from ray.exceptions import OutOfMemoryError

            raise OutOfMemoryError("the node was running low on memory (as a test has it)")
        if asked.get("kill") == [stack.trials[0].model, stack.trials[0].activation]:
            os.kill(os.getpid(), signal.SIGKILL)
        if epoch == 1 and harm.exists():
            import ray

            bad = json.loads(harm.read_text()).get("bad")
            if bad == ray.get_runtime_context().get_node_id():
                harm.with_name(f"failed {time.time_ns()}").touch()
                raise RuntimeError("the card fell off the bus (as a test has it)")
            # A good node is still at its first when two have failed.
            while bad and len(list(harm.parent.glob("failed *"))) < 2:
                time.sleep(0.05)
        train_epoch(stack, epoch)

    Stack.train_epoch = train


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    import ray

    harm = tmp_path_factory.mktemp("harm") / "asked.json"
    os.environ["SPARSEAE_TEST_HARM"] = str(harm)
    made = Nodes()
    ray.init(
        address=made.cluster.address,
        runtime_env={"worker_process_setup_hook": harmed_as_asked},
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield made
    ray.shutdown()
    made.cluster.shutdown()
    del os.environ["SPARSEAE_TEST_HARM"]


@pytest.fixture
def harm(nodes):
    """Asks every worker for harm (`harmed_as_asked`)."""
    file = Path(os.environ["SPARSEAE_TEST_HARM"])
    yield lambda **asked: file.write_text(json.dumps(asked))
    for kept in file.parent.iterdir():
        kept.unlink()


@pytest.fixture(autouse=True)
def whole(nodes):
    nodes.grow(2)


class Planted:
    """Whoever unpickles it touches a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self):
        return Path.touch, (self._file,)


def test_a_killed_worker_goes_on_from_its_checkpoint(nodes, tmp_path, chance, is_exact):
    """And runs nothing of what somebody has put beside it."""

    def strike() -> None:
        planted = pickle.dumps(Planted(tmp_path / "unpickled"))
        for folder in (tmp_path / "faults" / "checkpoints").rglob("checkpoint_*"):
            for name in {"_dict_checkpoint.pkl", *(f.name for f in folder.glob("*.pkl"))}:
                (folder / name).write_bytes(planted)
        nodes.kill_worker(chance)

    fault = Injector(chance.randrange(1, ROWS - 20), strike)
    results = sparseae.run(SWEEP, results=tmp_path, observer=fault)
    assert fault.struck
    assert not results.failed
    assert not (tmp_path / "unpickled").exists()
    is_exact(tmp_path / "faults")


def test_a_lost_node_loses_nothing(nodes, tmp_path, chance, is_exact):
    fault = Injector(chance.randrange(1, ROWS - 60), lambda: nodes.lose(chance))
    results = sparseae.run(SWEEP, results=tmp_path, observer=fault)
    assert fault.struck
    assert not results.failed
    is_exact(tmp_path / "faults")


def test_a_trial_that_keeps_crashing_is_reported_and_the_rest_goes_on(
    nodes, tmp_path, chance, harm, is_exact
):
    model, activation = chance.choice(["dae", "cae"]), chance.choice(["relu", "sigmoid"])
    harm(kill=[model, activation])
    results = sparseae.run(SWEEP, results=tmp_path, set_values=["max_failures=1"])
    frame = sparseae.load(tmp_path / "faults")
    victims = frame[(frame["model"] == model) & (frame["activation"] == activation)]
    assert set(results.failed) == set(victims["trial_id"])
    assert len(results.failed) == 4
    harm()
    assert not sparseae.run(SWEEP, results=tmp_path).failed
    is_exact(tmp_path / "faults")


def test_a_node_on_which_everything_fails_costs_no_trial(nodes, tmp_path, harm, is_exact):
    bad = sorted(node.node_id for node in nodes.cluster.worker_nodes)[0]
    harm(bad=bad)
    watch = Injector(0, lambda: None)
    results = sparseae.run(SWEEP, results=tmp_path, set_values=["max_failures=1"], observer=watch)
    assert not results.failed
    said = [note for note in watch.notes if "fell off the bus" in note]
    assert said
    assert all(f"on node {bad[:8]} (" in note for note in said)
    assert any(
        note.startswith(f"node {bad[:8]}") and "no more work" in note for note in watch.notes
    )
    is_exact(tmp_path / "faults")


#: A lone trial of the sweep.
ALONE = {"model": "dae", "activation": "relu", "sigma2": 0.25, "seed": 1}


def is_exact_alone(place, whole) -> None:
    """Asserts that the results hold what a run without faults leaves of the lone trial."""
    rows, _ = content(place)
    (trial,) = rows["trial_id"].unique()
    expected = whole[whole["trial_id"] == trial].reset_index(drop=True)
    pd.testing.assert_frame_equal(rows, expected, check_exact=True)


def test_a_worker_that_hangs_is_ended_and_its_trial_tried_again(
    nodes, tmp_path, chance, uninterrupted
):
    """In the midst of a trial."""

    def hang() -> None:
        (worker,) = nodes.training()
        os.kill(worker, signal.SIGSTOP)

    fault = Injector(chance.randrange(1, 8), hang)
    results = sparseae.run(
        SWEEP | {"space": SWEEP["space"] | ALONE},
        results=tmp_path, set_values=["silent_after=8"], observer=fault,
    )  # fmt: skip
    assert fault.struck
    assert not results.failed
    assert any("was silent for" in note and "tried again" in note for note in fault.notes)
    is_exact_alone(tmp_path / "faults", uninterrupted[0])


def test_workers_that_hang_as_they_take_the_last_pieces_are_ended(nodes, tmp_path, is_exact):
    """Tune waits without end for a worker that it uses again."""

    class Hanging(Injector):
        ended = 0

        def finished(self, task) -> None:
            self.ended += 1
            if self.ended == 2:  # of four, by two workers
                for worker in nodes.training():
                    os.kill(worker, signal.SIGSTOP)

    watch = Hanging(0, lambda: None)
    results = sparseae.run(SWEEP, results=tmp_path, set_values=["silent_after=8"], observer=watch)
    assert not results.failed
    assert any("worker" in note and "tried again" in note for note in watch.notes)
    is_exact(tmp_path / "faults")


def test_failures_with_progress_between_them_are_not_added_up(nodes, tmp_path, uninterrupted):
    """The worker of a lone trial is killed twice, the second time two epochs further."""

    class Killing(Injector):
        kills, last = 0, 0

        def rows(self, task, rows) -> None:
            if rows[-1]["epoch"] >= self.last + 2 and self.kills < 2:
                self.kills, self.last = self.kills + 1, rows[-1]["epoch"]
                kill(*nodes.training())

    watch = Killing(0, lambda: None)
    results = sparseae.run(
        SWEEP | {"space": SWEEP["space"] | ALONE},
        results=tmp_path, set_values=["max_failures=1"], observer=watch,
    )  # fmt: skip
    assert not results.failed, watch.notes
    assert watch.kills == 2
    assert sum("its worker died" in note for note in watch.notes) == 2, watch.notes
    is_exact_alone(tmp_path / "faults", uninterrupted[0])


def test_a_stack_without_room_on_its_device_or_its_machine_is_split(
    nodes, tmp_path, chance, harm, is_exact
):
    """Two on their device, two on their machine, where Ray's monitor ends a worker."""
    harm(room=chance.choice([2, 3]))
    watch = Injector(0, lambda: None)
    assert not sparseae.run(SWEEP, results=tmp_path, observer=watch).failed
    assert "4 stacks were too large: tried again as 8 smaller ones" in watch.notes
    is_exact(tmp_path / "faults")


def test_a_killed_driver_leaves_a_cluster_that_goes_on_with_the_next(
    nodes, tmp_path, chance, is_exact
):
    """Its workers may outlive it for a moment; the same command is not kept waiting for them."""
    command = Command(tmp_path, tmp_path, "--address", nodes.cluster.address)
    driver = command.start()
    goal = chance.randrange(1, 40)
    wait_for(lambda: epochs_saved(tmp_path / "faults") >= goal, f"{goal} epochs")
    kill(driver.pid)
    driver.wait()
    again = command.run()
    assert again.returncode == 0, again.stdout + again.stderr
    assert "go on from checkpoints" in again.stdout or "finished before" in again.stdout
    is_exact(tmp_path / "faults")
