"""Reads a training log and names what is wrong, why, what to do, who met it before, and which notebook has the cure.

Severities: "stop" is a run that cannot learn any more, "warn" one that may waste its time, "note" something
that is as it should be and still alarms people. A mean of WINDOW logged steps counts as higher or lower than
another only if the difference is many times its standard error, so that noise is no finding.
"""

import re
import tomllib
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..profiles import DATA

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
KL_STEPS, KL_WARN, KL_STOP = 5, 1.0, 10.0  # median KL, nats a token; at 1 e times as likely, in geometric mean
LENGTH_FACTOR = 2.0  # mean length against the start, either way; healthy: 0.7 to 2.5 times, the most by thinking
SURE = 4.0  # standard errors between two windows, the best of many
MOVED = 3.0  # standard errors between the halves of a run: the reward upward (healthy: at least 4), or the entropy
LOST, LOST_TO_HACK = 0.5, 0.75  # share of a gain (healthy: at most 0.3); of correctness, which is all or nothing
NEAR_BEST = 0.85  # of the way from the lowest to the highest reward: the questions are mastered

TIES, CUT, LENGTH = "frac_reward_zero_std", "completions/clipped_ratio", "completions/mean_length"
WEIGHTS = ["loss", "grad_norm"]


class Finding(NamedTuple):
    """One diagnosis: `steps` are the first and last step it rests on, `seen` the numbers, `notebook` has the cure."""

    name: str
    severity: str
    steps: tuple[int, int]
    seen: str
    cause: str
    remedy: str = ""
    threads: str = ""
    notebook: str = ""

    def __str__(self) -> str:
        see = ", ".join(filter(None, (self.threads, self.notebook and f"notebook {self.notebook}")))
        lines = {"seen": self.seen, "cause": self.cause, "remedy": self.remedy, "see": see}
        text = f"{self.severity}: {self.name} (steps {self.steps[0]} to {self.steps[1]})"
        return text + "".join(f"\n  {label:7} {value}" for label, value in lines.items() if value)


Sighting = tuple[str, pd.DataFrame, str] | None  # severity, the rows it rests on, what was seen


class Course:
    """How a number went: means of WINDOW steps, the first, the best, the lowest, the latest; noise is no change."""

    def __init__(self, series: pd.Series) -> None:
        values = series.dropna().to_numpy()  # an array, because this is asked dozens of times a step
        values = values if len(values) else np.array([np.nan])
        means = np.lib.stride_tricks.sliding_window_view(values, WINDOW).mean(axis=1) if len(values) >= WINDOW else []
        self.start, self.now = values[:WINDOW].mean(), values[-WINDOW:].mean()
        self.best, self.lowest = max(means, default=np.nan), min(means, default=np.nan)
        # from neighbours, so that a trend is no noise
        spread = np.diff(values).std(ddof=1) if len(values) > 2 else np.nan
        self.noise = max(SURE * spread / np.sqrt(WINDOW), 1e-6)
        self.rose, self.sank = self.best - self.start > self.noise, self.start - self.lowest > self.noise

    def fell(self, lost: float = LOST) -> bool:
        """Whether the latest mean is far below the best, and has lost a good share of what had been gained."""
        return self.best - self.now > max(self.noise, lost * (self.best - self.start))


def _drift(series: pd.Series) -> float:
    """The mean of the second half less that of the first, in standard errors."""
    half = len(series := series.dropna()) // 2
    error = series.diff().std() / np.sqrt(half)
    return (series.tail(half).mean() - series.head(half).mean()) / max(error, 1e-9)


def _mastered(history: pd.DataFrame) -> bool:
    reward, lowest, highest = Course(history["reward"]), history["reward"].min(), history["reward"].max()
    return reward.rose and reward.now >= lowest + NEAR_BEST * (highest - lowest)


def _correctness(history: pd.DataFrame) -> pd.Series | None:
    names = [c for c in history if re.search("rewards/.*(correct|accuracy).*/mean", c)]
    return next((history[name] for name in names if history[name].count() >= PAID_STEPS), None)


