"""The engine for CPUs: the numbers of TRL's GRPOTrainer without its repeated work. `shared_prompts` switches it on."""
