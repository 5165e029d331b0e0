"""Bytes, named by their sha256. Knows nothing of jobs or of HTTP."""
