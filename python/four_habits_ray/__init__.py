"""Runs the tasks of `pipeline` on a Ray cluster: one Ray task per task of the protocol, each a process of the program."""
