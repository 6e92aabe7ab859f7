"""Checks for the notebooks' exercises, which stay executable unsolved: the learner's function on small inputs."""
