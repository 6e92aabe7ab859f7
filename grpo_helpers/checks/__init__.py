"""Checks for the notebooks' exercises, a file for each notebook.

A check takes the learner's function, calls it on small inputs and compares.
Notebooks stay executable from top to bottom with every exercise unsolved.
"""
