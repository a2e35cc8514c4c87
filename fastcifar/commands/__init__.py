"""The commands of the command line, a file each.

A command is a dataclass: its fields are its flags, its docstring is its help, `run` is what it does and gives the exit
code. Torch and FFCV are imported when a command runs, so that `--help` is quick.
"""
