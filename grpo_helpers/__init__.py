"""The helper module of the GRPO notebook series. Importing it loads nothing heavy.

question → messages → completions → parsed answer → rewards → advantages → update → history → plots, evaluation

profiles     Profile, the recipes, detect()
prompts      SYSTEM_PROMPT, XML_COT_FORMAT, build_messages; answers and numbers read back
data         word_problems, get_gsm8k_questions: the questions, in the trainer's columns
probing      before training: prompts compared, lengths, groups without a signal
rewards      the five reward functions and count_xml
adversarial  completions that try to fool a reward, with the verdict each deserves
validation   validate_rewards: is this reward fit to train on?
cost         how a function's time grows with its input
flawed       rewards that are wrong on purpose: the article's as published, one that can be farmed
models       find_weights, load_policy, lora_config
memory       what a configuration needs, before it is run
objective    advantages, ratio, clip, KL and averages in plain torch
sampling     completions without repeated work
trainer      TRL's GRPOTrainer with each prompt run once
training     grpo_config, make_trainer, train with safe resume, history
callbacks    progress, a clean stop, the same questions asked during training, a live figure
doctor       diagnose(history) → findings; DoctorCallback stops a run that cannot learn
adapters     a trained adapter found, loaded, merged, described in a model card, pushed
trial        one run for a notebook: evaluate, train, evaluate
reward_experiments  the article's rewards and a reward hack, each beside its repair
sick_runs    runs with one thing wrong each, and a healthy one with a KL penalty
recipes      reward per minute: our recipe beside TRL's defaults and the article's
evaluation   predictions, strict and flexible accuracy, before beside after, where a gain comes from
statistics   intervals, the paired test, the questions it needs, pass@k
mistakes     what is wrong with a reply: layout, length, arithmetic, or what was calculated
side_by_side  two replies beside each other, the difference marked
plotting     every figure
checks       checks for the exercises
run          the main job, `python -m grpo_helpers`
experiments  experiments recorded in data/runs, `python -m grpo_helpers.experiments`
files        files written whole or not at all
grids        many short runs, one setting varied at a time, for notebook 08
warm_up      supervised training on a few demonstrations, before GRPO
scaling      batch arithmetic of several processes; draws that do not depend on the process
countdown    the worked task of notebook 10
own_task     what any task of one's own needs: replies scored, demonstrations
hosted       Colab and Kaggle made ready, one GPU of several
"""

import os

# TRL and others report each trainer unless told not to before they are imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
