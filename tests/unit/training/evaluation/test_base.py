"""A set of evaluators: what is due, what is named how, and that training does not notice."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from mvkit.errors import CheckpointError
from mvkit.training.evaluation import Evaluator, EvaluatorSet


class Noisy(Evaluator):
    """Disturbs whatever it can reach in ordinary use."""

    headline = "value"

    def __init__(self, name: str, every_epochs: int) -> None:
        super().__init__(name=name, every_epochs=every_epochs)
        self.seen = 0

    def observe(self, encoder, batch, *, step):
        self.seen = step

    def evaluate(self, context):
        assert not any(module.training for module in context.encoder.modules())
        assert not any(module.training for module in context.objective.modules())
        assert not torch.is_grad_enabled()
        random.random()
        np.random.rand()  # noqa: NPY002
        torch.rand(3)
        context.encoder(torch.rand(4, 3, 2, 2))
        context.encoder.train()
        context.objective.train()
        return {"value": 1.0, "other": 2.0}

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def test_evaluation_leaves_no_trace(context):
    here = context()
    here.encoder.drop.eval()  # a module whose mode differs from its parent's
    before = {key: value.clone() for key, value in here.encoder.state_dict().items()}
    modes = [module.training for module in here.encoder.modules()]
    torch.manual_seed(1)
    generators = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())  # noqa: NPY002
    EvaluatorSet([Noisy("a", 1)]).evaluate(here)
    assert [module.training for module in here.encoder.modules()] == modes
    assert here.objective.training
    for key, value in here.encoder.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert random.getstate() == generators[1]
    np.testing.assert_array_equal(np.random.get_state()[1], generators[2])  # noqa: NPY002


def test_modes_come_back_after_an_error(context):
    class Failing(Noisy):
        def evaluate(self, context):
            raise ZeroDivisionError

    here = context()
    with pytest.raises(ZeroDivisionError):
        EvaluatorSet([Failing("a", 1)]).evaluate(here)
    assert all(module.training for module in here.encoder.modules())


def test_each_evaluator_has_its_own_rhythm(context):
    both = EvaluatorSet([Noisy("often", 2), Noisy("seldom", 3)])
    due = {
        epoch: sorted({key.split(".")[0] for key in both.evaluate(context(epoch=epoch))})
        for epoch in range(1, 7)
    }
    assert due == {1: [], 2: ["often"], 3: ["seldom"], 4: ["often"], 5: [], 6: ["often", "seldom"]}
    assert [both.is_due(epoch) for epoch in range(1, 7)] == [bool(due[epoch]) for epoch in range(1, 7)]
    assert both.is_due(5, is_last=True)
    assert sorted(both.evaluate(context(epoch=5), is_last=True)) == [
        "often.other",
        "often.value",
        "seldom.other",
        "seldom.value",
    ]


def test_the_first_evaluator_decides_what_is_best():
    assert EvaluatorSet([Noisy("one", 1), Noisy("two", 1)]).headline == "one.value"
    assert EvaluatorSet([]).headline is None


def test_states_go_to_the_evaluators_they_came_from(encoder):
    first = EvaluatorSet([Noisy("a", 1), Noisy("b", 1)])
    first.evaluators[0].seen, first.evaluators[1].seen = 3, 4
    second = EvaluatorSet([Noisy("b", 1), Noisy("a", 1)])
    second.load_state_dict(first.state_dict())
    assert [evaluator.seen for evaluator in second.evaluators] == [4, 3]
    second.observe(encoder, None, step=9)
    assert [evaluator.seen for evaluator in second.evaluators] == [9, 9]


def test_states_of_other_evaluators_are_refused():
    with pytest.raises(CheckpointError, match=r"\['a'\], the recipe has \['b'\]"):
        EvaluatorSet([Noisy("b", 1)]).load_state_dict({"a": {}})
