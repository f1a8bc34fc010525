"""Stage 3 of 6: a bounded queue, a pool of workers, one byte budget, adaptive concurrency."""
