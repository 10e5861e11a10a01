"""Chat and fill blanks in the browser: the page, its server on Gradio, and the gate in front of it."""
