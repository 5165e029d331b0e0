"""``/docs``: the API in a browser, by Swagger UI from a CDN: one version, of these bytes or not at all.

Whoever tries a request there types a key into that page, so nobody else gets to say what runs in it.
"""

import hashlib
from base64 import b64encode
from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse

_CDN: Final = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5.35.0/"
# Digests of the files in the package on npm, whose own digest the registry tells.
_SCRIPT_SHA384: Final = "gjRm0bEPMeTmMh5jT2cHccIwCUZSTd8YC+j0d0sXw0MdGEfScduGpSyF3ZSSLkX9"
_STYLE_SHA384: Final = "WlYgdmXYOOBWL5apwjDEZwN+U3HmXSSu5R6V5aGxEcf7z+KuRNwBhoxKVN1i3D5I"
_START: Final = """
SwaggerUIBundle({
  url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, layout: "BaseLayout",
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
});
"""
_PAGE: Final = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>SDFT service</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{_CDN}swagger-ui.css" integrity="sha384-{_STYLE_SHA384}" crossorigin="anonymous">
</head>
<body>
<div id="swagger-ui"></div>
<script src="{_CDN}swagger-ui-bundle.js" integrity="sha384-{_SCRIPT_SHA384}" crossorigin="anonymous"></script>
<script>{_START}</script>
</body>
</html>
"""
_START_SHA256: Final = b64encode(hashlib.sha256(_START.encode()).digest()).decode()
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        f"script-src {_CDN} 'sha256-{_START_SHA256}'",
        f"style-src {_CDN} 'unsafe-inline'",
        "img-src data:",
        "connect-src 'self'",
    )
)


async def page(_: Request) -> HTMLResponse:
    """The page; it reads ``openapi.json`` beside it."""
    return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _POLICY})
