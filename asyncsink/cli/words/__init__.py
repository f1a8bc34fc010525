"""The words of a command line that are no options: sources and destinations."""
