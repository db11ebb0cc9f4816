"""The command line: the commands (verbs) and their flags."""
