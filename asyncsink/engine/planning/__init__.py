"""Before anything is sent: the survey of the source, which key is whose, and what is queued in which order."""
