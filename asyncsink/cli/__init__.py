"""The command line: commands, progress, exit codes. The only room that prints, or reads the environment for itself."""
