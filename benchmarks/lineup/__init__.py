"""Who is compared, in what, and under which Python."""
