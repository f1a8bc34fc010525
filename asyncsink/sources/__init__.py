"""Stage 1 of 6: discover. Each source is a blocking iterator that the engine runs in a reader thread, in batches."""
