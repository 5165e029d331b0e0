"""The service: HTTP API, pages, database, storage, and what both processes share.

Never imports torch, transformers, peft or anything from ``worker``.
"""
