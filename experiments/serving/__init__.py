"""`serve RUN`: translations over HTTP. Needs the extra `serve` (starlette and uvicorn)."""
