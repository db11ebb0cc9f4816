"""The command line: verbs, and the flags that each takes."""
