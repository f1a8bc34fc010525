"""What a run leaves: outcomes recorded before they are reported, the journal, events and progress."""
