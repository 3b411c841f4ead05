"""The application with its commands: what `flask` and every WSGI server find."""

import commands
from app import create_app

app = create_app()
commands.init_app(app)
