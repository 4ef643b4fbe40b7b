"""Directions out of several gradients against brute force, the authors' closed form, and what defines them."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sipo.training.conflict import Array, Rule, combine, gram, over_simplex

RULES: tuple[Rule, ...] = get_args(Rule)
CORRECTED: tuple[Rule, ...] = ("raco", "cagrad")


def gradients(seed: int, n: int, d: int = 6) -> Array:
    return np.random.default_rng(seed).normal(size=(n, d))


def weights(seed: int, n: int) -> Array:
    return np.random.default_rng(seed + 1000).dirichlet(np.ones(n))


def direction(g: Array, w: Array, rule: Rule, c: float = 0.4) -> Array:
    return np.asarray(combine(g @ g.T, w, rule, c) @ g)


def cases(function):
    return settings(max_examples=40, deadline=None)(given(st.integers(0, 10_000), st.integers(2, 5))(function))


@cases
def test_nothing_on_the_simplex_is_lower(seed: int, n: int) -> None:
    g, w = gradients(seed, n), weights(seed, n)
    products, linear = g @ g.T, g @ g.T @ w
    p = over_simplex(products, linear, 0.7)
    assert p.min() >= 0 and p.sum() == pytest.approx(1)
    others = np.random.default_rng(seed).dirichlet(np.ones(n) * 0.5, size=2000)

    def value(q: Array) -> Array:
        return np.asarray(q @ linear + 0.7 * np.sqrt(np.einsum("...i,ij,...j->...", q, products, q)))

    assert value(p) <= value(others).min() + 1e-6 * np.abs(value(others)).max()


def closed_form(g: Array, w: Array, c: float) -> float:
    """p_1 of two objectives, by the roots of a quadratic (RACO, appendix B)."""
    products = g @ g.T
    b, s = products @ w, c * np.sqrt(w @ products @ w)
    delta = b[0] - b[1]
    q2, q1, q0 = np.trace(products) - 2 * products[0, 1], 2 * (products[0, 1] - products[1, 1]), products[1, 1]
    roots = np.roots([delta**2 * q2 - s**2 * q2**2, delta**2 * q1 - s**2 * q1 * q2, delta**2 * q0 - s**2 * q1**2 / 4])
    found = [0.0, 1.0, *(root.real for root in roots if abs(root.imag) < 1e-9 and 0 < root.real < 1)]
    return float(min(found, key=lambda x: b[1] + delta * x + s * np.sqrt(q2 * x * x + q1 * x + q0)))


@given(st.integers(0, 10_000), st.floats(0.05, 0.95), st.floats(0.05, 0.9))
@settings(max_examples=60, deadline=None)
def test_two_objectives_as_the_authors_solve_them(seed: int, w1: float, c: float) -> None:
    g, w = gradients(seed, 2), np.array([w1, 1 - w1])
    p1 = closed_form(g, w, c)
    for rule, p in (("cagrad", np.array([p1, 1 - p1])), ("raco", np.minimum([p1, 1 - p1], w))):
        expected = w @ g + c * np.linalg.norm(w @ g) * (p @ g) / np.linalg.norm(p @ g)
        assert direction(g, w, rule, c) == pytest.approx(expected, abs=1e-3 * np.linalg.norm(w @ g))


@cases
def test_a_correction_is_as_long_as_c_allows_and_the_weighted_loss_falls(seed: int, n: int) -> None:
    g, w = gradients(seed, n), weights(seed, n)
    g0 = w @ g
    for rule in CORRECTED:
        step = direction(g, w, rule)
        assert np.linalg.norm(step - g0) == pytest.approx(0.4 * np.linalg.norm(g0), rel=1e-5)
        assert step @ g0 >= 0.6 * g0 @ g0 * (1 - 1e-6)


@cases
def test_cagrad_raises_the_worst_improvement(seed: int, n: int) -> None:
    """Its step maximises, within the ball around g0, the least decrease of any objective."""
    g, w = gradients(seed, n), weights(seed, n)
    g0 = w @ g
    best = direction(g, w, "cagrad") @ g.T
    ways = np.random.default_rng(seed).normal(size=(2000, g.shape[1]))
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    others = (g0 + 0.4 * np.linalg.norm(g0) * ways) @ g.T
    assert best.min() >= others.min(axis=1).max() - 1e-5 * np.abs(others).max()


@cases
def test_mgda_harms_no_objective(seed: int, n: int) -> None:
    g = gradients(seed, n)
    step = direction(g, weights(seed, n), "mgda")
    assert (g @ step).min() >= step @ step - 1e-4 * (g * g).sum(axis=1).max()


def test_raco_does_not_pull_towards_what_has_no_weight() -> None:
    g = np.array([[1.0, 0.0], [-2.0, 0.5]])
    a = combine(g @ g.T, np.array([1.0, 0.0]), "raco")
    assert a[1] == 0 and combine(g @ g.T, np.array([1.0, 0.0]), "cagrad")[1] > 0


@pytest.mark.parametrize("rule", RULES)
def test_where_all_gradients_point_one_way_so_does_the_step(rule: Rule) -> None:
    for lengths in ([1.0, 1.0, 1.0], [0.1, 3.0, 20.0]):
        step = direction(np.outer(lengths, [3.0, 4.0]), np.array([0.2, 0.3, 0.5]), rule)
        assert step / np.linalg.norm(step) == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize("rule", RULES)
def test_the_unit_of_the_losses_does_not_matter(rule: Rule) -> None:
    g, w = gradients(3, 3), weights(3, 3)
    small, large = (combine((s * g) @ (s * g).T, w, rule) for s in (1e-9, 1e9))
    assert small == pytest.approx(large, abs=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_without_a_bound_or_an_alternative_the_sum_is_left(rule: Rule) -> None:
    g, w = gradients(4, 3), weights(4, 3)
    if rule != "mgda":
        assert combine(g @ g.T, w, rule, c=0.0) == pytest.approx(w, abs=1e-12)
    assert combine(np.zeros((3, 3)), w, rule).tolist() == w.tolist(), "no gradient at all"
    assert combine(np.full((3, 3), np.nan), w, rule).tolist() == w.tolist(), "whoever checks the sum finds it"


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("absent", [0, 2])
def test_an_objective_without_a_gradient_takes_no_part(rule: Rule, absent: int) -> None:
    g, w = gradients(5, 3), weights(5, 3)
    g[absent] = 0
    rest = [i for i in range(3) if i != absent]
    step = direction(g, w, rule)
    assert step == pytest.approx(direction(g[rest], w[rest], rule), abs=1e-4)
    assert np.linalg.norm(step) > 0.1


@pytest.mark.parametrize("rule", CORRECTED)
@pytest.mark.parametrize("seed", range(4))
def test_two_that_are_opposed_and_a_third_beside_them_leave_the_weighted_sum(rule: Rule, seed: int) -> None:
    """No step helps both, so G_p is zero; what rounding leaves of it must not become a direction."""
    way = gradients(seed, 1)[0]
    third = gradients(seed + 100, 1)[0]
    third -= third @ way / (way @ way) * way
    g, w = np.array([way, -way, third]), np.array([0.3, 0.3, 0.4])
    assert direction(g, w, rule) == pytest.approx(w @ g, abs=1e-9)


def test_products_over_all_parameters() -> None:
    torch.manual_seed(0)
    gradients = [[torch.randn(3, 4), torch.randn(5)] for _ in range(3)]
    flat = torch.stack([torch.cat([part.flatten() for part in each]) for each in gradients]).double()
    assert gram(gradients) == pytest.approx((flat @ flat.T).numpy(), rel=1e-12)
