"""`asyncsink config` and `completion`: what the command takes from its surroundings, and gives to the shell."""