def _since_best(history: pd.DataFrame) -> Course | None:
    """The reward since correctness was at its best, if correctness has fallen far since."""
    if (correct := _correctness(history)) is None or not Course(correct).fell(LOST_TO_HACK):
        return None
    best = correct.dropna().rolling(WINDOW).mean().idxmax()
    return Course(history["reward"].loc[max(0, best - WINDOW + 1) :])


def not_finite(history: pd.DataFrame) -> Sighting:
    bad = np.isinf(history[WEIGHTS]).any(axis=1)
    seen = f"NaN or infinite in {bad.sum()} of {len(bad)} steps{', the latest among them' if bad.iloc[-1] else ''}"
    for_good = bad.tail(NAN_STEPS).sum() == NAN_STEPS
    return ("stop" if for_good else "note", history[bad].tail(NAN_STEPS), seen) if bad.any() else None


def truncated(history: pd.DataFrame) -> Sighting:
    rows = history.tail(WINDOW)
    cut = rows[CUT].mean()
    severity = "stop" if cut >= CUT_STOP and not Course(history["reward"]).rose else "warn"
    seen = f"{cut:.0%} of the completions cut off, mean reward {rows['reward'].mean():.2f}"
    return (severity, rows, seen) if cut >= CUT_WARN else None


def rate_too_high(history: pd.DataFrame) -> Sighting:
    reward, entropy, since = Course(history["reward"]), Course(history["entropy"]), _since_best(history)
    seen = f"reward {reward.start:.2f} at first, {reward.best:.2f} at its best, {reward.now:.2f} now"
    if entropy.start > 0:
        seen += f"; entropy {entropy.start:.2g} at first, {entropy.now:.2g} now"
    wild = entropy.now > ENTROPY_RISE * entropy.start and not reward.rose
    sank = reward.sank and not reward.rose  # and came back in part, perhaps
    forgot = since is not None and not since.rose and entropy.now > entropy.start
    severity = "stop" if reward.fell() and reward.start - reward.now > reward.noise else "warn"
    return (severity, history.tail(WINDOW), seen) if reward.fell() or sank or wild or forgot else None


def entropy_collapse(history: pd.DataFrame) -> Sighting:
    entropy, tied, reward = Course(history["entropy"]), Course(history[TIES]).now, Course(history["reward"])
    wrong = not reward.rose or reward.fell() or _since_best(history) is not None
    gone = entropy.now <= ENTROPY_GONE * entropy.start
    low = entropy.now <= ENTROPY_LEFT * entropy.start and tied >= MOSTLY_TIED
    too_early = gone and tied >= MOSTLY_TIED and not _mastered(history)
    useless = wrong and (gone or low)
    seen = f"entropy {entropy.start:.2g} at first, {entropy.now:.2g} now; {tied:.0%} of the groups tied"
    severity = "stop" if useless and tied >= TIED else "warn"
    return (severity, history.tail(WINDOW), seen) if useless or too_early else None


def kl_explosion(history: pd.DataFrame) -> Sighting:
    rows = history.tail(KL_STEPS)
    kl = rows["kl"].median()
    return ("stop" if kl > KL_STOP else "warn", rows, f"median KL {kl:.3g} nats a token") if kl > KL_WARN else None


def ties(history: pd.DataFrame) -> Sighting:
    tied, reward = history[TIES], Course(history["reward"])
    never = tied.mean() >= TIED and tied.tail(TIED_STEPS).mean() >= TIED  # not a group to learn from, ever
    later = len(tied) >= TIED_LATER and tied.tail(TIED_LATER).mean() >= TIED and not _mastered(history)
    since = "since the first step" if never else f"for {TIED_LATER} steps, reward {reward.best:.2f} at its best"
    seen = f"{tied.tail(TIED_STEPS).mean():.0%} of the groups tied {since}, reward {reward.now:.2f} now"
    return ("stop", history.tail(TIED_STEPS if never else TIED_LATER), seen) if never or later else None


