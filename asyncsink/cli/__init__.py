"""The command line: commands, progress, exit codes. The only room that prints and reads the environment for itself."""
