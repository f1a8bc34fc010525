"""Rounds: servers, data sets, processes that are timed, and what arrived."""
