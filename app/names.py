"""Define the names of this package and its programs: `app` in a checkout, `glm_app` when installed from a wheel."""

PACKAGE = __name__.partition(".")[0]
INSTALLED = PACKAGE == "glm_app"
WEB_COMMAND = "glm-web" if INSTALLED else "python web_demo.py"
TERMINAL_COMMAND = "glm-chat" if INSTALLED else "python cli_demo.py"
