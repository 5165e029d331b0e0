"""Tables and transactions. Knows nothing of HTTP or of training."""
