"""What a cluster's file will start, how long a sweep takes there, and what that costs."""

import re

import pytest
import yaml

from sparseae.cluster.files import Prices, read
from sparseae.cluster.placement import Node, place
from sparseae.errors import RequestError
from sparseae.model.trial import Training, Trial
from sparseae.sweep.cards import CARDS, seconds_on
from sparseae.sweep.config import Resources, Sweep
from sparseae.sweep.plan import make_plan
from tests.cli.test_cli import sparseae
from tests.conftest import REPOSITORY

PAPER = REPOSITORY / "tune_configs" / "paper.yaml"


@pytest.fixture
def written(tmp_path):
    """A cluster's file of one kind of machine beside the head."""

    def write(provider=None, most=2, **kind) -> str:
        kinds = {"head": {"node_config": {"InstanceType": "m5.large"}}, "gpu": kind}
        file = tmp_path / "cluster.yaml"
        file.write_text(yaml.safe_dump({
            "cluster_name": "x", "max_workers": most, "provider": provider or {},
            "head_node_type": "head", "available_node_types": kinds,
        }))  # fmt: skip
        return str(file)

    return write


@pytest.mark.parametrize(
    ("machine", "cpus", "gpus", "card"),
    [("g5.xlarge", 4, 1, "A10G"), ("g5.16xlarge", 64, 1, "A10G"), ("g6.12xlarge", 48, 4, "L4"),
     ("g4dn.metal", 96, 8, "T4"), ("p3.8xlarge", 32, 4, "V100"), ("p5.48xlarge", 192, 8, "H100"),
     ("p5.4xlarge", 16, 1, "H100"), ("c7i.4xlarge", 16, 0, None)],
)  # fmt: skip
def test_aws_s_machines_are_known_by_name(written, machine, cpus, gpus, card):
    cluster, prices = read(written(resources={}, node_config={"InstanceType": machine}))
    assert cluster.to_come == (Node(cpus, gpus, card),) * 2
    assert prices is None


def test_what_the_file_says_of_a_machine_counts(written):
    said = {"CPU": 4, "GPU": 2, "accelerator_type:L4": 1}
    cluster, _ = read(written(resources=said, max_workers=1))
    assert cluster.to_come == (Node(4, 2, "L4"),)


@pytest.mark.parametrize("file", ["gpu.yaml", "gcp-gpu.yaml"])
def test_the_files_that_are_shipped_say_machines_and_prices(file):
    cluster, prices = read(str(REPOSITORY / "cluster" / file))
    assert place(Resources(), cluster).gpu_workers == 8
    assert prices.cards == 1
    assert 0 < prices.head < prices.machine


@pytest.mark.parametrize(
    ("kind", "provider", "says"),
    [
        ({}, {}, r"gpu: no InstanceType is no machine that is known here; say its resources"),
        ({"resources": {"CPU": 1}}, {"usd_per_hour": {"gpus": 1}}, r"did you mean 'gpu'\?"),
        ({"resources": {"CPU": 1}}, {"usd_per_hour": {"gpu": "cheap"}}, r"'cheap' is no price"),
        ({"resources": {"CPU": 1}}, {"usd_per_hour": 3}, r"must be as \{gpu: 0\.5\}"),
    ],
)
def test_what_says_too_little_is_refused_in_one_line(written, kind, provider, says):
    with pytest.raises(RequestError, match=says):
        read(written(provider, **kind))


def test_a_file_of_something_else_is_refused_in_one_line():
    with pytest.raises(RequestError, match="has no available_node_types; name a file"):
        read(str(PAPER))


#: Members, inputs, and microseconds of a step of cae that an H200 took (shared/gpu).
MEASURED = [(1, 784, 114.7), (12, 784, 430), (36, 784, 1069), (1, 192, 78), (12, 192, 153),
            (36, 192, 356), (72, 192, 634)]  # fmt: skip


@pytest.mark.parametrize(("members", "inputs", "microseconds"), MEASURED)
def test_a_step_takes_what_an_h200_took(members, inputs, microseconds):
    training = Training(hidden_units=1000, batch_size=50, epochs=1)
    trials = [
        Trial(model="cae", activation="relu", sigma2=k, constraint="unit_norm", dataset="d",
              seed=0, training=training)
        for k in range(members)
    ]  # fmt: skip
    one, two = (seconds_on(CARDS["H200"], trials, samples, inputs) for samples in (50, 100))
    measuring = 2.3 * 2 * 4 * 1000 * inputs * 50 * members / 50.7e12
    assert two - one - measuring == pytest.approx(microseconds * 1e-6, rel=0.16)


def test_the_paper_takes_what_it_took():
    """One process, whole stacks, an H200: 13.8 minutes by the benchmark's estimate."""
    plan = make_plan(Sweep.load(PAPER), 1, gpu=True, card="H200")
    assert plan.seconds / 60 == pytest.approx(13.8, rel=0.15)
    shared = make_plan(Sweep.load(PAPER), 4, gpu=True, card="H200", share=0.25)
    assert shared.seconds >= 0.99 * plan.seconds  # they take turns
    assert make_plan(Sweep.load(PAPER), 1, gpu=True, card="of next year").seconds is None


def test_plan_says_time_and_cost_of_machines_that_are_not_up():
    done = sparseae("plan", PAPER, "--cluster", REPOSITORY / "cluster" / "gpu.yaml")
    said = " ".join(done.stdout.split())
    minutes, dollars = (
        re.search(r"about ([\d.]+) min on 8 A10G", said),
        re.search(r"about ([\d.]+) \$: 4\.10 \$ an hour for the head and 8 machines", said),
    )
    assert float(dollars[1]) == pytest.approx(4.10 * float(minutes[1]) / 60, rel=0.1)


def test_prices_are_of_the_dearest_kind_with_gpus(written):
    kind = {"resources": {"CPU": 4, "GPU": 2}}
    assert read(written({"usd_per_hour": {"head": 1, "gpu": 2}}, **kind))[1] == Prices(1, 2, 2)
    assert read(written({"usd_per_hour": {"head": 1}}, **kind))[1] is None
