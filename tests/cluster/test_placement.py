"""Where Tune trials go, on clusters of any kind, told and real."""

import pytest

from sparseae.cluster.placement import Cluster, Dispatch, Node, describe, nodes_of, place
from sparseae.errors import RequestError
from sparseae.sweep.config import Resources, Sweep
from sparseae.sweep.plan import cut, stacks

HEAD = Node(0)
CPU_NODE = Node(8)
GPU_NODE = Node(4, 1, "A10G")


def test_without_a_gpu_auto_uses_the_cpus():
    placement = place(Resources(), Cluster((CPU_NODE, CPU_NODE)))
    assert (placement.gpu_workers, placement.cpu_workers, placement.workers) == (0, 16, 16)
    assert placement.request(on_gpu=False) == {"CPU": 1}


def test_cpus_are_counted_by_machine():
    assert place(Resources(cpu=3), Cluster((Node(8), Node(4)))).cpu_workers == 2 + 1


def test_auto_asks_for_gpus_that_the_autoscaler_may_start():
    placement = place(Resources(), Cluster((HEAD,), (GPU_NODE,) * 8))
    assert placement.waiting
    assert placement.gpu_workers == 8
    assert placement.cpu_workers == 0
    assert placement.request(on_gpu=True) == {"CPU": 1, "GPU": 1}


def test_a_gpu_that_was_asked_for_is_waited_for():
    cluster = Cluster((CPU_NODE,))
    placement = place(Resources(gpu=0.5), cluster)
    assert placement.waiting
    assert placement.cpu_workers == 0
    assert "wait for a GPU" in describe(placement, cluster)


def test_machines_that_nobody_told_of_may_be_of_any_size():
    """KubeRay's head has no CPUs for us, and does not say what its autoscaler may add."""
    alone = Cluster((Node(0),))
    placement = place(Resources(gpu=0.25), alone)
    assert placement.waiting
    assert placement.request(on_gpu=True) == {"CPU": 1, "GPU": 0.25}
    with pytest.raises(RequestError, match=r"machine has 0; .* resources\.gpu a number"):
        place(Resources(), alone)


def test_the_work_is_cut_for_machines_that_only_the_user_knows_of():
    """KubeRay's autoscaler brings up eight GPUs with four Tune trials each."""
    alone = Cluster((Node(0),))
    placement = place(Resources(gpu=0.25, workers=32), alone)
    assert placement.workers == 32
    assert "32 wait for a GPU" in describe(placement, alone)
    sweep = Sweep.load(
        {
            "name": "wide",
            "space": {
                "model": ["dae", "cae", "mdae", "sae"],
                "activation": ["relu", "sigmoid"],
                "sigma2": "paper",
                "constraint": ["unit_norm", "none"],
                "dataset": ["gaussian"],
                "seed": [0, 1, 2],
            },
        }
    )
    pieces = cut(stacks(sweep), placement.workers, gpu=True)
    assert len(pieces) >= 32
    assert len(cut(stacks(sweep), place(Resources(gpu=0.25), alone).workers, gpu=True)) < 32
    # CPUs as well, of which the head has none; and what is told still counts where nothing is said.
    assert place(Resources(cpu=2, gpu=0, workers=6), alone).workers == 6
    assert place(Resources(), Cluster((HEAD,), (GPU_NODE,) * 2)).workers == 2


@pytest.mark.parametrize("workers", [0, 1.5, "many", True])
def test_a_number_of_workers_that_is_none_is_refused(workers):
    with pytest.raises(RequestError, match=r"resources\.workers: must be"):
        Sweep.load(
            {
                "name": "x",
                "space": {"model": "ae", "activation": "relu", "sigma2": 0, "dataset": "digits"},
                "resources": {"workers": workers},
            }
        )


def test_on_one_machine_without_a_gpu_there_is_nothing_to_wait_for():
    with pytest.raises(
        RequestError, match=r"resources\.gpu: 0\.5 asked for, this machine has none"
    ):
        place(Resources(gpu=0.5), Cluster((CPU_NODE,), local=True))


