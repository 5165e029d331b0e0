"""The HTTP surface: parse, authorise, call one service function, answer. FastAPI stops here."""
