"""`asyncsink demo`: the whole story on data and a server of its own."""
