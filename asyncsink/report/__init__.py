"""Stage 6 of 6: record. The manifest, the outcomes of a run, and its summary in sentences."""
