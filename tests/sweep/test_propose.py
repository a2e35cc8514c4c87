from __future__ import annotations

import sys

import pytest

from fastcifar.errors import ConfigError
from fastcifar.sweep.propose import Proposer, create_proposer
from fastcifar.sweep.space import parse_search
from tests.sweep.examples import make_plan


def propose_all(proposer: Proposer) -> list[dict[str, object]]:
    return list(iter(proposer.propose, None))


def test_a_grid_has_all_combinations() -> None:
    plan = make_plan()
    configurations = propose_all(create_proposer(plan, []))
    pairs = [(each["max_lr"], each["batch_size"]) for each in configurations]
    assert pairs == [(0.1, 20), (0.1, 50), (0.2, 20), (0.2, 50), (0.4, 20), (0.4, 50)]
    assert {each["recipe"] for each in configurations} == {"speedrun"}


def test_a_grid_needs_choices() -> None:
    with pytest.raises(ConfigError, match=r"no end with max_lr=uniform\(0.1, 1\); use choice"):
        make_plan(parse_search(["max_lr=uniform(0.1, 1)"]))


def test_random_configurations_differ_and_are_the_same_in_each_call() -> None:
    plan = make_plan(method="random", trials=4)
    first = propose_all(create_proposer(plan, []))
    assert len({str(values) for values in first}) == 4
    assert propose_all(create_proposer(plan, first[:2])) == first
    more = make_plan(method="random", trials=5)
    assert propose_all(create_proposer(more, first))[:4] == first


def test_random_configurations_end_with_the_search_space() -> None:
    assert len(propose_all(create_proposer(make_plan(method="random", trials=99), []))) == 6


def test_tpe_learns() -> None:
    space = parse_search(["max_lr=uniform(0.1, 1)", "padding=randint(0, 8)", "widths=choice([8, 8, 8], [16, 8, 8])"])
    proposer = create_proposer(make_plan(space, method="tpe", trials=40), [])
    proposed = []
    while (values := proposer.propose()) is not None:
        proposed.append(values)
        proposer.tell(len(proposed) - 1, None if len(proposed) == 3 else -abs(values["max_lr"] - 0.3))
    assert len(proposed) == 40
    late = [abs(values["max_lr"] - 0.3) for values in proposed[20:]]
    assert sorted(late)[10] < 0.1, "half of the later ones are near the best value"
    assert all(isinstance(values["padding"], int) and isinstance(values["widths"], list) for values in proposed)


def test_tpe_goes_on_with_what_it_has_proposed() -> None:
    plan = make_plan(parse_search(["max_lr=uniform(0.1, 1)", "batch_size=choice(20, 50)"]), method="tpe", trials=4)
    first = create_proposer(plan, [])
    earlier = [first.propose(), first.propose()]
    second = create_proposer(plan, earlier)
    assert propose_all(second)[:2] == earlier


def test_tpe_without_optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'fastcifar\[sweep\]'"):
        create_proposer(make_plan(method="tpe"), [])
