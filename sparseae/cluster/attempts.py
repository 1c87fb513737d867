"""Each piece until it is trained: tried, watched, tried again elsewhere, or given up.

Tune could try a trial again by itself, but counts a lost machine as the trial's failure, sends it
back to the machine that failed, and unpickles what lies beside its checkpoint. So to Tune a failure
is final, and a second try is another Tune trial, from the checkpoint of the first.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.tune.callback import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.result import SHOULD_CHECKPOINT

from sparseae.cluster import ray_internals
from sparseae.cluster.failures import Failures
from sparseae.cluster.placement import Dispatch, Placement
from sparseae.cluster.silence import Silence, Stall
from sparseae.cluster.worker import LeavingNodeError, UnusableNodeError
from sparseae.results.location import Location
from sparseae.sweep.job import Job, Task, drop_older
from sparseae.sweep.plan import StackPlan, memory
from sparseae.sweep.stop import Stop

#: Seconds between two looks at what is silent, and for which what Ray told of its nodes holds.
_LOOK, _NODES = 1.0, 5.0

#: Seconds for which nothing trains before that is said.
_STALL = 120.0

#: FLOP/s that an epoch is expected to have at the least, before one was measured.
_SLOW = 1e10


class Attempts(Callback):
    """The pieces of a job as Tune trains them; also hands what Tune hears on to the recorder.

    Args:
        job: what is trained.
        tasks: its pieces, the longest first.
        placement: where they go.
        stop: whether the run is asked to end.
    """

    def __init__(self, job: Job, tasks: Sequence[Task], placement: Placement, stop: Stop) -> None:
        self._job, self._tasks, self._placement = job, tasks, placement
        self._recorder, self._stop = job.recorder, stop
        self._plans = [StackPlan(task.trials) for task in tasks]
        self._dispatch = Dispatch([plan.flops for plan in self._plans], placement)
        self._failures = Failures(job.sweep.max_failures)
        limit = job.sweep.silent_after
        if not job.location.is_local:
            limit = max(limit, 2 * job.sweep.storage_patience)  # a save may wait for so long
        self._silence = Silence(limit)
        self._limit = limit
        self._stall = Stall(min(_STALL, limit))
        self._starting: dict[str, float] = {}  # workers that do not run yet, since when
        self._killed: dict[str, str] = {}  # actors to why
        self._looked = self._listed = 0.0
        self._nodes: dict[str, Mapping[str, Any]] = {}
        self._aside: set[str] = set()
        self._piece_of: dict[str, int] = {}  # by Tune's name of a trial
        self._node: dict[str, str] = {}
        self._actor: dict[str, str] = {}
        self._epoch: dict[int, int] = defaultdict(lambda: -1)  # the furthest that was reported
        self._complete: set[int] = set()
        self._more_memory: dict[int, int] = defaultdict(lambda: 1)
        self._saved: dict[int, list[Location]] = defaultdict(list)
        #: The epoch that each piece would go on from.
        self._from = [next((c.epoch for c in t.checkpoints.values()), -1) for t in tasks]
        self._left_behind: list[Location] = []  # folders of tries that failed
        self._leaving: set[str] = set()
        #: Tune's own, once it runs.
        self.controller: Any = None

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks to restore an experiment by itself; ours goes on from the
        # results and the checkpoints, and a recorder belongs to this process.
        return {}

    # What Tune asks for.

    @property
    def finished(self) -> bool:
        """Whether no piece is left to be tried, now or later."""
        return self._dispatch.finished or self._stop.asked

    def next(self, name: str) -> dict[str, Any] | None:
        """The next try: a Tune trial's configuration; None where there is none now.

        Args:
            name: Tune's, of the trial that will be it.
        """
        if (taken := self._dispatch.next()) is None:
            return None
        piece, on_gpu = taken
        self._piece_of[name] = piece
        plan = self._plans[piece]
        request = self._placement.request(on_gpu, memory(plan) * self._more_memory[piece])
        saved = self._saved[piece]
        return {
            "piece": piece,
            "resources": request,
            "avoid": sorted(self._failures.avoid(piece, self._able(on_gpu))),
            "resume": saved[-1].path if saved else None,
        }

    def done(self, name: str) -> None:
        """A try has ended, well or not."""
        self._dispatch.done(self._piece_of[name])

    @property
    def settled(self) -> bool:
        """After a request to stop: whether all that trained has saved, or had its time."""
        return self._stop.asked and (not self._silence.running or self._stop.overdue)

    # What Tune tells.

    def _task(self, trial: TuneTrial) -> Task:
        return self._tasks[self._piece_of[trial.trial_id]]

    def on_trial_start(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        piece = self._piece_of[trial.trial_id]
        epochs = self._tasks[piece].trials[0].training.epochs
        if not self._stop.asked:
            self._silence.began(trial.trial_id, self._plans[piece].flops / (epochs + 1) / _SLOW)
        self._actor[trial.trial_id] = ray_internals.actor_of(trial)

    def on_trial_result(
        self, iteration: int, trials: list, trial: TuneTrial, result: dict, **info: Any
    ) -> None:
        piece, task = self._piece_of[trial.trial_id], self._task(trial)
        node = self._node[trial.trial_id] = result["node"]
        self._silence.heard(trial.trial_id)
        if self._stall.said:
            self._recorder.note("training goes on")
        self._stall.look(training=True)
        if result.get("no_memory"):
            self._recorder.out_of_memory(task, result["no_memory"])
        elif result["epoch"] > self._epoch[piece]:
            self._epoch[piece] = result["epoch"]
            self._failures.got_on(piece, node)
            self._look_at_nodes()
        if result.get("trouble"):
            self._recorder.note(result["trouble"])
        if result.get("complete"):
            self._complete.add(piece)
        if result.get("leaving"):
            self._leaves(node, result["leaving"])
        if self._stop.asked and not result.get("no_memory"):
            result[SHOULD_CHECKPOINT] = True
        # Taken out, because Tune keeps what is left for as long as it runs.
        self._recorder.rows(task, result.pop("rows"), result.pop("units", None))

    def on_checkpoint(
        self, iteration: int, trials: list, trial: TuneTrial, checkpoint: Any, **info: Any
    ) -> None:
        # Not by Tune's `num_to_keep`, which would write a snapshot of the experiment each time.
        piece = self._piece_of[trial.trial_id]
        kept, self._from[piece] = self._saved[piece], self._epoch_of(trial)
        kept.append(Location(checkpoint.filesystem, checkpoint.path))
        self._recorder.saved(self._task(trial), kept[-1], self._from[piece])
        drop_older(kept, self._job.sweep.keep_checkpoints)

    def _epoch_of(self, trial: TuneTrial) -> int:
        return int((trial.last_result or {}).get("epoch", -1))

    def on_trial_complete(
        self, iteration: int, trials: list, trial: TuneTrial, **info: Any
    ) -> None:
        self._silence.ended(trial.trial_id)
        if self._piece_of[trial.trial_id] in self._complete:
            self._recorder.finished(self._task(trial))

    def on_trial_error(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        self._silence.ended(trial.trial_id)
        error = ray_internals.error_of(trial)
        actor = error.actor or self._actor.get(trial.trial_id, "")
        node = ray_internals.node_of(actor) or self._node.get(trial.trial_id, "")
        with suppress(AttributeError):
            storage: Any = trial.storage
            self._left_behind.append(Location(self._job.location.filesystem, storage.trial_fs_path))
        self._failed(self._piece_of[trial.trial_id], node, error, self._killed.pop(actor, ""))

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        now = time.monotonic()
        silent = self._silence.look()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        for name, seconds in silent.items():
            actor = self._actor[name]
            if actor and actor not in self._killed:
                self._end(actor, f"it was silent for {seconds:.0f} s and its worker was ended")
        if self._dispatch.left and not self._stop.asked:
            self._look_at_starting(now)  # that of the last piece too
        waited = self._stall.look(training=bool(self._silence.running))
        if waited is not None and not self.finished:
            self._recorder.stalled(self._why(waited))

    def on_experiment_end(self, trials: list, **info: Any) -> None:
        for folder in self._left_behind:
            with suppress(OSError):
                if folder.exists() and not folder.folders():  # no checkpoint in it
                    folder.delete_folder()

    # Failures.

    def _failed(self, piece: int, node: str, error: ray_internals.Error, killed: str) -> None:
        task = self._tasks[piece]
        where = self._called(node)  # while it is known
        self._list_nodes()
        up = self._able(on_gpu=False)
        what = f"{task.label} ({len(task.trials)} trials)"
        reason = killed or error.reason
        if error.memory and len(task.trials) > 1 and not self._recorder.last_try:
            self._recorder.out_of_memory(task, f"{reason} ({where})")
            return
        if error.memory:
            self._more_memory[piece] *= 2
        free = node not in self._nodes or LeavingNodeError.__name__ in error.text
        if free:
            self._failures.lost(piece)
        else:
            self._failures.failed(piece, node)
        if UnusableNodeError.__name__ in error.text:
            self._failures.unusable(node)
        if self._failures.exhausted(piece, up):
            self._recorder.failed(task, f"{reason}, on {where}")
            self._look_at_nodes()
            return
        epoch = self._from[piece]
        begins = f"from epoch {epoch}" if epoch >= 0 else "from the beginning"
        charged, allowed = self._failures.charged(piece, up), self._failures.allowed
        if node and node not in self._nodes:
            self._recorder.note(f"lost {where}: {what} goes on {begins}")
        elif free or not charged:
            self._recorder.note(f"{what}: {reason}, on {where}; goes on {begins}, not counted")
        else:
            self._recorder.note(
                f"{what}: {reason}, on {where}; tried again {begins}, {charged} of {allowed}"
            )
        self._look_at_nodes()
        self._dispatch.again(piece)

    def _look_at_nodes(self) -> None:
        """Say which nodes get no more work, and which do again."""
        aside = self._failures.set_aside(self._able(on_gpu=False))
        for node in sorted(aside - self._aside - self._leaving):
            self._recorder.note(f"{self._called(node)} gets no more work: what it is given fails")
        for node in sorted((self._aside & set(self._nodes)) - aside):
            self._recorder.note(f"{self._called(node)} gets work again: others failed likewise")
        self._aside = aside

    def _leaves(self, node: str, notice: str) -> None:
        """The cloud takes a machine back: what trains there has saved."""
        if node not in self._leaving:
            self._leaving.add(node)
            self._failures.unusable(node)
            self._recorder.note(
                f"the cloud takes {self._called(node)} back ({notice}): it saves and gets no more"
            )

    def _end(self, actor: str, why: str) -> None:
        self._killed[actor] = why
        ray_internals.kill(actor)

    def _look_at_starting(self, now: float) -> None:
        """End workers that do not come up: Ray waits for them without end."""
        if now - self._listed < _NODES:
            return
        self._list_nodes()
        starting = {*ray_internals.starting(), *self._resetting()}
        self._starting = {actor: self._starting.get(actor, now) for actor in starting}
        for actor, since in self._starting.items():
            if now - since > self._limit and actor not in self._killed:
                self._end(actor, f"its worker did not come up in {now - since:.0f} s")

    def _resetting(self) -> list[str]:
        """Workers that get ready for another piece."""
        return [ray_internals.actor_of(t) for t in ray_internals.resetting(self.controller)]

    # Nodes.

    def _list_nodes(self) -> None:
        self._listed = time.monotonic()
        alive = [node for node in ray.nodes() if node["Alive"]]
        self._nodes = {node["NodeID"]: node for node in alive}

    def _able(self, on_gpu: bool) -> set[str]:
        """Nodes that are up and could take a piece."""
        if not self._nodes:
            self._list_nodes()
        need = self._placement
        gpu = need.gpu if on_gpu or not need.cpu_workers else 0
        return {
            name
            for name, node in self._nodes.items()
            if node["Resources"].get("CPU", 0) >= need.cpu
            and node["Resources"].get("GPU", 0) >= gpu
        }

    def _called(self, node: str) -> str:
        """A node for people."""
        if not node:
            return "an unknown node"
        address = self._nodes.get(node, {}).get("NodeManagerAddress")
        return f"node {node[:8]}" + (f" ({address})" if address else "")

    def _why(self, seconds: float) -> str:
        """Why nothing trains, as far as Ray knows."""
        left = self._dispatch.left
        able = self._able(on_gpu=self._placement.gpu_workers > 0)
        has = (
            f"{len(able)} of {len(self._nodes)} nodes could take one"
            if able
            else (f"none of the {len(self._nodes)} nodes that are up can take one")
        )
        wants = self._placement.wants
        reasons = ray_internals.not_to_be_had()
        told = f"; the autoscaler says: {'; '.join(reasons)}" if reasons else ""
        return (
            f"nothing has trained for {seconds:.0f} s: {left} Tune trials wait for {wants} each; "
            f"{has}{told}"
        )
