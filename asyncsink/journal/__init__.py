"""Stage 6 of 6, before anything is reported: what was published and which uploads are open, kept for the next run."""
