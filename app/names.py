"""What this package and its programs are called: `app` in a checkout, `glm_app` where a wheel has installed it."""

PACKAGE = __name__.partition(".")[0]
INSTALLED = PACKAGE == "glm_app"
WEB_COMMAND = "glm-web" if INSTALLED else "python web_demo.py"
TERMINAL_COMMAND = "glm-chat" if INSTALLED else "python cli_demo.py"
