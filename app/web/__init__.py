"""Chat and fill blanks in the browser, with Gradio.

`server` starts Gradio, `page` and `fill_page` lay out the two tabs, `chat` and `fill` handle their events, `security`
protects the page and the server, and `wording` has all texts.
"""
