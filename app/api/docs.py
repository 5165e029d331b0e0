"""``/docs``: the API in a browser, by the Swagger UI that is installed beside this service.

Whoever tries a request there types a key into that page, so nobody else gets to say what runs in it, and no network is
needed.
"""

import hashlib
from base64 import b64encode
from importlib.resources import files
from typing import Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

PAGE: Final = "/docs"
_START: Final = """
SwaggerUIBundle({
  url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, layout: "BaseLayout",
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
});
"""
_HTML: Final = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>SDFT service</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{PAGE[1:]}/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="{PAGE[1:]}/swagger-ui-bundle.js"></script>
<script>{_START}</script>
</body>
</html>
"""
_START_SHA256: Final = b64encode(hashlib.sha256(_START.encode()).digest()).decode()
_POLICY: Final = (
    f"default-src 'none'; script-src 'self' 'sha256-{_START_SHA256}'; style-src 'self' 'unsafe-inline'; "
    "img-src data:; connect-src 'self'"
)


def serve_docs(app: FastAPI) -> None:
    """Add the page, which reads ``openapi.json`` beside it, and below it what it is made of."""
    app.add_route(PAGE, _page, include_in_schema=False)
    app.mount(PAGE, StaticFiles(directory=str(files("fastapi_offline") / "static")))


async def _page(_: Request) -> HTMLResponse:
    return HTMLResponse(_HTML, headers={"Content-Security-Policy": _POLICY})
