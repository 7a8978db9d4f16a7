"""A short trial of chaos; `make chaos` holds long ones."""

from pathlib import Path

from project.tests.chaos import trial


def test_a_short_trial_of_chaos_breaks_no_promise(tmp_path: Path) -> None:
    held = trial.hold(tmp_path, seed=3, seconds=4)
    assert held.complaints == [], held.told()
    assert held.answers[201] > 100
    assert held.violence.total() > 2
    assert held.violence["everything killed"] > 0
