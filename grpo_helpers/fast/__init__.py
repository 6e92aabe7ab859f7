"""A faster engine: the numbers of TRL's GRPOTrainer without its repeated work. `shared_prompts` switches it on."""
