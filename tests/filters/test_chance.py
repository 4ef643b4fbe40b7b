"""What check expects of the filter: the mathematics, and what real runs kept."""

import numpy as np
import pytest

from sipo.filters.chance import LEAST, MOST, Assumed, chance_of_one, rows_kept, share_kept

CHANCE = Assumed(0.0, 0.0, 0.0)
NOISE = 0.03
"""Four standard errors of a share among the prompts that are drawn."""


@pytest.mark.parametrize("candidates", [1, 3, 8, 30])
def test_one_judge_ranks_candidates_and_originals_in_any_order(candidates: int) -> None:
    """Which of C + 2 is the best is equally likely, and so are N judges that all say the same."""
    expected = pytest.approx(candidates / (candidates + 2), abs=NOISE)
    assert chance_of_one(1, candidates, CHANCE) == expected
    assert chance_of_one(4, candidates, CHANCE._replace(agree=1.0)) == expected


@pytest.mark.parametrize("judges", [1, 2, 3])
def test_one_candidate_beats_both_originals_for_a_third_of_the_judges(judges: int) -> None:
    assert chance_of_one(judges, 1, CHANCE) == pytest.approx(3.0**-judges, abs=NOISE)
    assert chance_of_one(judges, 20, CHANCE._replace(alike=1.0)) == pytest.approx(3.0**-judges, abs=NOISE)


def test_two_judges_by_the_sum_over_sets_of_candidates() -> None:
    """Inclusion and exclusion: k given candidates all beat both originals with 2 / ((k + 1) (k + 2)) for each judge."""
    terms = ((3, 1, 1), (3, 2, -1), (1, 3, 1))
    expected = sum(ways * sign * (2 / ((k + 1) * (k + 2))) ** 2 for ways, k, sign in terms)
    assert chance_of_one(2, 3, CHANCE) == pytest.approx(expected, abs=NOISE)


def test_more_candidates_help_and_more_judges_do_not() -> None:
    for assumed in (LEAST, MOST):
        by_count = [chance_of_one(2, count, assumed) for count in (2, 6, 18, 54)]
        assert by_count == sorted(by_count) and by_count[0] < by_count[-1]
        by_judges = [chance_of_one(n, 6, assumed) for n in (1, 2, 3, 5, 8)]
        assert by_judges == sorted(by_judges, reverse=True) and by_judges[0] > by_judges[-1]
    assert share_kept(2, 3, 3, margin=1.0)[1] > share_kept(2, 3, 3)[1]
    assert chance_of_one(2, 10**9, MOST) == chance_of_one(2, 1000, MOST), "no run is that long"


# Objectives, samples and rewrites of a prompt, rows kept of rows worked on.
KEPT = {
    "quickstart": (2, 3, 3, 16, 32),
    "quickstart before, 64 prompts": (2, 3, 3, 29, 64),
    "other rows, in the study of filters": (2, 3, 3, 32, 64),
    "the paper, BeaverTails": (2, 4, 4, 2102, 2500),
    "the paper, HelpSteer": (2, 4, 4, 369, 582),
    "testbed G": (2, 4, 4, 619, 800),
    "testbed H-untaught": (2, 4, 4, 685, 800),
}
"""As docs/results.md, docs/studies.md and the paper tell."""


@pytest.mark.parametrize("run", KEPT)
def test_what_runs_kept_is_within_the_range(run: str) -> None:
    n, samples, rewrites, kept, rows = KEPT[run]
    least, most = share_kept(n, samples, rewrites)
    assert least <= kept / rows <= most
    assert most - least < 0.75, "and it says something"


@pytest.mark.parametrize(("rows", "share"), [(1, 0.2), (8, 0.25), (8, 1.0), (30, 0.0), (200, 0.5)])
def test_of_few_rows_none_may_be_kept_and_of_many_the_share_is(rows: int, share: float) -> None:
    """Against draws: 95 % of runs whose rows keep a response with this chance are within the range."""
    low, high = rows_kept(rows, share, share)
    drawn = np.random.default_rng(0).binomial(rows, share, size=20_000)
    assert ((drawn >= low) & (drawn <= high)).mean() >= 0.945
    assert low == 0 or (drawn < low + 1).mean() > 0.015, "and no wider than it must be"
    assert high - low <= 4 * np.sqrt(rows * share * (1 - share)) + 1


def test_a_tiny_run_may_keep_nothing() -> None:
    """Two objectives, three samples and rewrites, 8 rows: one kept none."""
    low, high = rows_kept(8, *share_kept(2, 3, 3))
    assert low == 0 and high == 8


def test_the_testbed_that_teaches_rewriting_keeps_more() -> None:
    """Its language model was fine-tuned on rewrites that follow the true rewards: outside of what is assumed."""
    assert share_kept(2, 4, 4)[1] < 792 / 800
