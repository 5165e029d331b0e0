"""SDFT (arXiv 2601.19897) on token ids and hidden states: imports torch, nothing else of ours.

Shapes: B sequences, L tokens of a padded sequence, T loss positions, C of them in a chunk, H hidden, V vocabulary.
"""
