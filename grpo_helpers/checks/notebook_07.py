from ..lessons.clinic import PATIENTS
from ..lessons.doctor import COMPLAINTS, SYMPTOMS, diagnose
from ..records import load
from ._exercise import NotYet, Solution, exercise, expect, mended


@exercise
def name_the_patients(names: Solution) -> None:
    """A dictionary from each patient's letter to the name of the illness, in the doctor's words."""
    if not isinstance(names, dict):
        raise NotYet("give a dictionary such as {'A': 'truncated', …}")
    for letter, patient in PATIENTS.items():
        said, planted = names.get(letter), patient.illness
        if said not in [*SYMPTOMS]:
            raise NotYet(f"patient {letter}: {said!r} is none of the doctor's words: {', '.join(SYMPTOMS)}")
        if said not in (planted, {"G": "reward hacked"}.get(letter)):  # G's reward pays for sameness
            raise NotYet(f"patient {letter}: not {said!r}; look at {COMPLAINTS[planted]['look']}")


@exercise
def treat(function: Solution) -> None:
    """One changed setting, tried by the learner, that mends a run whose steps are ten times too large."""
    mended(function, {"learning_rate": 0.02, "steps": 15})


@exercise
def illnesses(function: Solution) -> None:
    """The names of the findings that stop or warn, worst first, in a raw `trainer.state.log_history`."""
    end = {"step": 20, "train_runtime": 12.3, "train_loss": 0.0}
    for run in ("healthy_kl", "sick_tied", "sick_truncated"):
        history = load(run, "tiny")["history"]
        wanted = [f.name for f in diagnose(history) if f.severity != "note"]
        expect(function([*history.to_dict("records"), end]), wanted, f"the log of {run}")
