"""The plan: stacks, how they are cut, what they cost."""

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from sparseae.sweep.config import Sweep
from sparseae.sweep.plan import StackPlan, _kind, _last_finish, cost, cut, make_plan, memory, stacks

PAPER = Path(__file__).parents[2] / "tune_configs" / "paper.yaml"

BASE = {
    "name": "small",
    "space": {
        "model": ["dae", "cae"],
        "activation": ["relu", "sigmoid"],
        "sigma2": [0, 0.25, 1.0],
        "dataset": ["digits"],
        "seed": [0, 1, 2],
    },
    "training": {"epochs": 2, "hidden_units": 16},
}


def test_a_stack_holds_the_stacked_axes_and_nothing_else_differs():
    plans = stacks(Sweep.load(BASE))
    assert [len(plan.trials) for plan in plans] == [9] * 4
    for plan in plans:
        assert len({(t.model, t.activation) for t in plan.trials}) == 1


def test_an_override_of_a_stacked_axis_splits_the_stack():
    when = {"when": {"sigma2": 1.0, "model": "dae"}, "training": {"learning_rate": 0.002}}
    plans = stacks(Sweep.load(BASE | {"overrides": [when]}))
    assert sorted(len(plan.trials) for plan in plans) == [3, 3, 6, 6, 9, 9]
    excluded = stacks(Sweep.load(BASE | {"exclude": [{"sigma2": 0, "model": "cae"}]}))
    assert sorted(len(plan.trials) for plan in excluded) == [6, 6, 9, 9]


def test_without_stacked_axes_every_trial_is_its_own():
    assert all(len(plan.trials) == 1 for plan in stacks(Sweep.load(BASE | {"stack": []})))


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 16, 64, 256])
def test_cut_keeps_every_trial_once_and_every_worker_busy(workers):
    plans = stacks(Sweep.load(BASE, ["space.seed=[0,1,2,3,4,5]"]))
    pieces = cut(plans, workers)
    assert sorted(t.trial_id for p in pieces for t in p.trials) == sorted(
        t.trial_id for p in plans for t in p.trials
    )
    work = [piece.flops for piece in pieces]
    assert work == sorted(work, reverse=True)
    ideal = max(sum(work) / workers, max(p.flops / len(p.trials) for p in plans))
    alone = sorted((cost(t) for p in plans for t in p.trials), reverse=True)
    assert _last_finish(work, workers) <= max(1.1 * ideal, 1.02 * _last_finish(alone, workers))


def test_stacks_are_not_cut_without_need():
    plans = stacks(Sweep.load(BASE))
    assert len(cut(plans, 1)) == len(plans) == len(cut(plans, 2))


@pytest.mark.parametrize("workers", [2, 4, 8, 16, 32, 64])
def test_no_worker_idles_though_some_models_are_slower_than_their_flops_say(workers):
    pieces = cut(stacks(Sweep.load(PAPER)), workers)
    late = []
    for seed in range(10):
        random, slower = Random(seed), {}
        seconds = [
            piece.flops * slower.setdefault(_kind(piece.trials[0]), random.uniform(2 / 3, 3 / 2))
            for piece in pieces
        ]
        late.append(_last_finish(seconds, workers) / (sum(seconds) / workers))
    assert sum(late) / len(late) < 1.1


def test_a_gpu_keeps_stacks_whole_that_a_cpu_cuts():
    plans = stacks(Sweep.load(PAPER))
    assert len(cut(plans, 16, gpu=True)) < len(cut(plans, 16))
    assert len(cut(plans, 1)) == len(plans)


def test_no_piece_outgrows_the_memory():
    wide = {"sigma2": "paper", "seed": list(range(100)), "model": "cae", "activation": "relu",
            "dataset": "gaussian"}  # fmt: skip
    sweep = Sweep.load({"name": "wide", "space": wide, "training": {"gaussian_inputs": 784}})
    (whole,) = stacks(sweep)
    for pieces in (cut([whole], 1), cut([whole], 2, gpu=True)):
        assert sum(len(piece.trials) for piece in pieces) == 1200
        data = 50_000 * 784 * 4
        assert max(map(memory, pieces)) < (2 << 30) + 2 * data


