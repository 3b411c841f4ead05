"""The application with its commands: what `flask` and every WSGI server find."""

import cli
from app import create_app

app = create_app()
cli.init_app(app)
