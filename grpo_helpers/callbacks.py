"""What looks on while a policy trains: progress, a clean stop, the doctor."""

import signal
import sys
import threading
import time
from typing import Any

import pandas as pd
from tqdm import tqdm  # not tqdm.auto: its widget would be all that a saved notebook keeps
from transformers import TrainerCallback

from .records import history

TIMED = 3  # after so many steps the time of a step is told; the first is left out, being slower
TOLD = 10.0  # ... if as many seconds are left at least


class RewardProgress(TrainerCallback):
    """A progress bar that shows the reward; TRL's own shows the loss, which says nothing in GRPO."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", unit="step", file=sys.stdout)
        self.began = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs and logs.get("reward") is not None:
            self.bar.set_postfix(reward=f"{logs['reward']:.2f}", refresh=False)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        done, left = state.global_step - self.began, state.max_steps - state.global_step
        if done == 1:
            self.first = time.perf_counter()
        seconds = (time.perf_counter() - self.first) / (TIMED - 1)
        if done == TIMED and seconds * left > TOLD:
            self.bar.write(f"{seconds:.2g} s a step at first: about {seconds * left / 60:.1f} minutes left", sys.stdout)
        self.bar.update(state.global_step - self.bar.n)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.close()


class StopAtStepEnd(TrainerCallback):
    """Turns the first Ctrl-C into a clean stop: finish the step, save a checkpoint, return."""

    stopped, _previous = False, None

    def _on_signal(self, signum: int, frame: Any) -> None:
        self.stopped = True
        signal.signal(signal.SIGINT, self._previous)  # a second Ctrl-C interrupts at once
        print("\nstopping after this step and saving; press Ctrl-C again to stop at once", flush=True)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._on_signal)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.stopped:
            control.should_training_stop = control.should_save = True

    def restore(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)


class DoctorCallback(TrainerCallback):
    """Asks `lessons.doctor.diagnose` after every logged step; prints what is new, stops a run that cannot learn.

    A checkpoint is saved, so that the run can go on with another setting; after a resume only steps taken since then
    count against it. `stopped_by` is the finding that stopped the run, or None.
    """

    def __init__(self) -> None:
        self.said, self.stopped_by = set(), None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began, self.stopped_by = state.global_step, None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not logs or pd.isna(logs.get("reward")):
            return
        from .lessons.doctor import diagnose  # here, so that it is loaded where it is asked

        for finding in diagnose(history(state.log_history)):
            stops = finding.severity == "stop" and finding.steps[0] > self.began
            if (stops or finding.severity == "warn") and finding[:2] not in self.said:
                self.said.add(finding[:2])
                print(f"\nthe doctor, {finding}", flush=True)
            if stops and not self.stopped_by:
                self.stopped_by = finding
                control.should_training_stop = control.should_save = True
                print("training stops here and a checkpoint is saved: start anew with the remedy, or resume as it was")
