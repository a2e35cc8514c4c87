from __future__ import annotations

import json

from tests.runs.examples import result


def test_the_final_accuracy_includes_test_time_augmentation_if_it_was_used() -> None:
    assert result(1).final_accuracy == result(1).test_accuracy
    assert result(1, tta_accuracy=0.9).final_accuracy == 0.9


def test_a_result_consists_of_plain_json_values() -> None:
    values = result(1).to_json()
    assert json.loads(json.dumps(values)) == values
    assert type(result(1))(**values) == result(1)
