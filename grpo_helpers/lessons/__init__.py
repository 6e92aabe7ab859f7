"""What only some of the notebooks need, a topic a file."""
