"""The comparisons of docs/results.md: plan, runs, tables and plots."""
