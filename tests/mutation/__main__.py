"""Mutation testing: does a test fail when a line of the product is changed?

    python -m tests.mutation [MODULE ...]            every mutant of the modules, all without a name
    python -m tests.mutation --sample TEXT           some of one module, drawn by a text: CI gives
                                                     the commit

mutmut makes the mutants and runs, in a fork, the tests that call the changed function. Three things
are added. What the package has cached is forgotten (`tests.mutation.fresh`). What a decorator
covers (`@torch.inference_mode()`, properties) mutmut leaves alone, so that here decorators are
calls behind the function. And a survivor is compared with ``equivalent.toml``, which says why no
test can tell it from the original; any other is an error.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import libcst as cst

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent

DEFINITION = "tests/test_definition.py::test_in_float64_a_stack_trains_what_the_specification_says"

#: Models and activations in which each path of a step and of a measurement is gone.
KINDS = ("cae-sigmoid", "cae_h-softplus", "corollary2-tanh", "dae-relu", "dae_bias-sigmoid",
         "dae_pairs-maxout", "dae2-sigmoid", "edae-tanh", "mdae-softplus", "sae-relu")  # fmt: skip
FLOAT64 = [f"{DEFINITION}[{kind}]" for kind in KINDS]

STACK = "tests/engine/test_stack.py"
#: A member in a stack, and the trial alone, by each routine.
ALONE = [
    f"{STACK}::test_a_diverged_member_harms_no_neighbour",
    f"{STACK}::test_training_is_sgd_with_momentum_on_the_objective",
    f"{STACK}::test_without_an_encoder_bias_it_stays_zero",
]
TEST_C = "tests/engine/test_c.py"
WHOLE_RUNS = f"{TEST_C}::test_a_run_is_one_call_where_the_loops_know_all_of_it"
IN_C = [
    WHOLE_RUNS,
    f"{TEST_C}::test_an_update_in_c_goes_with_the_products_of_any_routine",
    f"{TEST_C}::test_a_penalty_of_any_power_and_any_f_is_torchs",
    f"{TEST_C}::test_what_the_steps_in_c_do_not_take_they_say",
    f"{TEST_C}::test_what_the_steps_in_c_lack_they_say",
    f"{TEST_C}::test_an_update_is_sgd_with_momentum_and_scaled_rows",
]
EXTENSIONS = "tests/model/test_extensions.py"
REFUSED = [
    f"{EXTENSIONS}::test_a_model_whose_gradient_is_another_is_refused",
    f"{EXTENSIONS}::test_what_is_missing_is_named",
]
CUDA_GRAPH = "tests/engine/test_cuda_graph.py"
FOOTPRINT = "tests/engine/test_footprint.py"
OBJECTIVE = ["tests/model/test_objective.py", *FLOAT64]
ROWS = "tests/analysis/test_reference.py::test_the_committed_tables_follow_from_the_committed_rows"
PREDICTIONS = [
    ROWS,
    "tests/analysis/test_comparison_numbers.py",
    "tests/analysis/test_prediction_numbers.py",
    "tests/analysis/test_predictions.py",
    "tests/analysis/test_reach_numbers.py",
    "tests/analysis/test_theory_numbers.py",
    "tests/analysis/test_theory_predictions.py",
]

#: What is mutated, below ``sparseae/``, and the tests that must notice. Of a module that is not in
#: `SAMPLED` not every mutant was tried (CONTRIBUTING has the scores).
TESTS: dict[str, list[str]] = {
    "model/activations.py": ["tests/model", DEFINITION],
    "model/coefficients.py": ["tests/model/test_coefficients.py"],
    "model/constraints.py": ["tests/model/test_constraints.py", "tests/model", DEFINITION],
    "model/contract.py": ["tests/model/test_contract.py", *REFUSED],
    "model/corruption.py": OBJECTIVE,
    "model/forms.py": [*OBJECTIVE, EXTENSIONS],
    "model/network.py": ["tests/model/test_network.py"],
    "model/objective.py": [*OBJECTIVE, EXTENSIONS],
    "model/penalties.py": ["tests/model", DEFINITION, WHOLE_RUNS],
    "model/second_order.py": OBJECTIVE,
    "model/trial.py": ["tests/model/test_trial.py"],
    "model/space.py": ["tests/model/test_space.py"],
    "engine/c.py": [*ALONE, *FLOAT64, *IN_C, EXTENSIONS],
    "engine/choice.py": ["tests/engine/test_choice.py"],
    "engine/choice_on_cpu.py": ["tests/engine/test_choice.py"],
    "engine/choice_on_card.py": ["tests/engine/test_choice_on_card.py"],
    "engine/cuda_graph.py": [
        f"{CUDA_GRAPH}::test_a_capture_that_fails_once_is_tried_again",
        f"{CUDA_GRAPH}::test_a_capture_that_fails_twice_is_told_once_and_changes_nothing",
        *(
            f"{CUDA_GRAPH}::test_a_captured_step_is_the_eager_one[{model}-softplus]"
            for model in ("cae", "dae", "edae")
        ),
        f"{CUDA_GRAPH}::test_a_step_is_captured_on_a_card",
        f"{CUDA_GRAPH}::test_all_that_a_step_depends_on_lies_where_the_data_do",
        f"{CUDA_GRAPH}::test_an_epoch_runs_on_a_stream_of_its_own_in_order_with_what_is_around_it",
        f"{CUDA_GRAPH}::test_any_batch_size_gives_the_steps_of_members_apart",
        f"{CUDA_GRAPH}::test_nothing_is_collected_within_a_capture",
        f"{CUDA_GRAPH}::test_precision_is_restored_whatever_happens",
        f"{CUDA_GRAPH}::test_tf32_is_asked_for_while_a_stack_trains_and_never_leaks",
    ],
    "engine/footprint.py": [
        f"{FOOTPRINT}::test_a_step_and_a_measurement_take_turns_and_a_card_keeps_both",
        f"{FOOTPRINT}::test_fewer_members_at_once_take_less_to_step",
        f"{FOOTPRINT}::test_more_samples_are_so_much_more_data_and_order",
        f"{FOOTPRINT}::test_the_memory_of_any_shape_is_predicted_within_a_tenth",
        f"{FOOTPRINT}::test_the_memory_of_training_alone_is_predicted_within_a_tenth",
        f"{FOOTPRINT}::test_the_products_of_a_known_form_are_those_that_its_steps_call",
        f"{FOOTPRINT}::test_what_a_measurement_leaves_lasts",
        f"{FOOTPRINT}::test_what_changes_neither_memory_nor_products_is_not_asked_twice",
        f"{FOOTPRINT}::test_what_fits_no_machine_has_the_size_of_its_weights_momentum_and_a_minibatch",
        f"{FOOTPRINT}::test_which_seeds_makes_no_difference_but_how_many",
    ],
    "engine/heldout.py": ["tests/engine/test_heldout.py"],
    "engine/library.py": [
        "tests/engine/test_library.py",
        WHOLE_RUNS,
        f"{TEST_C}::test_a_compiler_that_computes_wrong_is_not_used",
        f"{TEST_C}::test_an_update_is_sgd_with_momentum_and_scaled_rows",
        f"{TEST_C}::test_any_number_of_units_steps_as_by_torch",
    ],
    "engine/measurements.py": [*FLOAT64, "tests/engine/test_measurements.py"],
    "engine/minibatches.py": [*FLOAT64, "tests/engine/test_minibatches.py"],
    "engine/products.py": ["tests/engine/test_products.py"],
    "engine/randomness.py": ["tests/engine/test_randomness.py"],
    "engine/stack.py": ["tests/engine/test_stack_of_trials.py", *FLOAT64],
    "engine/step.py": ["tests/engine/test_step.py", *FLOAT64],
    "engine/torch.py": ["tests/engine/test_stack_of_trials.py", *FLOAT64, *ALONE],
    "analysis/behind.py": ["tests/analysis/test_behind.py"],
    "analysis/curves.py": [
        "tests/analysis/test_trend_numbers.py",
        "tests/analysis/test_trends.py",
        "tests/analysis/test_curves.py",
        ROWS,
    ],
    "analysis/differences.py": [
        "tests/analysis/test_difference_numbers.py",
        "tests/analysis/test_differences.py",
    ],
    "analysis/explanations.py": ["tests/analysis/test_explanation_numbers.py", *PREDICTIONS],
    "analysis/inference.py": [
        "tests/analysis/test_inference.py",
        "tests/analysis/test_prediction_parts.py",
        "tests/analysis/test_trend_numbers.py",
        "tests/analysis/test_trends.py",
        "tests/analysis/test_verdict_rules.py",
        *PREDICTIONS,
    ],
    "analysis/outlook.py": [
        "tests/analysis/test_outlook_numbers.py",
        "tests/analysis/test_outlook.py",
    ],
    "analysis/plain.py": ["tests/analysis/test_plain.py"],
    "analysis/readings.py": ["tests/analysis/test_readings.py"],
    "analysis/prediction.py": [
        "tests/analysis/test_prediction_parts.py",
        "tests/analysis/test_verdict_rules.py",
        *PREDICTIONS,
    ],
    "analysis/predictions.py": PREDICTIONS,
    "analysis/theory_predictions.py": PREDICTIONS,
    "analysis/trends.py": [
        "tests/analysis/test_trend_numbers.py",
        "tests/analysis/test_trends.py",
        ROWS,
    ],
    "analysis/verdicts.py": ["tests/analysis/test_verdict_rules.py", *PREDICTIONS],
    "results/reader.py": ["tests/results/test_loading.py", "tests/results/test_reader.py"],
    "results/store.py": ["tests/results/test_store.py"],
    "results/weights.py": ["tests/results/test_reader.py"],
    "sweep/checkpoints.py": ["tests/sweep/test_checkpoint_choice.py"],
    "sweep/piece.py": ["tests/sweep/test_piece.py"],
    "sweep/space.py": ["tests/sweep/test_space.py"],
    "theory/checks.py": ["tests/theory/test_checks.py"],
    "theory/terms.py": ["tests/theory/test_columns.py", "tests/theory/test_terms.py"],
}

#: Of these CI tries a sample: every mutant of theirs was tried, and no survivor is left.
SAMPLED: tuple[str, ...] = (
    "analysis/plain.py",
    "analysis/readings.py",
    "engine/choice.py",
    "engine/choice_on_card.py",
    "engine/choice_on_cpu.py",
    "engine/cuda_graph.py",
    "engine/heldout.py",
    "engine/minibatches.py",
    "engine/products.py",
    "engine/randomness.py",
    "engine/step.py",
    "model/coefficients.py",
    "model/constraints.py",
    "model/contract.py",
    "model/network.py",
    "model/penalties.py",
    "model/space.py",
    "model/trial.py",
    "results/store.py",
    "results/weights.py",
    "sweep/checkpoints.py",
    "sweep/space.py",
)

COPIED = ("sparseae", "tests", "benchmarks", "tune_configs", "cluster", "docs", "results",
          "README.md", "pyproject.toml", "constraints.txt")  # fmt: skip

SETTINGS = """
[tool.mutmut]
source_paths = ["sparseae"]
only_mutate = ["sparseae/{module}"]
also_copy = {copied}
pytest_add_cli_args_test_selection = {tests}
pytest_add_cli_args = ["-p", "tests.mutation.fresh", "-p", "no:randomly", "-p", "no:xdist",
                       "-p", "no:cacheprovider"]
