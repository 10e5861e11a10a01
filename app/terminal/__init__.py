"""Chat in the terminal: the prompt, the commands, Markdown on the screen; or answer one message in a pipe."""
