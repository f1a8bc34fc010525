"""Stage 6 of 6, before a report: published objects and open uploads, recorded for the next run."""