do_not_mutate_patterns = {unread}
timeout_multiplier = 6.0
timeout_constant = 3.0
"""

SHOW = """
import json, sys
from mutmut.mutation.diff_apply import get_diff_for_mutant
print(json.dumps({name: get_diff_for_mutant(name) for name in sys.argv[1:]}))
"""

#: What people read: no test asks for its every letter.
UNREAD = [r"logging\.getLogger"]


@dataclass(frozen=True)
class Survivor:
    """A mutant that no test noticed: the lines that it takes away and those that it puts there."""

    name: str
    status: str
    removed: tuple[str, ...]
    added: tuple[str, ...]

    def __str__(self) -> str:
        lines = [*(f"  - {line}" for line in self.removed), *(f"  + {line}" for line in self.added)]
        return "\n".join([f"{self.name}: {self.status}", *lines])


class Undecorated(cst.CSTTransformer):
    """Each decorator of a function as a call behind it: ``f = decorator(f)``."""

    KEPT = ("staticmethod", "classmethod", "abstractmethod", "overload")

    def leave_FunctionDef(self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef):
        decorators = [d.decorator for d in updated_node.decorators]
        plain = [d.value if isinstance(d, cst.Name) else None for d in decorators]
        if not decorators or any(name in self.KEPT for name in plain):
            return updated_node
        if any(isinstance(d, cst.Attribute) and d.attr.value == "setter" for d in decorators):
            return updated_node
        name = updated_node.name
        calls = [
            cst.SimpleStatementLine(
                [cst.Assign([cst.AssignTarget(name)], cst.Call(decorator, [cst.Arg(name)]))]
            )
            for decorator in reversed(decorators)
        ]
        return cst.FlattenSentinel([updated_node.with_changes(decorators=[]), *calls])


def workshop(module: str, folder: Path) -> None:
    """Copy what the tests need to ``folder``, ready for mutmut."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            skip = shutil.ignore_patterns("__pycache__", "mutants")
            shutil.copytree(source, folder / name, ignore=skip)
        elif source.exists():
            shutil.copy(source, folder)
    file = folder / "sparseae" / module
    file.write_text(cst.parse_module(file.read_text()).visit(Undecorated()).code)
    settings = SETTINGS.format(
        module=module, tests=TESTS[module], unread=UNREAD,
        copied=[name for name in COPIED if name not in ("sparseae", "tests", "pyproject.toml")],
    )  # fmt: skip
    with (folder / "pyproject.toml").open("a") as stream:
        stream.write(settings)


