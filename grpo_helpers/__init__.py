"""The helper module of the GRPO notebook series. Importing it loads nothing heavy.

The way of a question, about 1,200 lines to read in this order:

profiles     Profile, the recipes, detect()
prompts      SYSTEM_PROMPT, XML_COT_FORMAT, build_messages; answers and numbers read back
data         word_problems, get_gsm8k_questions: the questions, in the trainer's columns
models       find_weights, load_policy, lora_config
rewards      the five reward functions and count_xml
training     grpo_config, make_trainer, train with safe resume, history
evaluation   predictions, strict and flexible accuracy, before beside after, where a gain comes from
statistics   intervals, the paired test, the questions it needs, pass@k

The same, faster:

sampling     completions without repeated work
trainer      TRL's GRPOTrainer with each prompt run once

Before training:

probing      prompts compared, lengths, groups without a signal
memory       what a configuration needs
validation   validate_rewards: is this reward fit to train on?
adversarial  completions that try to fool a reward, with the verdict each deserves
flawed       rewards that are wrong on purpose: the article's as published, one that can be farmed
cost         how a function's time grows with its input
warm_up      supervised training on a few demonstrations
own_task     what any task of one's own needs: replies scored, demonstrations
scaling      batch arithmetic of several processes; draws that do not depend on the process

During and after:

callbacks    progress, a clean stop, the same questions asked during training, a live figure
doctor       diagnose(history) → findings; DoctorCallback stops a run that cannot learn
adapters     a trained adapter found, loaded, merged, described in a model card, pushed
mistakes     what is wrong with a reply: layout, length, arithmetic, or what was calculated
side_by_side  two replies beside each other, the difference marked

For the notebooks:

plotting     every figure
checks       checks for the exercises
hosted       Colab and Kaggle made ready, one GPU of several
files        files written whole or not at all

Commands:

run          the main job, `python -m grpo_helpers`
experiments  what is recorded in data/runs, `python -m grpo_helpers.experiments`
"""

import os

# TRL and others report each trainer unless told not to before they are imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
