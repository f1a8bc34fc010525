"""asyncsink in other frameworks: optional extras, which nothing else imports."""
