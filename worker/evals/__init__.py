"""What a version learnt and what it lost, next to its base, its parent and its teacher. Knows a policy, not a model."""
