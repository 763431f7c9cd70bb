from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner

from hpo.storage.address import url_of
from hpo.storage.open import open_storage
from hpo.study.sampling import Company, pruner_of, sampler_of, search_space
from hpo.study.space import suggest
from hpo.study.spec import SpecError, load
from hpo.study.study import (
    STOP_ATTRIBUTE,
    create_study,
    load_study,
    slots_of,
    stop_reason,
)
from models.config import OF_STACK

OLD = Path(__file__).parents[2] / "data" / "run-schema-1.json"


@pytest.fixture
def storage(with_database):
    return open_storage(url_of(None, with_database))


def create(storage, *settings, fingerprint="f"):
    spec = load("quick", settings=settings)
    return create_study(storage, spec, runs=Path("/runs"), fingerprint=fingerprint)


def stopping(storage):
    study, spec = load_study(storage, "quick")
    slots = slots_of(study, spec)
    return stop_reason(spec, slots.attributes(), lambda: slots.look().trials)


def test_what_a_study_searches_is_read_back_from_the_database(storage):
    create(storage, "training.epochs=12")

    _, spec = load_study(storage, "quick")

    assert spec == load("quick", settings=["training.epochs=12"])


@pytest.mark.parametrize(
    ("settings", "fingerprint", "message"),
    [
        (["training.epochs=12"], "f", r"\[training\] epochs is 9 there and 12 here"),
        (
            ["space.components=[8]"],
            "f",
            r"\[space\] components is \[8, 16\] there and \[8\] here",
        ),
        (["space.depth=[1]"], "f", r"\[space\] depth is absent there and \[1\] here"),
        (["pruner.kind=none"], "f", r'\[pruner\] kind is "asha" there and "none" here'),
        (
            ["data.hold_out_cells=[{Z=0.01}]"],
            "f",
            r'\[data\] hold_out_cells is \[\] there and \[{"Z": 0.01}\] here',
        ),
        (
            ["data.report_cells=[{Z=0.01}]"],
            "f",
            r'\[data\] report_cells is \[\] there and \[{"Z": 0.01}\] here',
        ),
        (["study.seed=3"], "f", r"\[study\] seed is 0 there and 3 here"),
        ([], "g", "trained on other data"),
    ],
)
def test_a_study_that_would_not_compare_is_refused(storage, settings, fingerprint, message):
    create(storage)

    with pytest.raises(SpecError, match=message):
        create(storage, *settings, fingerprint=fingerprint)


def test_the_same_held_out_cells_in_another_order_are_the_same_study(storage):
    create(storage, "data.hold_out_cells=[{Z=0.01,alpha=1.0},{Z=0.02,alpha=3.0}]")
    create(storage, "data.hold_out_cells=[{alpha=3,Z=0.02},{Z=0.01,alpha=1}]")

    with pytest.raises(
        SpecError, match=r"hold_out_cells is \[{.*}, {.*}\] there and \[{.*}\] here"
    ):
        create(storage, "data.hold_out_cells=[{Z=0.01,alpha=1.0}]")


def test_a_study_left_by_a_launch_that_died_making_it_is_taken_over(storage):
    optuna.create_study(study_name="quick", storage=storage)

    assert load_study(storage, create(storage).study_name)[1] == load("quick")


def test_a_study_of_another_program_is_refused(storage):
    optuna.create_study(study_name="quick", storage=storage).ask()

    with pytest.raises(SpecError, match="made by another program"):
        create(storage)


def test_resources_may_change_between_launches(storage):
    create(storage)
    create(storage, "study.workers=7", "slurm.cpus=2", "study.trials=99", "training.device=cpu")

    assert load_study(storage, "quick")[1].study.workers == 7


def test_a_stopped_study_stays_so_when_its_file_is_opened_again(storage):
    create(storage).set_user_attr(STOP_ATTRIBUTE, True)

    create(storage)
    assert stopping(storage) == "stopped by hpo stop"


def test_no_two_trials_begin_with_the_same_draw(storage):
    spec = load("quick")
    study = create(storage)
    draws = set()
    for number in range(5):
        study.sampler = sampler_of(spec, number)
        draws.add(study.ask().suggest_float("x", 0, 1))

    assert len(draws) == 5


