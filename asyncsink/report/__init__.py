"""Stage 6 of 6: record. The manifest, the outcomes of a run, and the summary a person reads."""
