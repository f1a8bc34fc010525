"""One module for each command, or for a few that belong together: its words, its flags, and what it runs."""
