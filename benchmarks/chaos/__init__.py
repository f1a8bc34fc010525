"""asyncsink under kill -9 and in long bad weather: `python -m benchmarks kill`, `python -m benchmarks soak`."""