def hack(history: pd.DataFrame) -> Sighting:
    if (since := _since_best(history)) is None or not since.rose:
        return None
    correct = Course(_correctness(history))
    return "warn", history, f"correctness {correct.best:.2f} at its best, {correct.now:.2f} now, while the reward rose"


def length_hack(history: pd.DataFrame) -> Sighting:
    length, correct = Course(history[LENGTH]), _correctness(history)
    moved = length.now >= LENGTH_FACTOR * length.start or length.now <= length.start / LENGTH_FACTOR
    hacked = moved and Course(history["reward"]).rose and (correct is None or not Course(correct).rose)
    why = "no correctness is logged that could explain it" if correct is None else "correctness was not seen to"
    seen = f"mean length {length.start:.0f} tokens at first, {length.now:.0f} now; the reward rose, {why}"
    return ("note" if correct is None else "warn", history, seen) if hacked else None


def unmoved(history: pd.DataFrame, paid: bool) -> Sighting:
    """Parts of the reward that are 0 for all completions, or, if `paid`, one and the same other value."""
    names = []
    for part in [c[8:-5] for c in history if c.startswith("rewards/") and c.endswith("/mean")]:
        means = history[f"rewards/{part}/mean"].dropna()
        spread = paid and history.get(f"rewards/{part}/std", means * 0).gt(0).any()
        if len(means) >= PAID_STEPS and means.nunique() == 1 and (means.iloc[0] != 0) == paid and not spread:
            names.append(f"{part} ({means.iloc[0]:g})")
    seen = f"the same for all completions of all {len(history)} steps: {', '.join(names)}"
    return ("warn", history, seen) if names else None


def flat(history: pd.DataFrame, low: float, high: float) -> Sighting:
    """A reward that has not moved, while between `low` and `high` of the groups were tied."""
    reward, tied = history["reward"].dropna(), history[TIES].mean()
    half, moved = len(reward) // 2, Course(reward).rose or _drift(reward) > MOVED
    first, second = reward.head(half).mean(), reward.tail(half).mean()
    seen = f"mean reward {first:.2f} in the first half, {second:.2f} in the second; {tied:.0%} of the groups tied"
    return ("warn", history, seen) if low <= tied < high and not moved and not rate_too_high(history) else None


def rate_too_low(history: pd.DataFrame) -> Sighting:
    """A flat reward of a policy that stays as it is: its entropy does not move either."""
    moved = history["entropy"].count() >= FLAT_STEPS and abs(_drift(history["entropy"])) > MOVED
    return None if moved else flat(history, 0.0, MOSTLY_TIED)


def loss_as_expected(history: pd.DataFrame) -> Sighting:
    loss = Course(history["loss"])
    quiet = not not_finite(history) and loss.start - loss.now <= loss.noise
    seen = f"mean loss {loss.start:.3f} at first, {loss.now:.3f} now: it does not fall"
    return ("note", history, seen) if quiet else None


def clip_as_expected(history: pd.DataFrame) -> Sighting:
    zero = history.filter(like="clip_ratio/").eq(0).all(axis=None)
    return ("note", history, "every clip ratio is 0 in every step") if zero else None


def sharpening_as_expected(history: pd.DataFrame) -> Sighting:
    entropy, tied, reward = Course(history["entropy"]), Course(history[TIES]).now, Course(history["reward"])
    ill = reward.fell() or entropy_collapse(history) or ties(history) or hack(history)
    seen = f"entropy {entropy.start:.2g} at first, {entropy.now:.2g} now; {tied:.0%} of the groups tied"
    calm = entropy.now < entropy.start / 2 and reward.rose and not ill
    return ("note", history, f"{seen}; the reward rose") if calm else None


