"""The demonstration a newcomer runs first: made-up skills, and the story told with them. Only a client of the API."""
