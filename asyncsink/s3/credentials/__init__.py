"""Where credentials come from, when they are renewed, and how they stay out of every message."""