# The judge of each finding, the columns that it needs, and the logged steps. What causes other symptoms comes before
# them. The words are in COMPLAINTS, under the same names.
SYMPTOMS = {
    "not finite": (not_finite, ("grad_norm",), 1),
    "learning rate too high": (rate_too_high, (), 2 * WINDOW),
    "KL explosion": (kl_explosion, ("kl",), KL_STEPS),
    "entropy collapse": (entropy_collapse, ("entropy",), 2 * WINDOW),
    "reward hacked": (hack, (), 3 * WINDOW),
    "truncated": (truncated, (CUT,), WINDOW),
    "nothing but ties": (ties, (TIES,), TIED_STEPS),
    "length hacked": (length_hack, (LENGTH,), 3 * WINDOW),
    "never paid": (partial(unmoved, paid=False), (), PAID_STEPS),
    "always paid": (partial(unmoved, paid=True), (), PAID_STEPS),
    "learning rate too low": (rate_too_low, (TIES,), FLAT_STEPS),
    "too hard or too easy": (partial(flat, low=MOSTLY_TIED, high=TIED), (TIES,), FLAT_STEPS),
}
EXPECTED = {
    "the loss does not fall": (loss_as_expected, ("loss",), WINDOW),
    "nothing is clipped": (clip_as_expected, ("clip_ratio/region_mean",), 1),
    "the policy becomes sure": (sharpening_as_expected, ("entropy", TIES), 2 * WINDOW),
}
COMPLAINTS: dict[str, dict[str, str]] = tomllib.loads((DATA / "complaints.toml").read_text(encoding="utf-8"))


def _checked(history: pd.DataFrame) -> pd.DataFrame:
    """A row a step, numbers only; a loss or gradient that is not finite becomes infinite, other gaps NaN."""
    columns = list(getattr(history, "columns", []))
    if not {"step", "reward"} <= set(columns) or history["reward"].count() == 0:
        what = f"a training history has columns step and reward, and one reward at least; this has {columns}"
        raise ValueError(f"{what}; pass what grpo_helpers.records.history returns, or a recorded history.csv")
    table = history.apply(pd.to_numeric, errors="coerce").astype(float).replace([np.inf, -np.inf], np.nan)
    weights = table.columns.intersection(WEIGHTS)
    table[weights] = table[weights].fillna(np.inf)
    table = table.drop_duplicates("step", keep="last").sort_values("step", ignore_index=True)
    needed = {column for _, needs, _ in (SYMPTOMS | EXPECTED).values() for column in needs}
    return table.reindex(columns=[*table, *sorted(needed - set(table))])


@np.errstate(over="ignore", invalid="ignore")  # a log may hold anything
def diagnose(history: pd.DataFrame) -> list[Finding]:
    """What is wrong with a run, worst first, then what only looks wrong, then what could not be judged.

    `history` is `records.history`'s; what is none, or has no reward, is a ValueError.
    """
    table = _checked(history)
    logged, findings, unjudged = table.count().to_dict(), [], []

    def add(name: str, severity: str, rows: pd.DataFrame, *texts: str) -> None:
        findings.append(Finding(name, severity, (int(rows["step"].iloc[0]), int(rows["step"].iloc[-1])), *texts))

    for name, (judge, needs, steps) in (SYMPTOMS | EXPECTED).items():
        if missing := [column for column in needs if not logged[column]]:
            unjudged.append((name, f"no column {', '.join(missing)}"))
        elif min(logged[column] for column in ("reward", *needs)) < steps:
            unjudged.append((name, f"{steps} logged steps needed"))
        elif sighting := judge(table):
            add(name, *sighting, *(COMPLAINTS[name][field] for field in ("cause", "remedy", "threads", "notebook")))
    if seen := "; ".join(f"{name} ({why})" for name, why in unjudged if name in SYMPTOMS):
        add("not judged", "note", table, seen, f"not in the log, or too early; logged steps so far: {len(table)}")
    return sorted(findings, key=lambda finding: ("stop", "warn", "note").index(finding.severity))
