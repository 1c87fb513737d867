"""How a machine trains a stack of what `sparseae.model` declares.

What everything rests on, where it is kept, and the tests that hold it:

- A member's numbers are those of the trial alone: `stack`.
  ``tests/engine/test_conformance.py::test_a_member_is_the_trial_alone``
- A stream of random numbers is a function of (seed, purpose, epoch): `randomness`, and
  `minibatches` for an epoch's order and noise. ``tests/engine/test_randomness.py``
- A step is the same operations on the same addresses every time, and no member's numbers enter
  another's: `step`, the contract of `torch`, `c` and `triton`.
  ``tests/engine/test_conformance.py::test_six_steps_are_the_references``
- What is written out is what autograd makes of the equation: `sparseae.model.contract`.
  ``tests/model/test_extensions.py``
- A sweep computes as it began: `choice`, recorded by `sparseae.sweep.routines`.
  ``tests/sweep/test_routines.py``
- There is one row for each (trial, epoch), whatever was killed: `sparseae.results.store`.
  ``tests/results/test_store.py``
"""