def test_a_sampler_that_knows_the_trials_so_far_chooses_the_same_and_compares_none_of_them(
    storage, monkeypatch
):
    spec = load("quick", settings=["sampler.startup_trials=2"])
    study, known, compared = create(storage), search_space(), []
    equal = CategoricalDistribution.__eq__

    def counted(one, other):
        compared.append(other)
        return equal(one, other)

    def chosen(known):
        study.sampler = sampler_of(spec, 30, known)
        trial = study.ask()
        params = (trial.suggest_categorical("hidden", [16, 32]), trial.suggest_float("rate", 0, 1))
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return params

    for number in range(30):
        study.sampler = sampler_of(spec, number, known)
        trial = study.ask()
        study.tell(
            trial, trial.suggest_categorical("hidden", [16, 32]) + trial.suggest_float("rate", 0, 1)
        )
    monkeypatch.setattr(CategoricalDistribution, "__eq__", counted)

    anew = chosen(None), len(compared)
    shared = chosen(known), len(compared) - anew[1]

    assert shared[0] == anew[0]
    assert anew[1] >= 29
    assert shared[1] <= 5


def begun(study, spec, company, number, seen=()):
    """Begin a trial as a worker does; its parameters, and those of the trials that the sampler saw.

    Args: `seen` are values that are known of it.
    """
    study.sampler = sampler_of(spec, number, company=company)
    if seen:
        study.enqueue_trial(seen)
    trial = study.ask()
    suggest(trial, spec.space, spec.flow, spec.training, seed=0)
    company.add(number, trial.params)
    return trial


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_of_every_four_trials_of_a_worker_one_is_free_and_the_others_have_its_shape(kind):
    settings = [f"sampler.kind={kind}", "sampler.startup_trials=3"]
    spec, company, trials = load("bbh", settings=settings), Company(4), []
    study, another = optuna.create_study(), optuna.create_study()
    for number in range(40):
        if number >= 4:
            study.tell(trials[number - 4], number % 7)
        trials.append(begun(study, spec, company, number))
        if kind == "random" and number % 4 == 0:  # as if it were alone
            assert trials[-1].params == begun(another, spec, Company(1), number).params

    shapes = [{k: v for k, v in one.params.items() if k in OF_STACK} for one in trials]
    assert shapes == [shapes[number - number % 4] for number in range(40)]
    for key in trials[0].params:
        seen = {one.params[key] for one in trials}
        assert 1 < len(seen) <= (10 if key in shapes[0] else 40)


def test_what_is_known_of_a_trial_is_kept_and_the_rest_is_of_its_company():
    spec, company, study = load("bbh"), Company(3), optuna.create_study()
    first = begun(study, spec, company, 0, seen={"batch_size": 512, "blocks": 1})
    kept = begun(study, spec, company, 1, seen={"batch_size": 1024, "learning_rate": 0.01})
    others = [begun(study, spec, company, number) for number in (2, 3)]

    assert (kept.params["batch_size"], kept.params["learning_rate"]) == (1024, 0.01)
    for one in (first, *others):
        assert (one.params["batch_size"], one.params["blocks"]) == (512, 1)
    assert kept.params["blocks"] == 1
    assert not company.values


@pytest.mark.parametrize(
    ("kind", "pruner"),
    [
        ("asha", SuccessiveHalvingPruner),
        ("hyperband", HyperbandPruner),
        ("median", MedianPruner),
        ("none", NopPruner),
    ],
)
def test_a_pruner_is_the_one_that_is_named(kind, pruner):
    assert type(pruner_of(load("quick", settings=[f"pruner.kind={kind}"]))) is pruner


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        pytest.param([3.0, 2.0, 4.0], None, id="one since the best"),
        pytest.param([3.0, 2.0, 4.0, None], "no better trial among the last 2", id="two"),
        pytest.param([None, None], "no better trial among the last 2", id="never a result"),
        pytest.param([3.0, 4.0, 2.0], None, id="the last is the best"),
    ],
)
def test_a_study_that_no_longer_improves_starts_no_trial(storage, values, reason):
    study = create(storage, "study.stop_after_no_improvement=2")
    for value in values:
        trial = study.ask()
        if value is None:
            trial.report(9.0, 1)
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, value)

    told = stopping(storage)

    assert told is None if reason is None else told.startswith(reason)
