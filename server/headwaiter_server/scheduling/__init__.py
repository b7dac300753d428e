"""What waits, in which order it runs, and on which worker."""
