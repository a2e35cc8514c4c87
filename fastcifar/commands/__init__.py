"""The commands of the command line, one file per command.

A command is a dataclass: its fields are its flags and their docstrings are the help. Its method `run` does the work and
returns the exit code. torch and FFCV are imported when a command runs, so that `--help` is fast.
"""
