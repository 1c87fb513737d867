"""Every threshold of the analysis, with its reason. None was chosen by looking at a verdict."""

#: A change of the activation fraction within this margin counts as none. The paper reads its
#: curves off figures whose axis goes from 0 to 1: 0.03 is what the eye takes for flat there, and
#: three times the noise between seeds that real runs have (0.002 to 0.01).
MARGIN = 0.03

#: Error rate of each test.
ALPHA = 0.05

#: Two trials are equal where their activation fractions differ by less than this. Objectives that
#: are the same function still differ in the radial part of their gradients, which the constraint
#: takes away but momentum remembers: real pairs of cae and mdae differ by a few thousandths.
EQUAL = 0.01

#: Dead units have begun to rise where they exceed those at sigma2 = 0 by this share of the units:
#: ten of the paper's 1,000, more than the few units that a bad start kills.
DEAD_RISE = 0.01

#: "Around 0.05" (section 3.1): within a factor of two.
NEAR_FIVE_PERCENT = 0.10

#: "Does not go below the avg. activation fraction of 0.1" (section 3.1).
FREE_WEIGHTS_FLOOR = 0.10

#: A curve has converged when over the last fifth of the epochs its activation fractions moved by
#: less than this: a third of the margin, so that the same pace could not soon leave it.
STILL_MOVING = 0.01

#: The same for the mean pre-activation, in units of the weights' length. A unit of length one has a
#: pre-activation of variance 1 (theorem 1); where its Gaussian density is highest, 0.4, such a move
#: changes the activation fraction by STILL_MOVING. A curve whose activation fraction stands at its
#: ceiling (sigmoid at 1) may still be on its way: only the pre-activation shows it.
DRIFTING = STILL_MOVING / 0.4

#: Epochs that it takes to see convergence: fewer have no last fifth.
FEWEST_EPOCHS = 5

#: The paper's sigma2 goes from 0 to 1. A curve that does not reach half that range of sigma can
#: neither show that sigma2 has no effect nor refute that it has one.
FULL_RANGE = 0.25

#: Resamples of the seeds for the interval of the slope, where not all can be listed.
BOOTSTRAP = 999

#: A bound of the theory holds for the units that it is measured on, but for rounding and sampling.
HOLDS = 0.99

#: A sign that foretells a move: balanced accuracy half way from chance to certainty, or no better
#: than chance.
FORETELLS, CHANCE = 0.75, 0.5

#: Theorem 1's condition is sufficient for one step along the whole gradient. An epoch is hundreds
#: of steps on minibatches, with momentum: one unit in twenty may go astray.
SUFFICIENT = 0.95

#: Rank correlations: half of the variance of the ranks is explained, or less than a tenth.
STRONG, WEAK = 0.7, 0.3

#: A cause explains an effect that shrinks to less than half without it, and that it brings about to
#: more than half alone.
MOST = 0.5

#: So many times more corruptions show whether an effect of their finite number vanishes: their
#: mean's deviation is a third or less.
MORE_CORRUPTIONS = 9

#: Fewest points of a rank correlation.
FEWEST_POINTS = 8
