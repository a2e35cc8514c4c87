"""Training: the loop, what it steps with, and what it leaves."""
