"""What a client of the API needs at a terminal: a job's progress, a report, a checked download. Only HTTP."""
