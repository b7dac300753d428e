"""Headwaiter's load tester: sends calls at given times, measures from when they were due, and finds capacity."""
