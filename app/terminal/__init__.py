"""Chat in the terminal, or answer one message from a pipe or from --message.

`session` starts the program, `chat` holds the conversation, `commands` runs what begins with a slash, `keyboard` reads
input, `screen`, `markdown` and `wrap` show answers, `files` stores conversations, and `wording` has all texts.
"""
