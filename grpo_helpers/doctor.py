"""Reads a training log and names what is wrong, why, what to do, who met it before, and which notebook has the cure.

`diagnose` takes the table of `grpo_helpers.records.history`, or a recorded `history.csv`; it needs pandas
only. `DoctorCallback` asks it after every logged step of a run and stops a run that cannot learn.

Severities: "stop" is a run that cannot learn any more, "warn" one that may waste its time, "note" something
that is as it should be and still alarms people. A mean of WINDOW logged steps counts as higher or lower than
another only if the difference is many times its standard error, so that noise is no finding.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from .profiles import DATA

# Steps are logged steps. "Healthy" are the tiny and small runs in data/runs, at whatever step they are looked at.
WINDOW = 10  # steps a mean is taken over: its noise is about a third of a step's
NAN_STEPS = 5  # in a row: fp16 loss scaling skips a few overflowing steps by design, and recovers
TIED_STEPS, TIED_LATER = 10, 20  # from the first step, where healthy runs have no tied group; in a row, later on
TIED = 0.98  # share of tied groups that counts as all of them; healthy: at most 0.7
MOSTLY_TIED = 0.5  # from here on ties, rather than the learning rate, explain a flat reward
CUT_WARN, CUT_STOP = 0.6, 0.95  # share of completions cut off; healthy: at most 0.3 over 10 steps, at the start
PAID_STEPS = 20  # a part of the reward at 0 for so long; healthy: at most 3 steps in a row
FLAT_STEPS = 60  # before a flat reward is called flat; a noisy reward that rises slowly needs about so many
ENTROPY_LEFT = 0.15  # of the entropy at the start, most groups tied; healthy: 0.10, with correctness at its best
ENTROPY_GONE = 0.03  # ... and so little is suspect even if few groups are tied, or after a rise if most are
ENTROPY_RISE = 2.0  # times the start; healthy: at most 1.1 times
KL_STEPS, KL_WARN, KL_STOP = 5, 1.0, 10.0  # median KL, nats a token: at 1 a typical token has become e times as likely
LENGTH_FACTOR = 2.0  # mean length against the start, either way; healthy: 0.7 to 2.5 times, the most by thinking
SURE = 4.0  # standard errors between two windows, the best of many
MOVED = 3.0  # standard errors between the halves of a run: the reward upward (healthy: at least 4), or the entropy
LOST, LOST_TO_HACK = 0.5, 0.75  # share of a gain (healthy: at most 0.3); of correctness, which is all or nothing
NEAR_BEST = 0.85  # of the way from the lowest to the highest reward: the questions are mastered

TIES, CUT, LENGTH = "frac_reward_zero_std", "completions/clipped_ratio", "completions/mean_length"
WEIGHTS = ("loss", "grad_norm")


class Finding(NamedTuple):
    """One diagnosis: `steps` are the first and last step it rests on, `seen` the numbers, `notebook` has the cure."""

    name: str
    severity: str
    steps: tuple[int, int]
    seen: str
    cause: str
    remedy: str
    reference: str
    notebook: str

    def __str__(self) -> str:
        lines = {"seen": self.seen, "cause": self.cause, "remedy": self.remedy}
        lines["see"] = ", ".join(filter(None, (self.reference, self.notebook and f"notebook {self.notebook}")))
        text = f"{self.severity}: {self.name} (steps {self.steps[0]} to {self.steps[1]})"
        return text + "".join(f"\n  {label:7} {value}" for label, value in lines.items() if value)


Sighting = tuple[str, pd.DataFrame, str] | None  # severity, the rows it rests on, what was seen


def _error(series: pd.Series) -> float:
    """Standard error of the difference of two window means; noise from neighbours, so that a trend is no noise."""
    return float(series.dropna().diff().std() / np.sqrt(WINDOW))


def _windows(series: pd.Series) -> tuple[float, float, float]:
    """The mean of the first window, of the best, and of the last."""
    series = series.dropna()
    return series.head(WINDOW).mean(), series.rolling(WINDOW).mean().max(), series.tail(WINDOW).mean()


def _rose(series: pd.Series) -> bool:
    start, best, _ = _windows(series)
    return best - start > max(SURE * _error(series), 1e-6)


def _fell(series: pd.Series, lost: float = LOST) -> bool:
    """Whether the last window is far below the best, and has lost a good share of what had been gained."""
    start, best, now = _windows(series)
    return best - now > max(SURE * _error(series), lost * (best - start), 1e-6)


def _sank(series: pd.Series) -> bool:
    """Whether a window, the latest or an earlier one, is far below the first."""
    series = series.dropna()
    lowest = series.rolling(WINDOW).mean().min()
    return series.head(WINDOW).mean() - lowest > max(SURE * _error(series), 1e-6)


def _drift(series: pd.Series) -> float:
    """The mean of the second half less that of the first, in standard errors."""
    half = len(series := series.dropna()) // 2
    error = _error(series) * np.sqrt(WINDOW / half)
    return float((series.tail(half).mean() - series.head(half).mean()) / max(error, 1e-9))


def _mastered(reward: pd.Series) -> bool:
    return _rose(reward) and _windows(reward)[2] >= reward.min() + NEAR_BEST * (reward.max() - reward.min())


def _parts(history: pd.DataFrame) -> dict[str, pd.Series]:
    """The mean of each reward function that was logged often enough, by its name."""
    parts = {c[8:-5]: history[c].dropna() for c in history if c.startswith("rewards/") and c.endswith("/mean")}
    return {name: series for name, series in parts.items() if len(series) >= PAID_STEPS}


def _correctness(history: pd.DataFrame) -> pd.Series | None:
    return next((s for name, s in _parts(history).items() if "correct" in name or "accuracy" in name), None)


def _since_best(history: pd.DataFrame) -> pd.Series | None:
    """The reward since correctness was at its best, if correctness has fallen far since."""
    if (correct := _correctness(history)) is None or not _fell(correct, LOST_TO_HACK):
        return None
    return history["reward"].loc[max(0, correct.rolling(WINDOW).mean().idxmax() - WINDOW + 1) :]


def not_finite(history: pd.DataFrame) -> Sighting:
    bad = np.isinf(history[[c for c in WEIGHTS if c in history]]).any(axis=1)
    seen = f"NaN or infinite in {bad.sum()} of {len(bad)} steps{', the latest among them' if bad.iloc[-1] else ''}"
    for_good = bad.tail(NAN_STEPS).sum() == NAN_STEPS
    return ("stop" if for_good else "note", history[bad].tail(NAN_STEPS), seen) if bad.any() else None


def truncated(history: pd.DataFrame) -> Sighting:
    rows = history.tail(WINDOW)
    cut = rows[CUT].mean()
    severity = "stop" if cut >= CUT_STOP and not _rose(history["reward"]) else "warn"
    seen = f"{cut:.0%} of the completions cut off, mean reward {rows['reward'].mean():.2f}"
    return (severity, rows, seen) if cut >= CUT_WARN else None


def rate_too_high(history: pd.DataFrame) -> Sighting:
    reward, entropy = history["reward"], _windows(history.get("entropy", pd.Series(dtype=float)))
    start, best, now = _windows(reward)
    seen = f"reward {start:.2f} at first, {best:.2f} at its best, {now:.2f} now"
    for name in [c for c in ("entropy", "grad_norm") if c in history]:
        seen += f"; {name} {_windows(history[name])[0]:.2g} at first, highest {history[name].max():.2g}"
    severity = "stop" if _fell(reward) and start - now > SURE * _error(reward) else "warn"
    wild = entropy[2] > ENTROPY_RISE * entropy[0] and not _rose(reward)
    sank = _sank(reward) and not _rose(reward)  # and came back in part, perhaps
    forgot = (since := _since_best(history)) is not None and not _rose(since) and entropy[2] > entropy[0]
    return (severity, history.tail(WINDOW), seen) if _fell(reward) or sank or wild or forgot else None


def entropy_collapse(history: pd.DataFrame) -> Sighting:
    start, _, now = _windows(history["entropy"])
    reward, tied = history["reward"], _windows(history[TIES])[2] if TIES in history else 0.0
    wrong = not _rose(reward) or _fell(reward) or _since_best(history) is not None
    gone, low = now <= ENTROPY_GONE * start, now <= ENTROPY_LEFT * start and tied >= MOSTLY_TIED
    useless = wrong and (gone or low)
    too_early = gone and tied >= MOSTLY_TIED and not _mastered(reward)
    seen = f"entropy {start:.2g} at first, {now:.2g} now; {tied:.0%} of the groups tied"
    severity = "stop" if useless and tied >= TIED else "warn"
    return (severity, history.tail(WINDOW), seen) if useless or too_early else None


def kl_explosion(history: pd.DataFrame) -> Sighting:
    rows = history.tail(KL_STEPS)
    kl = rows["kl"].median()
    return ("stop" if kl > KL_STOP else "warn", rows, f"median KL {kl:.3g} nats a token") if kl > KL_WARN else None


def ties(history: pd.DataFrame) -> Sighting:
    tied, (_, best, now) = history[TIES], _windows(history["reward"])
    never = tied.mean() >= TIED and tied.tail(TIED_STEPS).mean() >= TIED  # not a group to learn from, ever
    later = len(tied) >= TIED_LATER and tied.tail(TIED_LATER).mean() >= TIED and not _mastered(history["reward"])
    since = "since the first step" if never else f"for {TIED_LATER} steps, reward {best:.2f} at its best"
    seen = f"{tied.tail(TIED_STEPS).mean():.0%} of the groups tied {since}, reward {now:.2f} now"
    return ("stop", history.tail(TIED_STEPS if never else TIED_LATER), seen) if never or later else None


def hack(history: pd.DataFrame) -> Sighting:
    if (since := _since_best(history)) is None or not _rose(since):
        return None
    _, best, now = _windows(_correctness(history))
    return "warn", history, f"correctness {best:.2f} at its best, {now:.2f} now, while the reward rose"


def length_hack(history: pd.DataFrame) -> Sighting:
    (start, _, now), correct = _windows(history[LENGTH]), _correctness(history)
    moved = now >= LENGTH_FACTOR * start or now <= start / LENGTH_FACTOR
    hacked = moved and _rose(history["reward"]) and (correct is None or not _rose(correct))
    why = "no correctness is logged that could explain it" if correct is None else "correctness was not seen to"
    seen = f"mean length {start:.0f} tokens at first, {now:.0f} now; the reward rose, {why}"
    return ("note" if correct is None else "warn", history, seen) if hacked else None


def unmoved(history: pd.DataFrame, paid: bool) -> Sighting:
    """Parts of the reward that are 0 for all completions, or, if `paid`, one and the same other value."""
    equal = {name: s.iloc[0] for name, s in _parts(history).items() if s.nunique() == 1 and (s.iloc[0] != 0) == paid}
    spread = [name for name in equal if paid and history.get(f"rewards/{name}/std", pd.Series([0.0])).gt(0).any()]
    names = ", ".join(f"{name} ({value:g})" for name, value in equal.items() if name not in spread)
    return ("warn", history, f"the same for all completions of all {len(history)} steps: {names}") if names else None


def flat(history: pd.DataFrame, low: float, high: float) -> Sighting:
    """A reward that has not moved, while between `low` and `high` of the groups were tied."""
    reward, tied = history["reward"].dropna(), history[TIES].mean()
    half, moved = len(reward) // 2, _rose(reward) or _drift(reward) > MOVED
    first, second = reward.head(half).mean(), reward.tail(half).mean()
    seen = f"mean reward {first:.2f} in the first half, {second:.2f} in the second; {tied:.0%} of the groups tied"
    return ("warn", history, seen) if low <= tied < high and not moved and not rate_too_high(history) else None


def rate_too_low(history: pd.DataFrame) -> Sighting:
    """A flat reward of a policy that stays as it is: its entropy does not move either."""
    entropy = history.get("entropy", pd.Series(dtype=float)).dropna()
    still = len(entropy) < FLAT_STEPS or abs(_drift(entropy)) <= MOVED
    return flat(history, 0.0, MOSTLY_TIED) if still else None


def loss_as_expected(history: pd.DataFrame) -> Sighting:
    start, _, now = _windows(history["loss"])
    quiet = not not_finite(history) and start - now <= SURE * _error(history["loss"])
    return ("note", history, f"mean loss {start:.3f} at first, {now:.3f} now: it does not fall") if quiet else None


def clip_as_expected(history: pd.DataFrame) -> Sighting:
    zero = history.filter(like="clip_ratio/").eq(0).all(axis=None)
    return ("note", history, "every clip ratio is 0 in every step") if zero else None


def sharpening_as_expected(history: pd.DataFrame) -> Sighting:
    (start, _, now), tied, reward = _windows(history["entropy"]), _windows(history[TIES])[2], history["reward"]
    ill = _fell(reward) or any(judge(history) for judge in (entropy_collapse, ties, hack))
    healthy = now < start / 2 and _rose(reward) and not ill
    seen = f"entropy {start:.2g} at first, {now:.2g} now; {tied:.0%} of the groups tied; the reward rose"
    return ("note", history, seen) if healthy else None


class Symptom(NamedTuple):
    """How a finding is made: its judge, the columns it needs, and the logged steps."""

    judge: Callable[[pd.DataFrame], Sighting]
    needs: tuple[str, ...]
    steps: int


# What causes other symptoms comes before them. The words are in COMPLAINTS, under the same names.
SYMPTOMS: Mapping[str, Symptom] = {
    "not finite": Symptom(not_finite, ("grad_norm",), 1),
    "learning rate too high": Symptom(rate_too_high, (), 2 * WINDOW),
    "KL explosion": Symptom(kl_explosion, ("kl",), KL_STEPS),
    "entropy collapse": Symptom(entropy_collapse, ("entropy",), 2 * WINDOW),
    "reward hacked": Symptom(hack, (), 3 * WINDOW),
    "truncated": Symptom(truncated, (CUT,), WINDOW),
    "nothing but ties": Symptom(ties, (TIES,), TIED_STEPS),
    "length hacked": Symptom(length_hack, (LENGTH,), 3 * WINDOW),
    "never paid": Symptom(partial(unmoved, paid=False), (), PAID_STEPS),
    "always paid": Symptom(partial(unmoved, paid=True), (), PAID_STEPS),
    "learning rate too low": Symptom(rate_too_low, (TIES,), FLAT_STEPS),
    "too hard or too easy": Symptom(partial(flat, low=MOSTLY_TIED, high=TIED), (TIES,), FLAT_STEPS),
}
EXPECTED: Mapping[str, Symptom] = {
    "the loss does not fall": Symptom(loss_as_expected, ("loss",), WINDOW),
    "nothing is clipped": Symptom(clip_as_expected, ("clip_ratio/region_mean",), 1),
    "the policy becomes sure": Symptom(sharpening_as_expected, ("entropy", TIES), 2 * WINDOW),
}
COMPLAINTS: Mapping[str, Mapping[str, str]] = tomllib.loads((DATA / "complaints.toml").read_text(encoding="utf-8"))


def _checked(history: pd.DataFrame) -> pd.DataFrame:
    """Numbers only, a row a step; a loss or gradient that is not finite becomes infinite, other gaps NaN."""
    remedy = "pass what grpo_helpers.records.history returns, or a recorded history.csv"
    if not isinstance(history, pd.DataFrame):
        raise ValueError(f"a {type(history).__name__} is no training history; {remedy}")
    table = history.rename(columns=str)
    if not {"step", "reward"} <= set(table) or not table.columns.is_unique:
        raise ValueError(f"no training history, which has step, reward, and no column twice: {list(table)}; {remedy}")
    table = table.apply(pd.to_numeric, errors="coerce").astype(float).replace([np.inf, -np.inf], np.nan)
    if table["step"].isna().any() or table["reward"].isna().all():
        raise ValueError(f"{len(table)} steps without one reward, or a step that is no number; {remedy}")
    weights = [c for c in WEIGHTS if c in table]
    table[weights] = table[weights].fillna(np.inf)
    return table.drop_duplicates("step", keep="last").sort_values("step", ignore_index=True)


@np.errstate(over="ignore", invalid="ignore")  # a log may hold anything
def diagnose(
    history: pd.DataFrame, *, num_generations: int | None = None, max_completion_length: int | None = None
) -> list[Finding]:
    """What is wrong with a run, worst first, then what only looks wrong, then what could not be judged.

    The two settings, where known, are named in the remedies with their present value.

    Raises:
        ValueError: this is no training history, or an empty one.
    """
    table = _checked(history)
    settings = {"num_generations": num_generations, "max_completion_length": max_completion_length}
    if pd.notna(rate := table.get("learning_rate", pd.Series(dtype=float)).max()):
        settings["learning_rate"] = f"{rate:g} at its highest"
    findings, unjudged, logged = [], [], table.count()

    def add(name: str, severity: str, rows: pd.DataFrame, *texts: str) -> None:
        findings.append(Finding(name, severity, (int(rows["step"].iloc[0]), int(rows["step"].iloc[-1])), *texts))

    for name, symptom in (SYMPTOMS | EXPECTED).items():
        missing = [c for c in symptom.needs if not logged.get(c, 0)]
        if missing or logged[["reward", *symptom.needs]].min() < symptom.steps:
            why = f"no column {', '.join(missing)}" if missing else f"{symptom.steps} logged steps needed"
            unjudged += [f"{name} ({why})"] if name in SYMPTOMS else []
        elif sighting := symptom.judge(table):
            remedy = (words := COMPLAINTS[name])["remedy"]
            for setting, value in settings.items():
                remedy = remedy.replace(setting, f"{setting} (now {value})", 1) if value is not None else remedy
            add(name, *sighting, words["cause"], remedy, words["threads"], words["notebook"])
    if unjudged:
        cause = f"not in the log, or too early; logged steps so far: {len(table)}"
        add("not judged", "note", table, "; ".join(unjudged), cause, "", "", "")
    return sorted(findings, key=lambda finding: ("stop", "warn", "note").index(finding.severity))


class _Doctor:
    """Runs `diagnose` after every logged step; prints what is new, stops a run that cannot learn.

    The earliest stop is after NAN_STEPS or KL_STEPS logged steps, for ties and truncation after TIED_STEPS.
    A checkpoint is saved, so that the run can go on with another setting; after a resume only steps
    taken since then count against it.

    Attributes:
        findings: the latest diagnosis.
        stopped_by: the finding that stopped the run, or None.
    """

    def __init__(self, stop: bool = True) -> None:
        self.stop, self.findings, self.stopped_by = stop, [], None
        self._said, self._resumed_at = set(), 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._resumed_at, self.stopped_by = state.global_step, None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        log = pd.DataFrame([row for row in state.log_history if "reward" in row])
        if not logs or "reward" not in logs or log["reward"].isna().all():
            return
        self.findings = diagnose(log, **{k: getattr(args, k) for k in ("num_generations", "max_completion_length")})
        for finding in self.findings:
            stops = finding.severity == "stop" and finding.steps[0] > self._resumed_at
            if (stops or finding.severity == "warn") and (finding.name, finding.severity) not in self._said:
                self._said.add((finding.name, finding.severity))
                print(f"\nthe doctor, {finding}", flush=True)
            if stops and self.stop and not self.stopped_by:
                self.stopped_by = finding
                control.should_training_stop = control.should_save = True
                print("training stops here and a checkpoint is saved: apply the remedy, then resume or start anew")


def __getattr__(name: str) -> Any:
    """Makes `DoctorCallback` when it is first asked for, so that reading a log needs neither torch nor transformers."""
    if name != "DoctorCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from transformers import TrainerCallback

    globals()[name] = type(name, (_Doctor, TrainerCallback), {"__doc__": _Doctor.__doc__, "__module__": __name__})
    return globals()[name]
