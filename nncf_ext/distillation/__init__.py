"""Differences between a student and its teacher, and the teacher's answers in a file."""