def test_a_mixed_cluster_uses_both_and_0_gpus_uses_every_cpu():
    mixed = Cluster((CPU_NODE, GPU_NODE))
    both = place(Resources(), mixed)
    assert (both.gpu_workers, both.cpu_workers) == (1, 8)
    assert place(Resources(gpu=0), mixed).cpu_workers == 12
    assert "beside them 8 on CPUs" in describe(both, mixed)


def test_a_share_that_was_given_stays():
    placement = place(Resources(gpu=0.1), Cluster((GPU_NODE,)))
    assert placement.request(on_gpu=True)["GPU"] == 0.1


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (Resources(cpu=9), r"resources\.cpu: 9 asked for, the largest machine has 8"),
        (Resources(gpu=2), r"resources\.gpu: 2 asked for, the largest machine has 1"),
        (Resources(gpu=1.5), r"resources\.gpu: 1\.5: above 1 it must be a whole number"),
    ],
)
def test_what_no_machine_can_ever_give_is_refused(wanted, says):
    with pytest.raises(RequestError, match=says):
        place(wanted, Cluster((CPU_NODE, GPU_NODE)))


def test_nodes_are_read_from_ray_s_resources():
    resources = {"CPU": 4.0, "GPU": 1.0, "accelerator_type:A10G": 1.0, "memory": 1e9}
    assert nodes_of([(resources, 2), ({"memory": 1.0}, 1)]) == (GPU_NODE, GPU_NODE, Node(0))


def test_gpus_take_the_longest_and_cpus_what_they_finish_in_time():
    costs = [10.0] * 10 + [1.0] * 20
    placement = place(Resources(), Cluster((Node(2), Node(1, 1))))
    dispatch = Dispatch(costs, placement)
    assert [dispatch.next() for _ in range(4)] == [(0, True), (29, False), (28, False), None]
    dispatch.done(28)
    assert dispatch.next() == (27, False)
    dispatch.done(0)
    assert dispatch.next() == (1, True)
    taken = {0: True, 1: True, 27: False, 28: False, 29: False}
    dispatch.done(29)
    dispatch.done(27)
    while not dispatch.finished:
        for piece in [p for p in (dispatch.next() for _ in range(3)) if p]:
            taken[piece[0]] = piece[1]
        for piece in taken:
            dispatch.done(piece)
    assert sorted(taken) == list(range(30))
    assert taken[9]
    assert any(not on_gpu for on_gpu in taken.values())


def test_a_cpu_does_not_hold_up_the_end():
    dispatch = Dispatch([10.0, 10.0], place(Resources(), Cluster((Node(8), Node(1, 1)))))
    assert dispatch.next() == (0, True)
    assert dispatch.next() is None
    dispatch.done(0)
    assert dispatch.next() == (1, True)


def test_host_memory_is_asked_for_where_every_machine_tells_its_own():
    told = Cluster((Node(8, memory=16e9), Node(4, memory=8e9)))
    request = place(Resources(), told).request(False, 1 << 30)
    assert (1 << 30) + (600 << 20) <= request["memory"] <= 1.42 * ((1 << 30) + (600 << 20))
    assert place(Resources(), told).request(False, 1 << 40)["memory"] == 16e9  # or it never runs
    for silent in (Node(4), Node(4, 1)):
        some = Cluster(told.up, (silent,))
        assert "memory" not in place(Resources(), some).request(False, 1 << 30)
    head = Node(0)
    assert "memory" in place(Resources(), Cluster((*told.up, head))).request(False, 1 << 30)


def test_equal_stacks_ask_for_equal_memory_so_that_workers_are_reused():
    placement = place(Resources(), Cluster((Node(8, memory=64e9),)))
    asked = {placement.request(False, (1 << 30) + k * 1000)["memory"] for k in range(1000)}
    assert len(asked) == 1


def test_a_piece_that_is_handed_out_again_comes_before_the_others():
    dispatch = Dispatch([3.0, 2.0, 1.0], place(Resources(), Cluster((Node(1),))))
    assert dispatch.next() == (0, False)
    dispatch.done(0)
    dispatch.again(0)
    assert [dispatch.next() for _ in range(4)] == [(0, False), (1, False), (2, False), None]
    assert dispatch.finished
    assert dispatch.left == 3
    dispatch.done(2)
    dispatch.again(2)
    assert not dispatch.finished
    assert dispatch.next() == (2, False)
