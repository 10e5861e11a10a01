"""Chat with a GLM in the browser: `python web_demo.py --help`."""

import sys

from app.programs import web

if __name__ == "__main__":
    sys.exit(web())