def test_no_finer_than_helps():
    # 36 equal trials on 32 workers end after two of them, however they are cut.
    plans = stacks(Sweep.load(BASE))
    pieces = cut(plans, 32)
    assert _last_finish([p.flops for p in pieces], 32) == 2 * cost(plans[0].trials[0])
    assert len(pieces) < 36


def test_four_stacks_of_18_fill_64_workers():
    plans = stacks(Sweep.load(BASE, ["space.model=[cae]", "space.seed=[0,1,2,3,4,5]",
                                     "space.constraint=[unit_norm,none]"]))  # fmt: skip
    assert [len(p.trials) for p in plans] == [18] * 4
    assert len(cut(plans, 64)) >= 64


def test_cost_counts_the_products():
    (trial, *_) = Sweep.load(BASE, ["space.model=[cae]"]).trials()
    epoch = 16 * 64 * 1797
    assert cost(trial) == epoch * (10 * 2 + 4 * 3)


def test_memory_is_the_data_and_as_much_again_for_each_member():
    plan = stacks(Sweep.load(BASE))[0]
    t = plan.trials[0].training
    sizes = [memory(StackPlan(plan.trials[:members])) for members in (1, 2, 3)]
    each = sizes[1] - sizes[0]
    assert sizes[2] - sizes[1] == each
    # W and b, and their momentum: there, and three times over while a checkpoint is written.
    assert each >= 4 * 2 * 4 * (t.hidden_units * 64 + t.hidden_units)
    assert sizes[0] - each > 1797 * 64 * 4


TRAIN_AND_SAVE = """
import sys, torch
from sparseae.results.location import Location
from sparseae.sweep.config import Sweep
from sparseae.sweep.piece import Piece
from sparseae.sweep.plan import memory, stacks

def kilobytes(key):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(key))

def train_and_save(stack, n):
    piece = Piece(stack.trials, torch.randn(800, n), torch.device("cpu"), "x")
    piece.advance()
    piece.advance()
    piece.save(Location.of(sys.argv[2]))

(stack,), (small,) = (stacks(Sweep.load(raw)) for raw in eval(sys.argv[1]))
train_and_save(small, 2)  # what the libraries load and set up at first
before = kilobytes("VmRSS")
train_and_save(stack, 784)
print(memory(stack), 1024 * (kilobytes("VmHWM") - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_memory_is_what_a_stack_takes(tmp_path):
    raw = {
        "name": "wide",
        "space": {"model": "cae", "activation": "relu", "sigma2": "paper", "dataset": "gaussian"},
        "training": {"gaussian_inputs": 784, "samples": 800, "hidden_units": 1000},
    }
    small = raw | {"training": {"gaussian_inputs": 2, "samples": 800, "hidden_units": 2}}
    command = [sys.executable, "-c", TRAIN_AND_SAVE, repr([raw, small]), str(tmp_path)]
    planned, taken = map(int, subprocess.check_output(command, text=True).split())
    assert 0.7 * taken < planned < 1.3 * taken


@pytest.mark.parametrize("key", ["hidden_units", "batch_size", "corruptions", "samples", "epochs"])
def test_what_no_machine_can_train_is_planned_all_the_same(key):
    space = BASE["space"] | {"dataset": "gaussian", "activation": "relu"}
    sweep = Sweep.load(BASE | {"space": space}, [f"training.{key}={1 << 61}"])
    plan = make_plan(sweep, 2)
    assert plan.largest_memory > 16 * 1797
    assert_time_is_work_by_rate(plan)


def test_the_plan_counts_what_would_run():
    config = BASE | {"exclude": [{"model": "cae", "seed": 0}]}
    plan = make_plan(Sweep.load(config), 2)
    assert plan.trials == 30
    assert plan.excluded == 6
    assert plan.epochs == 60
    assert plan.samples == 60 * 1797
    assert plan.flops == sum(map(cost, Sweep.load(config).trials()))
    assert_time_is_work_by_rate(plan)


def assert_time_is_work_by_rate(plan):
    """The longest of two workers has half of the work at least, and all of it at most."""
    alone = plan.flops / plan.rate
    assert alone / 2 * (1 - 1e-9) <= plan.seconds <= alone * (1 + 1e-9)
