"""Reads a training log and names what is wrong, why, what to do, and where others met it.

`diagnose` takes the table of `grpo_helpers.training.history`, or a recorded `history.csv`; it needs pandas
only. `DoctorCallback` asks it after every logged step of a run and stops a run that cannot learn.

Severities: "stop" is a run that cannot learn any more, "warn" one that may waste its time, "note" something
that is as it should be and still alarms people. A mean of WINDOW logged steps counts as higher or lower than
another only if the difference is many times its standard error, so that noise is no finding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

# Steps are logged steps. "Healthy" are the tiny and small runs in data/runs, at whatever step they are looked at.
WINDOW = 10  # steps a mean is taken over: its noise is about a third of a step's
NAN_STEPS = 5  # in a row: fp16 loss scaling skips a few overflowing steps by design, and recovers
TIED_STEPS = 10  # from the very first step; in healthy runs no group of the first ten steps is tied
TIED_LATER = 20  # in a row, later on: with two groups a step, a step without a signal is nothing rare
TIED = 0.98  # share of tied groups that counts as all of them; healthy: at most 0.7 over 10 steps
MOSTLY_TIED = 0.5  # from here on ties, rather than the learning rate, explain a flat reward
CUT_WARN, CUT_STOP = 0.6, 0.95  # share of completions cut off; healthy: at most 0.2 over 10 steps, at the start
PAID_STEPS = 20  # a part of the reward at 0 for so long; healthy: at most 3 steps in a row
FLAT_STEPS = 50  # before a flat reward is called flat; healthy runs have risen by step 20
ENTROPY_LEFT = 0.1  # of the entropy at the start; healthy: 0.12 at the end, with the reward at its best
ENTROPY_GONE = 0.03  # ... and so little is suspect even after a rise, when most groups are tied as well
ENTROPY_RISE = 2.0  # times the start; healthy: at most 1.1 times
KL_STEPS, KL_WARN, KL_STOP = 5, 1.0, 10.0  # median KL, nats a token: at 1 a typical token has become e times as likely
LENGTH_FACTOR = 2.0  # mean length against the start, either way; healthy: 0.7 to 1.4 times
THREE = 3 * WINDOW  # steps before a hack is looked for: the first window, the last, and one between them
SURE = 4.0  # standard errors between two windows; healthy: falls from the best of at most 2.5, rises of 8 and more
SURE_HALVES = 3.0  # ... between the halves of a run: two means, not the best of many, so that less is enough
LOST = 0.5  # share of the gain; healthy: at most 0.3 of it is lost for a while
LOST_TO_HACK = 0.75  # ... for correctness, which is noisier than the reward, being all or nothing
NEAR_BEST = 0.85  # of the way from the lowest to the highest reward: the questions are mastered


class Finding(NamedTuple):
    """One diagnosis: `steps` are the first and last step it rests on, `seen` the numbers."""

    name: str
    severity: str
    steps: tuple[int, int]
    seen: str
    cause: str
    remedy: str
    reference: str

    def __str__(self) -> str:
        text = f"{self.severity}: {self.name} (steps {self.steps[0]} to {self.steps[1]})\n  seen    {self.seen}"
        rest = {"cause": self.cause, "remedy": self.remedy, "see": self.reference}
        return text + "".join(f"\n  {label:7} {value}" for label, value in rest.items() if value)


Sighting = tuple[str, pd.DataFrame, str] | None  # severity, the rows it rests on, what was seen

TIES, CUT, LENGTH = "frac_reward_zero_std", "completions/clipped_ratio", "completions/mean_length"


def _error(series: pd.Series) -> float:
    """Standard error of the difference of two window means; noise from neighbours, so that a trend is no noise."""
    return float(series.dropna().diff().std() / np.sqrt(2) * np.sqrt(2 / WINDOW))


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


def _mastered(reward: pd.Series) -> bool:
    low, high = reward.min(), reward.max()
    return _rose(reward) and _windows(reward)[2] >= low + NEAR_BEST * (high - low)


def _parts(history: pd.DataFrame) -> dict[str, pd.Series]:
    """The mean of each reward function that was logged often enough, by its name."""
    names = [c for c in history if c.startswith("rewards/") and c.endswith("/mean")]
    parts = {c.removeprefix("rewards/").removesuffix("/mean"): history[c].dropna() for c in names}
    return {name: series for name, series in parts.items() if len(series) >= PAID_STEPS}


def _correctness(history: pd.DataFrame) -> pd.Series | None:
    return next((s for name, s in _parts(history).items() if "correct" in name or "accuracy" in name), None)


def not_finite(history: pd.DataFrame) -> Sighting:
    bad = np.isinf(history[[c for c in ("loss", "grad_norm") if c in history]]).any(axis=1)
    if not bad.any():
        return None
    for_good = len(bad) >= NAN_STEPS and bad.tail(NAN_STEPS).all()
    seen = f"NaN or infinite in {bad.sum()} of {len(bad)} steps{', the latest among them' if bad.iloc[-1] else ''}"
    return ("stop", history.tail(NAN_STEPS), seen) if for_good else ("note", history[bad], seen)


def truncated(history: pd.DataFrame) -> Sighting:
    rows = history.tail(WINDOW)
    cut = rows[CUT].mean()
    severity = "stop" if cut >= CUT_STOP and not _rose(history["reward"]) else "warn"
    seen = f"{cut:.0%} of the completions cut off, mean reward {rows['reward'].mean():.2f}"
    return (severity, rows, seen) if cut >= CUT_WARN else None


def rate_too_high(history: pd.DataFrame) -> Sighting:
    reward, entropy = history["reward"], history.get("entropy", pd.Series(dtype=float))
    start, best, now = _windows(reward)
    wild = bool(_windows(entropy)[2] > ENTROPY_RISE * _windows(entropy)[0]) and not _rose(reward)
    if not _fell(reward) and not wild:
        return None
    seen = f"reward {start:.2f} at first, {best:.2f} at its best, {now:.2f} now"
    for name in [c for c in ("entropy", "grad_norm") if c in history]:
        seen += f"; {name} {_windows(history[name])[0]:.2g} at first, highest {history[name].max():.2g}"
    ruined = _fell(reward) and start - now > SURE * _error(reward)
    return "stop" if ruined else "warn", history.tail(WINDOW), seen


def entropy_collapse(history: pd.DataFrame) -> Sighting:
    start, _, now = _windows(history["entropy"])
    reward, tied = history["reward"], _windows(history[TIES])[2] if TIES in history else 0.0
    useless = now <= ENTROPY_LEFT * start and (not _rose(reward) or _fell(reward))
    too_early = now <= ENTROPY_GONE * start and tied >= MOSTLY_TIED and not _mastered(reward)
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
    correct = _correctness(history)
    if correct is None or not _fell(correct, LOST_TO_HACK):
        return None
    peak = max(0, correct.rolling(WINDOW).mean().idxmax() - WINDOW + 1)
    rising = [name for name, s in (_parts(history) | {"reward": history["reward"]}).items() if _rose(s.loc[peak:])]
    seen = "correctness {1:.2f} at its best, {2:.2f} now".format(*_windows(correct)) + f"; rose: {', '.join(rising)}"
    return ("warn", history, seen) if rising else None


def length_hack(history: pd.DataFrame) -> Sighting:
    (start, _, now), correct = _windows(history[LENGTH]), _correctness(history)
    moved = now >= LENGTH_FACTOR * start or now <= start / LENGTH_FACTOR
    learned = correct is not None and _rose(correct)
    seen = f"mean length {start:.0f} tokens at first, {now:.0f} now; the reward rose, correctness was not seen to"
    return ("warn", history, seen) if moved and not learned and _rose(history["reward"]) else None


def never_paid(history: pd.DataFrame) -> Sighting:
    names = [name for name, s in _parts(history).items() if s.eq(0).all()]
    return ("warn", history, f"{', '.join(names)}: 0 in all {len(history)} steps") if names else None


def always_paid(history: pd.DataFrame) -> Sighting:
    equal = {name: s.iloc[0] for name, s in _parts(history).items() if s.nunique() == 1 and s.iloc[0] != 0}
    spread = {name for name in equal if history.get(f"rewards/{name}/std", pd.Series([0.0])).gt(0).any()}
    names = ", ".join(f"{name} ({value:g})" for name, value in equal.items() if name not in spread)
    return ("warn", history, f"equal for all completions of all {len(history)} steps: {names}") if names else None


def flat(history: pd.DataFrame, low: float, high: float) -> Sighting:
    """A reward that has not moved, while between `low` and `high` of the groups were tied."""
    reward, tied = history["reward"].dropna(), history[TIES].mean()
    half = len(reward) // 2
    gain = reward.tail(half).mean() - reward.head(half).mean()
    moved = gain > SURE_HALVES * _error(reward) * np.sqrt(WINDOW / half) or _rose(reward) or _fell(reward)
    seen = f"mean reward {reward.head(half).mean():.2f} in the first half, {reward.tail(half).mean():.2f} in the second"
    return ("warn", history, f"{seen}; {tied:.0%} of the groups tied") if low <= tied < high and not moved else None


def loss_as_expected(history: pd.DataFrame) -> Sighting:
    if not_finite(history):
        return None
    start, _, now = _windows(history["loss"])
    fell = start - now > SURE * _error(history["loss"])
    return None if fell else ("note", history, f"mean loss {start:.3f} at first, {now:.3f} now: it does not fall")


def clip_as_expected(history: pd.DataFrame) -> Sighting:
    zero = history.filter(like="clip_ratio/").eq(0).all(axis=None)
    return ("note", history, "every clip ratio is 0 in every step") if zero else None


def sharpening_as_expected(history: pd.DataFrame) -> Sighting:
    (start, _, now), tied = _windows(history["entropy"]), _windows(history[TIES])[2]
    healthy = now < start / 2 and _rose(history["reward"]) and not _fell(history["reward"])
    seen = f"entropy {start:.2g} at first, {now:.2g} now; {tied:.0%} of the groups tied; the reward rose"
    return ("note", history, seen) if healthy and not entropy_collapse(history) and not ties(history) else None


class Symptom(NamedTuple):
    """How a finding is made: its judge, the columns and logged steps it needs, and what to say."""

    judge: Callable[[pd.DataFrame], Sighting]
    needs: tuple[str, ...]
    steps: int
    reference: str
    cause: str
    remedy: str


# fmt: off
# What causes other symptoms comes before them.
SYMPTOMS: Mapping[str, Symptom] = {
    "not finite": Symptom(
        not_finite, ("grad_norm",), 1, "unslothai/unsloth#3006, huggingface/trl#3616, huggingface/transformers#23165",
        "numbers overflow, in fp16 above all, where a few skipped steps are part of the loss scaling and harmless",
        "set fp16 or bf16 explicitly as the hardware has it, keep adapters in float32, lower learning_rate"),
    "truncated": Symptom(
        truncated, (CUT,), WINDOW, "huggingface/trl#5697, huggingface/trl#6263",
        "completions are cut off before they reach the answer, so that nothing in them can be rewarded",
        "raise max_completion_length, or ask for shorter reasoning in the prompt"),
    "learning rate too high": Symptom(
        rate_too_high, (), 2 * WINDOW, "huggingface/open-r1#373, huggingface/open-r1#538",
        "the updates are too large: the policy loses what it had learned, or knew",
        "go back to a checkpoint before the fall; divide learning_rate by 3 to 10, or lower max_grad_norm"),
    "KL explosion": Symptom(
        kl_explosion, ("kl",), KL_STEPS, "huggingface/open-r1#373, huggingface/open-r1#538",
        "the policy has left its reference far behind: learning rate too high, or a reward that pays for nonsense",
        "lower learning_rate, raise beta, and read a few completions"),
    "entropy collapse": Symptom(
        entropy_collapse, ("entropy",), 2 * WINDOW, "arXiv 2503.14476 (DAPO), verl-project/verl#5953",
        "the policy says the same every time without having learned to be right: nothing is explored any more",
        "lower learning_rate, raise temperature, or raise epsilon_high (clip-higher) or beta"),
    "nothing but ties": Symptom(
        ties, (TIES,), TIED_STEPS, "huggingface/trl#3857, huggingface/open-r1#474",
        "the completions of a question all score the same, so that every advantage is 0: questions too hard or too "
        "easy, a reward that does not tell completions apart, or a policy that has stopped varying",
        "try the reward on a right and a wrong text; choose questions by pass rate; raise num_generations"),
    "reward hacked": Symptom(
        hack, (), THREE, "huggingface/open-r1#373, huggingface/open-r1#538",
        "possibly a hole in the reward: something other than being right pays, and the policy has found it",
        "read the best-paid completions, close the hole (tags counted, one answer only), start again"),
    "length hacked": Symptom(
        length_hack, (LENGTH,), THREE, "unslothai/unsloth#2116, arXiv 2503.20783 (Dr. GRPO)",
        "possibly the length itself is paid, or punished by a hidden penalty",
        "compare the rewards of a short and a long right answer; loss_type decides how lengths are weighed"),
    "never paid": Symptom(
        never_paid, (), PAID_STEPS, "unslothai/unsloth#1761, huggingface/open-r1#237",
        "a part of the reward that no completion earns: a pattern that cannot match, or a task out of reach",
        "give the function a perfect completion; DOTALL for texts of several lines, no newline wanted at the end"),
    "always paid": Symptom(
        always_paid, (), PAID_STEPS, "huggingface/open-r1#474",
        "a part of the reward that every completion earns alike: it cancels in the advantage and teaches nothing",
        "give the function an empty and a wrong completion; drop it, or ask for more"),
    "learning rate too low": Symptom(
        partial(flat, low=0.0, high=MOSTLY_TIED), (TIES,), FLAT_STEPS, "huggingface/open-r1#474",
        "groups differ, yet the reward does not move: the steps are too small (1e-6 is too low for LoRA) or too few",
        "raise learning_rate tenfold (LoRA: 1e-5 to 1e-3, more for smaller models), or take more completions a step"),
    "too hard or too easy": Symptom(
        partial(flat, low=MOSTLY_TIED, high=TIED), (TIES,), FLAT_STEPS, "huggingface/trl#3857, huggingface/open-r1#474",
        "most groups are tied, so that few questions teach anything, and the reward does not move",
        "choose questions that are answered right now and then (pass rate 20 to 80 %), or raise num_generations"),
}
EXPECTED: Mapping[str, Symptom] = {
    "the loss does not fall": Symptom(
        loss_as_expected, ("loss",), WINDOW, "huggingface/trl#2703, huggingface/open-r1#239",
        "expected: on fresh completions the ratio is 1 and the advantages cancel, so that the loss stays around 0 and "
        "may rise; what teaches is its gradient", "watch the reward"),
    "nothing is clipped": Symptom(
        clip_as_expected, ("clip_ratio/region_mean",), 1, "huggingface/trl#3120, huggingface/trl#3757",
        "expected with one iteration: the policy that is updated is the one that sampled, so that the ratio is 1", ""),
    "the policy becomes sure": Symptom(
        sharpening_as_expected, ("entropy", TIES), 2 * WINDOW, "",
        "expected: entropy falls and groups tie as questions are mastered", "compare pass@k before and after"),
}
# fmt: on


def _checked(history: pd.DataFrame) -> pd.DataFrame:
    """Numbers only, a row a step; a loss or gradient that is not finite becomes infinite, other gaps NaN."""
    remedy = "pass what grpo_helpers.training.history returns, or a recorded history.csv"
    if not isinstance(history, pd.DataFrame):
        raise ValueError(f"a {type(history).__name__} is no training history; {remedy}")
    table = history.rename(columns=str)
    if not {"step", "reward"} <= set(table) or not table.columns.is_unique:
        raise ValueError(f"no training history, which has step, reward, and no column twice: {list(table)}; {remedy}")
    words = table.select_dtypes(exclude="number")
    table[list(words)] = words.apply(pd.to_numeric, errors="coerce")
    table = table.astype(float).replace([np.inf, -np.inf], np.nan)
    if table["step"].isna().any() or table["reward"].isna().all():
        raise ValueError(f"{len(table)} steps without one reward, or a step that is no number; {remedy}")
    weights = [c for c in ("loss", "grad_norm") if c in table]
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
    if "learning_rate" in table and table["learning_rate"].notna().any():
        settings["learning_rate"] = f"{table['learning_rate'].max():g} at its highest"
    findings, unjudged, logged = [], [], table.count()
    for name, symptom in (SYMPTOMS | EXPECTED).items():
        missing = [c for c in symptom.needs if not logged.get(c, 0)]
        if missing or logged[["reward", *symptom.needs]].min() < symptom.steps:
            why = f"no column {', '.join(missing)}" if missing else f"{symptom.steps} logged steps needed"
            unjudged += [f"{name} ({why})"] if name in SYMPTOMS else []
        elif sighting := symptom.judge(table):
            severity, rows, seen = sighting
            remedy = symptom.remedy
            for setting, value in settings.items():
                remedy = remedy.replace(setting, f"{setting} (now {value})", 1) if value is not None else remedy
            span = (int(rows["step"].iloc[0]), int(rows["step"].iloc[-1]))
            findings.append(Finding(name, severity, span, seen, symptom.cause, remedy, symptom.reference))
    if unjudged:
        span = (int(table["step"].iloc[0]), int(table["step"].iloc[-1]))
        cause = f"not in the log, or too early; logged steps so far: {len(table)}"
        findings.append(Finding("not judged", "note", span, "; ".join(unjudged), cause, "", ""))
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
        self._said: set[tuple[str, str]] = set()
        self._resumed_at = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._resumed_at, self.stopped_by = state.global_step, None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not logs or "reward" not in logs:
            return
        log = pd.DataFrame([row for row in state.log_history if "reward" in row])
        if log["reward"].isna().all():
            return
        known = {name: getattr(args, name) for name in ("num_generations", "max_completion_length")}
        self.findings = diagnose(log, **known)
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
