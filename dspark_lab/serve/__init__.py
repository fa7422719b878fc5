"""An OpenAI-compatible server: ``make_app(pair)`` is its FastAPI application, ``run`` serves it.

One file an idea: ``schema`` what is said over the wire, ``prompts`` from a request to token ids, ``engine`` the one
thread that decodes, ``answer`` from Rounds to what the client sees, ``guard`` who may ask, ``app`` the routes.
"""

from dspark_lab.serve.app import make_app
from dspark_lab.serve.run import run

__all__ = ["make_app", "run"]
