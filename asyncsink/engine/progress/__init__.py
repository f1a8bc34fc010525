"""The progress of a run for people: speed, a snapshot of everything, its lines, and who is shown them."""
