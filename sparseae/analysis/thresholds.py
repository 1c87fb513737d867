"""Every threshold of the analysis, with its reason. None was chosen by looking at a verdict."""

from __future__ import annotations

import math

#: A change of the activation fraction within this margin counts as none. The paper reads its
#: curves off figures whose axis goes from 0 to 1: 0.03 is what the eye takes for flat there, and
#: three times the noise between seeds that real runs have (0.002 to 0.01).
MARGIN = 0.03

#: The same of E[a_j], in lengths of the weights. A unit of length one has a pre-activation of
#: variance 1 (theorem 1); where its Gaussian density is highest, 0.4, such a change moves the
#: activation fraction by MARGIN.
PRE_MARGIN = MARGIN / 0.4

#: The same of Var[a_j] / norm(W_j)^2, as a logarithm. The activation fraction of a Gaussian unit
#: with mean z standard deviations from the threshold changes by phi(z) |z| <= 0.242 times the
#: relative change of its deviation, half that of its variance.
WHITE = 2 * math.log1p(MARGIN / 0.242)

#: Chance that a table of verdicts, over all looks at it, has a wrong one.
ALPHA = 0.05

#: Two trials are equal where their activation fractions differ by less than this. Objectives that
#: are the same function still differ in the radial part of their gradients, which the constraint
#: takes away but momentum remembers: real pairs of cae and mdae differ by a few thousandths.
EQUAL = 0.01

#: The same of E[a_j].
PRE_EQUAL = EQUAL / 0.4

#: Dead units have begun to rise where they exceed those at sigma2 = 0 by this share of the units:
#: ten of the paper's 1,000, more than the few units that a bad start kills.
DEAD_RISE = 0.01

#: A seed of which more than this share of the units is dead at sigma2 = 0 shows nothing: what is
#: left is not the network that a statement is about (docs/analysis.md).
DEAD_FROM_THE_START = 0.1

#: "Around 0.05" (section 3.1): within a factor of two.
NEAR_FIVE_PERCENT = 0.10

#: "Does not go below the avg. activation fraction of 0.1" (section 3.1).
FREE_WEIGHTS_FLOOR = 0.10

#: Epochs that it takes to see a pace: fewer have no last fifth.
FEWEST_EPOCHS = 5

#: What is to last is followed to so many times its epochs, at the pace that it has: a slow drift
#: leaves any margin, only late. A training time that is wrong by more than ten would be another
#: experiment.
HORIZON = 10

#: A value of sigma2 with fewer seeds than this, while others have more, is left out: with two, t is
#: above 12 once in forty times.
FEWEST_SEEDS = 3

#: The paper's sigma2 goes from 0 to 1. A curve that does not reach half that range of sigma can
#: neither show that sigma2 has no effect nor refute that it has one.
FULL_RANGE = 0.25

#: A constraint binds where it changes the mean length of the weights by this share: the activation
#: fraction and E[a_j] scale with it no faster than in proportion.
BINDS = 0.1

#: A sign that foretells a move: balanced accuracy half way from chance to certainty.
FORETELLS, CHANCE = 0.75, 0.5

#: Rank correlations: half of the variance of the ranks is explained, or less than a tenth.
STRONG, WEAK = 0.7, 0.3

#: A cause explains an effect that shrinks to less than half without it.
MOST = 0.5

#: So many times more corruptions show whether an effect of their finite number vanishes: their
#: mean's deviation is a third or less.
MORE_CORRUPTIONS = 9

#: Standard errors below this are taken for it: what float64 rounds away tells nothing.
ROUNDING = 1e-9

#: Fewest points of a rank correlation.
FEWEST_POINTS = 8

#: Permutations of whole curves, where there are more than this many.
PERMUTATIONS = 9999


def spent(look: int) -> float:
    """The share of `ALPHA` that the look of this number may spend: 1/2, 1/6, 1/12, ...

    1 / (look (look + 1)) sums to 1 over all looks, however many there will be: half is for who
    looks once, and a tenth look still has a hundredth.
    """
    return 1 / (look * (look + 1))


#: Level at which it is shown that something lasts over the `HORIZON`. What the seeds do not tell of
#: a pace grows nine times with it, so that this level, and no other, is the error that a slow drift
#: makes: it is what a first look may spend.
LASTS = ALPHA * spent(1)
