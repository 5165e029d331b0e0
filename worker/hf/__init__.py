"""Transformers and PEFT plumbing: one base as a policy, decoding, checkpoints. The algorithm lives in ``sdft``."""
