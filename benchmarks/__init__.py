"""Timings, checks of whole runs, and the study behind docs/results.md.

Each file with a `main` runs as a module from the root of a checkout, such as
`python -m benchmarks.speed.step_time`; nothing here is installed.
"""
