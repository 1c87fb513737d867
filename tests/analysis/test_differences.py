"""Two tables of epochs, compared trial by trial."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from sparseae.analysis.differences import as_json, at, differences, half_width, origins_differ
from sparseae.errors import RequestError
from tests.analysis import frames


def curve(*args, **more) -> pd.DataFrame:
    """A curve of which one measure is known."""
    return frames.curve(*args, **more).drop(columns="pre_activation_mean")


def rates(*values: float, shapes: tuple[str, ...] = ("flat", "decreasing"), **more) -> pd.DataFrame:
    """The same curve at several learning rates."""
    each = zip(values, shapes, strict=True)
    return pd.concat([curve(shape, learning_rate=value, **more) for value, shape in each])


def test_a_sweep_and_itself_are_equal_to_the_bit():
    frame = rates(0.001, 0.005)
    found = differences(frame, frame.copy())
    assert (found.by, found.pairs, found.equal, found.alone) == ((), 36, 36, (0, 0))
    assert (found.table["difference"] == 0).all()
    assert found.flips.empty


def test_one_sweep_at_two_values_of_a_key_is_paired_in_all_else():
    frame = rates(0.001, 0.005, noise=0.0)
    first, second = (at(frame, "learning_rate", value) for value in ("0.001", "5e-3"))
    found = differences(first, second)
    assert found.by == ("learning_rate: 0.001 -> 0.005",)
    assert (found.pairs, found.equal) == (18, 0)
    of = found.table.set_index("sigma2")["difference"]
    assert of[0.0] == pytest.approx(0.38 - 0.37)
    assert of[1.0] == pytest.approx(0.02 - 0.37, abs=1e-3)
    assert found.curves.loc[0, "sigma2"] == 1.0  # where they differ most
    flips = found.flips.set_index("prediction")
    assert "relu-flat: relu cae unit_norm" in flips.index


def test_two_sweeps_are_paired_without_being_told_what_differs():
    first = curve(learning_rate=0.001, seeds=5)
    second = pd.concat([curve(learning_rate=0.005), curve(model="dae", learning_rate=0.005)])
    found = differences(first, second)
    assert found.by == ("learning_rate: 0.001 -> 0.005",)
    assert (found.pairs, found.alone) == (18, (12, 18))


def test_a_value_that_both_sweeps_have_is_paired_with_itself():
    first = rates(0.001, 0.005)
    second = rates(0.005, 0.02)
    found = differences(first, second)
    assert found.by == ()
    assert found.pairs == 18


def test_seeds_are_the_replicates():
    one, two = curve(noise=0.0), curve(noise=0.0, dataset="digits")
    shift = {0: 0.01, 1: 0.02, 2: 0.06}
    two["activation_fraction"] += two["seed"].map(shift)
    found = differences(one, two).table
    delta = np.array(list(shift.values()))
    assert found["difference"].to_numpy() == pytest.approx(0.03)
    half = 4.302653 * delta.std(ddof=1) / np.sqrt(3)
    assert (found["high"] - found["difference"]).to_numpy() == pytest.approx(half)
    # Permuting what was done at which sigma2 moves no interval over seeds of the mean.
    assert (found["seeds"] == 3).all()
    assert np.isnan(half_width(delta[:1]))
    assert half_width(delta, looks=6) > half_width(delta)


def test_finished_trials_are_compared_at_their_ends_and_others_where_both_are():
    long, short = curve(epochs=20), curve(epochs=10)
    found = differences(short, long)
    assert found.by == ("epochs: 10 -> 20",)
    running = long[long["epoch"] <= 12]
    seven = short[short["epoch"] <= 7]
    assert differences(running, seven).by == ("epochs: 20 -> 10",)
    mean = differences(running, seven).table["first"].mean()
    assert mean == pytest.approx(long.loc[long["epoch"] == 7, "activation_fraction"].mean())


def test_epochs_cut_a_sweep():
    frame = curve("decreasing", epochs=20)
    found = differences(at(frame, "epochs", "5"), at(frame, "epochs", "20"))
    assert found.by == ("epochs: 5 -> 20",)
    assert found.pairs == 18
    assert found.table.loc[found.table["sigma2"] == 1.0, "difference"].item() < -0.1


def test_a_diverged_trial_is_left_out_and_counted():
    frame, other = curve(), curve()
    trial = frame["trial_id"].iloc[0]
    late = (other["trial_id"] == trial) & (other["epoch"] > 4)
    other.loc[late, "status"] = "diverged"
    other.loc[late, ["activation_fraction", "dead_fraction"]] = np.nan
    found = differences(frame, other)
    assert (found.pairs, found.diverged) == (17, 1)
    assert found.table["seeds"].tolist() == [2, 3, 3, 3, 3, 3]


def test_other_seeds_are_compared_in_their_verdicts_alone():
    frame, fresh = curve(), curve()
    fresh["seed"] += 10
    fresh["trial_id"] += "fresh"
    found = differences(frame, fresh)
    assert (found.by, found.pairs) == (("seed",), 0)
    assert len(found.verdicts)


def test_variants_of_a_curve_are_told_apart():
    frame = rates(0.001, 0.005, shapes=("flat", "flat"))
    found = differences(frame, frame)
    assert found.curves["variant"].tolist() == ["learning_rate=0.001", "learning_rate=0.005"]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("seed", "0", "replicates"),
        ("learning_rat", "0.1", "did you mean 'learning_rate'"),
        ("learning_rate", "0.1", "no trial has '0.1'; did you mean '0.001'"),
        ("model", "cea", "did you mean 'cae'"),
        ("epochs", "11", "must be 0 to 10"),
        ("epochs", "2.5", "must be 0 to 10"),
    ],
)
def test_a_wrong_key_or_value_is_one_line(key, value, words):
    with pytest.raises(RequestError, match=words):
        at(rates(0.001, 0.005), key, value)


def test_sweeps_that_share_nothing_are_refused():
    with pytest.raises(RequestError, match="no trial of the one"):
        differences(curve(batch_size=1, hidden=2), curve(batch_size=2, model="dae",
                    activation="sigmoid", constraint="none"))  # fmt: skip


def test_what_differs_in_the_origins_is_named():
    one = {"tf32": "false", "gemm": {"50x64x8": "torch"}, "versions": {"torch": "2.11", "ray": "2"}}
    two = {"tf32": "true", "gemm": {"50x64x8": "torch+c"}, "versions": {"torch": "2.13"}}
    assert list(origins_differ(one, two)) == [
        "tf32: false -> true", "torch: 2.11 -> 2.13", "routine of 50x64x8: torch -> torch+c",
    ]  # fmt: skip
    assert list(origins_differ(one, one)) == []


def test_it_is_json():
    frame = rates(0.001, 0.005)
    told = json.loads(as_json(differences(at(frame, "learning_rate", "0.001"),
                                          at(frame, "learning_rate", "0.005"))))  # fmt: skip
    assert told["pairs"] == 18
    assert {"sigma2", "difference", "low", "high"} <= told["differences"][0].keys()


def test_the_command_fits_80_columns_and_refuses_in_one_line(tmp_path):
    folders = []
    for k, shape in enumerate(("flat", "decreasing")):
        folder = tmp_path / f"s{k}"
        (folder / "epochs").mkdir(parents=True)
        rows = curve(shape, dataset="photo_patches", constraint="unit_norm")
        for name, value in itertools.product(
            ["reconstruction_error", "regularization", "loss", "weight_norm_mean", "bias_mean",
             "pre_activation_mean", "learning_rate", "epoch_seconds"], [1.0]):  # fmt: skip
            rows[name] = value
        rows["dead_units"], rows["samples"], rows["device"] = 0, 100, "cpu"
        rows.to_parquet(folder / "epochs" / "part-1.parquet")
        folders.append(folder)

    def command(*arguments):
        return subprocess.run([sys.executable, "-m", "sparseae", "diff", *map(str, arguments)],
                              capture_output=True, text=True, check=False)  # fmt: skip

    done = command(*folders)
    assert done.returncode == 0, done.stderr
    assert "18 of trials, 0 equal to the bit" in done.stdout
    assert "relu cae unit_norm" in done.stdout
    assert "E[a]" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    for wrong in ([folders[0]], [folders[0], "--by", "model"], [folders[0], "--by", "model=a,b"]):
        done = command(*wrong)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