def mutmut(folder: Path, *arguments: str, seconds: float | None = None) -> str:
    """What a command of mutmut prints; after so many seconds it is ended with all its children."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "mutmut", *arguments], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return output
    if process.returncode != 0 and arguments[0] == "run":
        raise SystemExit(f"mutmut did not run:\n{output[-4000:]}")
    return output


def tried(folder: Path, module: str) -> dict[str, str]:
    """The status of each mutant that was tried."""
    lines = mutmut(folder, "results", "--all", "true").splitlines()
    pairs = (line.strip().rsplit(": ", 1) for line in lines if ": " in line)
    meta = json.loads((folder / "mutants" / "sparseae" / f"{module}.meta").read_text())
    codes = meta["exit_code_by_key"]
    # What ends a test by a signal was noticed; mutmut calls some signals suspicious.
    return {
        name: "crashed" if status == "suspicious" and (codes[name] or 0) < 0 else status
        for name, status in pairs
        if status not in ("not checked", "skipped")
    }


def survivors(folder: Path, statuses: Mapping[str, str]) -> list[Survivor]:
    """What the mutants that are still alive change."""
    alive = {n: s for n, s in statuses.items() if s in ("survived", "no tests", "suspicious")}
    shown = subprocess.run(
        [sys.executable, "-c", SHOW, *alive], cwd=folder, capture_output=True, text=True, check=True
    )
    return [
        Survivor(name, alive[name], *(_lines(diff, sign) for sign in "-+"))
        for name, diff in json.loads(shown.stdout).items()
    ]


def _lines(diff: str, sign: str) -> tuple[str, ...]:
    lines = diff.splitlines()[2:]  # behind the names of the files
    return tuple(line[1:].strip() for line in lines if line.startswith(sign))


def listed(module: str) -> list[dict]:
    """The equivalent mutants of a module."""
    every = tomllib.loads((HERE / "equivalent.toml").read_text())["equivalent"]
    return [entry for entry in every if fnmatch(module, entry["module"])]


def is_listed(mutant: Survivor, entries: Sequence[dict]) -> bool:
    removed, added = " ".join(mutant.removed), " ".join(mutant.added)
    return any(
        entry.get("line", "") in removed and entry.get("mutant", "") in added for entry in entries
    )


def names_of(module: str, folder: Path) -> list[str]:
    """The names that mutmut gives the mutants of a module."""
    from mutmut.mutation.file_mutation import mutate_file_contents

    before = Path.cwd()
    os.chdir(folder)  # where mutmut reads its settings
    try:
        path = f"sparseae/{module}"
        made = mutate_file_contents(path, (folder / path).read_text())
    finally:
        os.chdir(before)
    return [f"sparseae.{module[:-3].replace('/', '.')}.{name}" for name in made.mutant_names]


def run(module: str, sample: str | None, mutants: int, seconds: float, children: int) -> bool:
    """Try the mutants of a module; print the score and each survivor that is not listed."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        folder = Path(temporary)
        workshop(module, folder)
        chosen: list[str] = []
        if sample is not None:
            names = names_of(module, folder)
            key = {name: hashlib.sha256(f"{sample} {name}".encode()).digest() for name in names}
            chosen = sorted(names, key=key.__getitem__)[:mutants]
        limit = None if sample is None else seconds
        mutmut(folder, "run", "--max-children", str(children), *chosen, seconds=limit)
        statuses = tried(folder, module)
        if chosen:
            statuses = {name: status for name, status in statuses.items() if name in chosen}
        alive = survivors(folder, statuses)
    entries = listed(module)
    unknown = [mutant for mutant in alive if not is_listed(mutant, entries)]
    total = len(statuses)
    killed = total - len(alive)
    print(
        f"{module}: {total} mutants, {killed} killed, {len(alive) - len(unknown)} equivalent, "
        f"{len(unknown)} survived: {100 * (total - len(unknown)) / max(1, total):.1f} % "
        f"({time.monotonic() - started:.0f} s)",
        flush=True,
    )
    for mutant in unknown:
        print(mutant, flush=True)
    return total > 0 and not unknown  # a sample of none says nothing


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation")
    parser.add_argument("modules", nargs="*", metavar="MODULE")
    parser.add_argument("--sample", metavar="TEXT", help="try some mutants, drawn by this text")
    parser.add_argument("--mutants", type=int, default=40, help="of a sample")
    parser.add_argument("--seconds", type=float, default=100.0, help="that a sample may take")
    parser.add_argument("--children", type=int, default=1, help="mutants at once")
    arguments = parser.parse_args()
    modules = arguments.modules or list(TESTS)
    if arguments.sample is not None and not arguments.modules:  # one of those, by the text
        number = int.from_bytes(hashlib.sha256(arguments.sample.encode()).digest()[:8], "big")
        modules = [SAMPLED[number % len(SAMPLED)]]
    options = (arguments.sample, arguments.mutants, arguments.seconds, arguments.children)
    results = [run(module, *options) for module in modules]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
