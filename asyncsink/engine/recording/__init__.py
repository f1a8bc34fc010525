"""The records of a run: outcomes, recorded before they are reported; the journal, events and progress."""
