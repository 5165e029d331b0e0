"""Requests and responses, as the OpenAPI document shows them. Responses have no defaults: every key is always there."""
