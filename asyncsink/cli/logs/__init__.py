"""What a command writes for later and for machines: its log, and the events of a run as JSON lines."""
