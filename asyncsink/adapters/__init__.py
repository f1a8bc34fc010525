"""asyncsink in other people's frameworks: optional extras, which nothing else imports."""
