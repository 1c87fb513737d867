"""The numbers of the bounds that hold by proof, from tables whose numbers are known."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sparseae.analysis.curves import Curve
from sparseae.analysis.readings import reading_table
from sparseae.analysis.trends import Judged, judge
from tests.analysis.frames import curve

((CURVE, TREND),) = judge(curve("flat", model="dae", sigma2=(0.0, 0.25), epochs=4, seeds=3))
SHAPE = CURVE.activations.shape  # (3, 2, 5)
nan = float("nan")


def made(model: Any = "dae", dataset: Any = "digits", epoch: Any = 4, **theory: Any) -> Curve:
    tables = {
        name: np.broadcast_to(np.asarray(table, float), SHAPE) for name, table in theory.items()
    }
    name = CURVE.name | {"model": model, "dataset": dataset}
    return replace(CURVE, name=name, theory=tables, epoch=epoch)


def read(*curves: Curve) -> dict[tuple[str, str], str]:
    judged: Judged = [(one, TREND) for one in curves]
    table = reading_table(judged)
    assert list(table) == ["reading", "section", "dataset", "words"]
    return table.set_index(["reading", "dataset"])["words"].to_dict()


def test_without_the_theorys_columns_nothing_is_read():
    assert read(made()) == {}
    assert read(made(ae_bias_gradient_rms=1.0)) == {}  # without its bound
    assert read(made(ae_bias_gradient_rms=nan, lemma1_bound=1.0)) == {}
    bounds = {"ae_bias_gradient_rms": 1.0, "lemma1_bound": 2.0}
    assert read(made(epoch=0, **bounds)) == {}  # nothing has trained
    assert len(read(made(epoch=1, **bounds))) == 1
    assert read(replace(made(**bounds), settings={"encoder_bias": False})) == {}


def test_lemma_1_is_read_as_a_share_of_its_bound():
    by_epoch = np.array([1.0, 2, 3, 4, nan])
    first = made(ae_bias_gradient_rms=by_epoch, lemma1_bound=20.0)
    second = made("cae", ae_bias_gradient_rms=[8.0, 0, 8, 8, 8], lemma1_bound=[10.0, 0, 0, 10, 10])
    (words,) = read(first, second).values()
    # 24 of 0.05 to 0.2, 18 of 0.8 (a bound of 0 has no share).
    assert words == ("dJ_AE/db_j is 20.0% of its bound in the median over epochs, at most 80.0%")
    assert read(first, made("cae", "mnist", ae_bias_gradient_rms=1.0, lemma1_bound=4.0)) == {
        (
            "lemma-1",
            "digits",
        ): "dJ_AE/db_j is 12.5% of its bound in the median over epochs, at most 20.0%",
        (
            "lemma-1",
            "mnist",
        ): "dJ_AE/db_j is 25.0% of its bound in the median over epochs, at most 25.0%",
    }


def test_theorem_1_is_read_by_how_often_it_held_and_the_lambda_it_would_take():
    gradient = [0.1, 0.3, 0.3, 0.3, 0.5]
    one = made(bias_gradient=gradient, lemma1_bound=2.0, condition_share=[0.0, 0.5, 0.5, 0.5, nan])
    table = {k: v for k, v in read(one).items() if k[0] == "theorem-1"}
    # sigma2 bound / gradient is 0 at sigma2 = 0, and 0.25 * 2 / 0.1 = 5 at the start.
    assert table == {
        ("theorem-1", "digits"): "the condition held for 37.500% of units and epochs; the lambda "
        "that it would take, in the median: relu dae 2.5 at the start and 0.5 at the end"
    }


def test_where_no_gradient_pushes_no_lambda_is_asked():
    none = made(bias_gradient=[-1.0, 0, 0, 0, 0], lemma1_bound=2.0)
    assert read(none) == {}
    # One seed of three has 0 at the end, and no lambda: the others' are 0 at sigma2 = 0, and 2.
    end = np.zeros((3, 2, 5))
    end[:2, :, -1], end[..., 0] = 0.25, -1
    cae = made("cae", bias_gradient=end, lemma1_bound=2.0)
    assert read(none, cae)["theorem-1", "digits"] == (
        "the lambda that it would take, in the median: relu cae 1 at the end"
    )
    mdae = made("mdae", bias_gradient=1.0, lemma1_bound=2.0)
    assert read(mdae, cae)["theorem-1", "digits"].endswith(
        "relu cae 1 at the end; relu mdae 0.25 at the start and 0.25 at the end"
    )


def test_the_kink_is_read_of_dae_alone_over_its_curves():
    known = {"bias_gradient": 2.0, "kink_gradient": 1.0}
    assert read(made("cae", **known)).get(("kink", "digits")) is None
    assert read(made(bias_gradient=0.0, kink_gradient=1.0)) == {}
    words = read(made(**known), made(bias_gradient=2.0, kink_gradient=1.5), made(bias_gradient=1.0))
    assert words["kink", "digits"] == (
        "the estimated term of relu's kink is 50% to 75% of the bias gradient that the noise adds "
        "to relu dae (100 % by derivation)"
    )


@pytest.mark.parametrize(
    ("reading", "section"),
    [("lemma-1", "2.1.1, lemma 1"), ("theorem-1", "2.1.1, theorem 1"),
     ("kink", "3.1.1, footnote 1")],
)  # fmt: skip
def test_a_reading_names_its_section(reading, section):
    one = made(ae_bias_gradient_rms=1.0, lemma1_bound=2.0, bias_gradient=1.0, kink_gradient=1.0)
    table = reading_table([(one, TREND)]).set_index("reading")
    assert table.loc[reading, "section"] == section
